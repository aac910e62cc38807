"""Graphs from their parts, for tests of their form."""

from __future__ import annotations

import random

import numpy as np

from jacloom_graph.tree import LEAF, tuple_of
from jacloom_graph.types import Constant, Function, Graph, JvpRule, Node, Rule, Type

F64 = Type("float64")


def function(*nodes: Node, inputs: tuple[Type, ...] = (F64,), outputs: tuple[int, ...] | None = None, name: str = "") -> Function:
    last = len(inputs) + sum(node.result_count for node in nodes) - 1
    return Function(name, inputs, nodes, (last,) if outputs is None else outputs)


def call(index: int, *operands: int) -> Node:
    return Node("call", operands or (0,), {"function": index})


def custom(rule: int, *operands: int) -> Node:
    return Node("custom_call", operands or (0,), {"rule": rule})


def graph(*functions: Function, rules: tuple[Rule, ...] = (), constants: tuple[Constant, ...] = ()) -> Graph:
    entry = functions[0]
    outputs = len(entry.outputs)
    return Graph(functions, rules, constants, tuple_of(len(entry.inputs)), LEAF if outputs == 1 else tuple_of(outputs))


def constant(value: object, dtype: str = "float64", weak: bool = False) -> Constant:
    array = np.asarray(value, dtype)
    return Constant(Type(dtype, array.shape, weak), array)


def wild(source: random.Random, size: int) -> Graph:
    """Returns a graph at random in which functions call later ones, rules refer to any, and much is equal to something else."""

    def node(at: int, values: int) -> Node:
        later = range(at + 1, size)
        match source.randrange(6):
            case 0 if later:
                return call(source.choice(later), source.randrange(values))
            case 1 if later:
                return Node("switch", (0, values - 1), {"branches": tuple(source.choices(later, k=2))})
            case 2:
                return custom(source.randrange(3), source.randrange(values))
            case 3:
                return Node("mul", (values - 1, -1 - source.randrange(6)))
            case _:
                return Node(source.choice(("sin", "cos")), (values - 1,))

    def body(at: int) -> Function:
        return function(*(node(at, 1 + k) for k in range(source.randrange(3) + (2 if at == 0 else 0))))

    rules = tuple(Rule(source.randrange(1, size), (True,), JvpRule(source.randrange(1, size), (0,))) for _ in range(3))
    constants = tuple(constant(source.randrange(3)) for _ in range(6))
    return graph(*(body(at) for at in range(size)), rules=rules, constants=constants)
