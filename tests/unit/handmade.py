"""Graphs written by hand, tasks for an engine that has them, and what its answers must be."""

from __future__ import annotations

from typing import Any

import numpy as np

from jacloom_graph import identity, wire
from jacloom_graph.errors import Fault
from jacloom_graph.tree import LEAF, tuple_of
from jacloom_graph.types import AttrValue, Constant, Function, Graph, Node, Rule, Type, VjpRule
from jacloom_worker.protocol import Answer, Done, Kernel, Kind, Load, Task

VECTOR, SCALAR = Type("float64", (4,)), Type("float64")
X = np.array([0.5, -1.0, 2.0, 0.25])
W = np.linspace(-1, 1, 12).reshape(3, 4)


def node(op: str, *operands: int, results: int = 1, **attrs: AttrValue) -> Node:
    return Node(op, operands, attrs, result_count=results)


def graph(*functions: Function, rules: tuple[Rule, ...] = (), constants: tuple[Constant, ...] = ()) -> Graph:
    entry = functions[0]
    outputs = len(entry.outputs)
    return Graph(functions, rules, constants, tuple_of(len(entry.inputs)), LEAF if outputs == 1 else tuple_of(outputs))


def single(inputs: tuple[Type, ...], nodes: tuple[Node, ...], outputs: tuple[int, ...], constants: tuple[Constant, ...] = ()) -> Graph:
    return graph(Function("entry", inputs, nodes, outputs), constants=constants)


def inline(array: np.ndarray) -> Constant:
    return Constant(Type(array.dtype.name, array.shape), array)


def layer(weights: Constant) -> Graph:
    """Returns ``x -> tanh(W x)``."""
    return single((VECTOR,), (node("dot_general", -1, 0, lhs_contracting=(1,), rhs_contracting=(0,)), node("tanh", 1)), (2,), (weights,))


LAYER = layer(inline(W))
"""Outputs: float64[3]. Its Jacobian at X is JACOBIAN."""
JACOBIAN = (1 - np.tanh(W @ X) ** 2)[:, None] * W
PRODUCT = single((VECTOR, Type("int32")), (node("reduce_prod", 0, axes=(0,)), node("add", 1, 1)), (2, 3))
"""Outputs: the product of four numbers, and twice the integer."""
DOUBLING = graph(
    Function("entry", (SCALAR,), (node("while", 0, cond=1, body=2),), (1,)),
    Function("cond", (SCALAR,), (node("lt", 0, -1),), (1,)),
    Function("body", (SCALAR,), (node("mul", 0, -2),), (1,)),
    constants=(inline(np.array(100.0)), inline(np.array(2.0))),
)
"""Doubles a number until it reaches a hundred, in a number of steps that depends on it."""
REVERSE_ONLY = graph(
    Function("entry", (SCALAR,), (node("custom_call", 0, rule=0),), (1,)),
    Function("cube", (SCALAR,), (node("integer_pow", 0, y=3),), (1,)),
    Function("forward", (SCALAR,), (node("integer_pow", 0, y=3),), (0, 1)),
    Function("backward", (SCALAR, SCALAR), (node("mul", 0, 1),), (2,)),
    rules=(Rule(1, (True,), VjpRule(2, 3, (0,))),),
)
"""Cubes a number; by its custom rule the derivative at x is x."""
REVERSE_TWICE = graph(
    Function("entry", (SCALAR,), (node("custom_call", 0, rule=0), node("integer_pow", 1, y=2)), (2,)),
    Function("cube", (SCALAR,), (node("integer_pow", 0, y=3),), (1,)),
    Function("forward", (SCALAR,), (node("custom_call", 0, rule=0),), (0, 1)),
    Function("backward", (SCALAR, SCALAR), (node("mul", 0, 1),), (2,)),
    rules=(Rule(1, (True,), VjpRule(2, 3, (0,))),),
)
"""The square of the same; the rule calls the function again, so that its derivative 2 x^4 at x has no JVP, only a VJP."""


def load_of(graph: Graph) -> Load:
    blobs = {constant.blob: constant.data.tobytes() for constant in graph.constants if constant.blob and constant.data is not None}
    return Load(wire.to_bytes(graph), blobs)


def task(graph: Graph, kind: Kind, *, start: int = 0, count: int = 0, load: bool = True, **options: Any) -> Task:
    """Returns a task with respect to the first input and output, unless ``options`` of the kernel say otherwise."""
    options = {"wrt": (0,), "outputs": (0,)} | options
    kernel = Kernel(identity.graph_id(graph), kind, **options)
    return Task(kernel, load_of(graph) if load else None, start=start, count=count)


def arrays(answer: Answer) -> tuple[np.ndarray, ...]:
    assert isinstance(answer, Done), answer
    return answer.arrays


def fault(answer: object) -> Fault:
    assert isinstance(answer, Fault), answer
    return answer
