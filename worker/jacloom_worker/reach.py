"""Which functions of a graph reach which constants, by calls and by rules."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from jacloom_graph.attrs import AttrKind, flatten
from jacloom_graph.ops import TABLE
from jacloom_graph.types import Graph, JvpRule, Rule, VjpRule


def reaching(graph: Graph, constants: Collection[int]) -> frozenset[int]:
    """Returns the functions that use one of some constants, themselves or through functions and rules that they refer to."""
    operands = {-1 - number for number in constants}
    found = {
        number
        for number, function in enumerate(graph.functions)
        if operands.intersection(function.outputs) or any(operands.intersection(node.operands) for node in function.nodes)
    }
    references = [frozenset(_references(graph, number)) for number in range(len(graph.functions))]
    while True:
        # Rules may point back, so this is repeated until nothing is added.
        grown = found | {number for number, reached in enumerate(references) if found.intersection(reached)}
        if grown == found:
            return frozenset(found)
        found = grown


def _references(graph: Graph, number: int) -> Iterator[int]:
    """Yields the functions that a function refers to directly, those of its rules included."""
    for node in graph.functions[number].nodes:
        for spec in TABLE[node.op].references:
            value = node.attrs.get(spec.name)
            if value is None:
                continue
            targets = flatten(spec, value).ints
            if spec.kind is AttrKind.RULE:
                for target in targets:
                    yield from functions_of(graph.rules[target])
            else:
                yield from targets


def functions_of(rule: Rule) -> Iterator[int]:
    """Yields the functions that a rule consists of, the one it belongs to first."""
    yield rule.function
    match rule.derivative:
        case JvpRule(function, _, transposes):
            yield function
            for transpose in transposes:
                yield transpose.function
        case VjpRule(forward=forward, backward=backward):
            yield forward
            yield backward
        case str():
            return
