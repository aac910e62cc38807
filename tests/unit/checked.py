"""Graphs that are written to be checked, and what a refusal must be."""

from __future__ import annotations

import numpy as np
import pytest

from jacloom_graph.check import check
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.limits import Limits
from jacloom_graph.types import AttrValue, Constant, Function, Graph, Node, Type

F64 = Type("float64")
SIN = Node("sin", (0,))
CONSTANT = Constant(F64, np.array(1.0))


def function(inputs: int, *nodes: Node, outputs: tuple[int, ...] = (0,)) -> Function:
    return Function("", (F64,) * inputs, nodes, outputs)


def node(op: str, operands: int, results: int = 1, **attrs: AttrValue) -> Node:
    return Node(op, (0,) * operands, attrs, results)


def call(index: int) -> Node:
    return Node("call", (0,), {"function": index})


def refused(bad: Graph, reason: Reason, text: str, limits: Limits | None = None) -> Fault:
    """Returns the fault of a bad graph, after a look at its reason and text."""
    with pytest.raises(Fault, match=text) as caught:
        check(bad, limits or Limits())
    assert caught.value.reason is reason
    assert len(str(caught.value)) < 600
    return caught.value
