"""Functions written down by hand as graphs, with what they compute in NumPy beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jacloom_graph import wire
from jacloom_graph.types import Constant, Function, Graph, Node, Rule, Tree, TreeKind, Type, VjpRule

LEAF = Tree(TreeKind.LEAF)
WEIGHTS = np.array([[1.0, -2.0, 0.5], [0.25, 3.0, -1.0]])


def vector(n: int, dtype: str = "float64") -> Type:
    return Type(dtype, (n,))


def array(values: np.ndarray) -> Constant:
    return Constant(Type(values.dtype.name, values.shape), values)


def graph(
    inputs: Sequence[Type],
    nodes: Sequence[Node],
    outputs: Sequence[int],
    *,
    others: Sequence[Function] = (),
    rules: Sequence[Rule] = (),
    constants: Sequence[Constant] = (),
) -> Graph:
    entry = Function("f", tuple(inputs), tuple(nodes), tuple(outputs))
    out = LEAF if len(outputs) == 1 else Tree(TreeKind.TUPLE, (LEAF,) * len(outputs))
    tree = Tree(TreeKind.TUPLE, (LEAF,) * len(inputs))
    return Graph((entry, *others), tuple(rules), tuple(constants), tree, out)


def dot(matrix: int, vector: int) -> Node:
    return Node("dot_general", (matrix, vector), {"lhs_contracting": (1,), "rhs_contracting": (0,)})


def lecture() -> Graph:
    """``f(x1, x2) = (x1^2 x2, 5 x1 + sin x2)``: two scalar leaves in, two out. At (2, 0) the Jacobian is [[0, 4], [5, 1]]."""
    scalar = Type("float64")
    five = array(np.array(5.0))
    nodes = (Node("mul", (0, 0)), Node("mul", (2, 1)), Node("mul", (-1, 0)), Node("sin", (1,)), Node("add", (4, 5)))
    return graph((scalar, scalar), nodes, (3, 6), constants=(five,))


def mixed() -> Graph:
    """``f(x, s, k) = (s tanh(W x), sum x^2, k)`` with ``x (3,)``, ``s ()`` and ``k (2,)`` int32."""
    nodes = (dot(-1, 0), Node("tanh", (3,)), Node("broadcast_in_dim", (1,), {"shape": (2,)}), Node("mul", (4, 5)), *squares(0, 7))
    return graph((vector(3), Type("float64"), vector(2, "int32")), nodes, (6, 8, 2), constants=(array(WEIGHTS),))


def squares(value: int, at: int) -> tuple[Node, Node]:
    """Returns the nodes of ``sum x^2``; ``at`` is the number of the first of their values."""
    return Node("mul", (value, value)), Node("reduce_sum", (at,), {"axes": (0,)})


def cubes(n: int) -> Graph:
    """``f(x) = sum x^3``: gradient 3 x^2, Hessian diag(6 x)."""
    nodes = (Node("mul", (0, 0)), Node("mul", (1, 0)), Node("reduce_sum", (2,), {"axes": (0,)}))
    return graph((vector(n),), nodes, (3,))


def linear(matrix: np.ndarray, dtype: str = "float64") -> Graph:
    """``f(x) = A x``."""
    return graph((vector(matrix.shape[1], dtype),), (dot(-1, 0),), (1,), constants=(array(matrix.astype(dtype)),))


def doubling(n: int) -> Graph:
    """Doubles n numbers until their sum is at least a hundred, and sums them: how often depends on them."""
    nodes = (Node("while", (0,), {"cond": 1, "body": 2}), Node("reduce_sum", (1,), {"axes": (0,)}))
    cond = Function("cond", (vector(n),), (Node("reduce_sum", (0,), {"axes": (0,)}), Node("lt", (1, -1))), (2,))
    body = Function("body", (vector(n),), (Node("add", (0, 0)),), (1,))
    return graph((vector(n),), nodes, (2,), others=(cond, body), constants=(array(np.array(100.0)),))


def sine(n: int, dtype: str = "float64") -> Graph:
    """``f(x) = sin x``."""
    return graph((vector(n, dtype),), (Node("sin", (0,)),), (1,))


def decay(n: int, steps: int) -> Graph:
    """``f(x)``: ``steps`` times ``x <- x + 1e-6 sin x``, one after the other; takes as long as one likes."""
    small = array(np.full(n, 1e-6))
    body = Function("step", (vector(n),), (Node("sin", (0,)), Node("mul", (1, -1)), Node("add", (0, 2))), (3,))
    loop = Node("scan", (0,), {"function": 1, "length": steps, "num_carry": 1})
    return graph((vector(n),), (loop,), (1,), others=(body,), constants=(small,))


def rows_only(n: int) -> Graph:
    """``f(x) = sin x`` with a reverse rule that says the derivative is 7, and no forward rule."""
    seven = array(np.full(n, 7.0))
    body = Function("sin", (vector(n),), (Node("sin", (0,)),), (1,))
    forward = Function("forward", (vector(n),), (Node("sin", (0,)),), (1,))
    backward = Function("backward", (vector(n),), (Node("mul", (0, -1)),), (1,))
    rule = Rule(1, (True,), VjpRule(2, 3, (0,)))
    return graph((vector(n),), (Node("custom_call", (0,), {"rule": 0}),), (1,), others=(body, forward, backward), rules=(rule,), constants=(seven,))


def serialized(made: Graph) -> bytes:
    return wire.to_bytes(made)
