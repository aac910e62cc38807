"""Which nodes of a function its outputs depend on, and for how long its values are needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jacloom_graph.ops import TABLE
from jacloom_graph.tensor import INEXACT
from jacloom_graph.types import Function, Node


@dataclass(frozen=True, slots=True)
class Liveness:
    """What evaluating a function node by node need not do."""

    live: frozenset[int]
    """Nodes that outputs depend on."""
    smooth: frozenset[int]
    """Nodes that outputs depend on otherwise than by operations whose derivative is zero everywhere."""
    done: Mapping[int, Sequence[int]]
    """For each node, the values that nothing after it needs."""


def liveness(function: Function) -> Liveness:
    """Returns how a function's outputs depend on its nodes; what nodes do with functions of their own is not looked into."""
    live = _needed(function, lambda node: False)
    last: dict[int, int] = {}
    at = len(function.inputs)
    for index, node in enumerate(function.nodes):
        last |= dict.fromkeys(range(at, at + node.result_count), index)
        at += node.result_count
        if index in live:
            last |= {operand: index for operand in node.operands if operand >= 0}
    done: dict[int, list[int]] = defaultdict(list)
    for value in last.keys() - set(function.outputs):
        done[last[value]].append(value)
    return Liveness(live, _needed(function, _is_flat), done)


def _needed(function: Function, ends: Callable[[Node], bool]) -> frozenset[int]:
    """Returns the nodes that outputs depend on, not followed through nodes at which that ends."""
    firsts, at = [], len(function.inputs)
    for node in function.nodes:
        firsts.append(at)
        at += node.result_count
    wanted, needed = set(function.outputs), set()
    for index, node in reversed(list(enumerate(function.nodes))):
        if not ends(node) and not wanted.isdisjoint(range(firsts[index], firsts[index] + node.result_count)):
            needed.add(index)
            wanted.update(node.operands)
    return frozenset(needed)


def _is_flat(node: Node) -> bool:
    return TABLE[node.op].zero_derivative or (node.op == "convert_element_type" and node.attrs["new_dtype"] not in INEXACT)
