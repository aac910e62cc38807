"""Which nodes of a graph lead to each of its functions: calls, loops and branches, and the rules that belong to them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from jacloom_graph.attrs import REFERENCES, AttrKind
from jacloom_graph.ops import TABLE
from jacloom_graph.types import Graph, JvpRule, Node, Rule, VjpRule

At = tuple[int, int]
"""A node: its function, and its number there."""


def callers(graph: Graph) -> Mapping[int, Sequence[At]]:
    """Returns for each function the nodes that refer to it, by themselves or by their rule."""
    found: dict[int, list[At]] = defaultdict(list)
    for number, function in enumerate(graph.functions):
        for index, node in enumerate(function.nodes):
            for callee in functions_of(graph, node):
                found[callee].append((number, index))
    return found


def lines(function: int, called_from: Mapping[int, Sequence[At]], line_of: Callable[[At], str | None]) -> list[str]:
    """Returns the lines that lead to a function: of each way to it the one that is known and nearest.

    Args:
        function: The function.
        called_from: As ``callers`` returns it.
        line_of: Returns a node's line, if it is known.
    """
    found: dict[str, None] = {}
    seen, waiting = {function}, [function]
    while waiting:
        for at in called_from.get(waiting.pop(), ()):
            line = line_of(at)
            if line is not None:
                found[line] = None
            elif at[0] not in seen:
                seen.add(at[0])
                waiting.append(at[0])
    return list(found)


def functions_of(graph: Graph, node: Node) -> Iterator[int]:
    """Yields the functions that a node refers to."""
    op = TABLE[node.op]
    for name, value in node.attrs.items():
        kind = op.specs[name].kind
        if kind not in REFERENCES or value is None:
            continue
        if kind is AttrKind.RULE:
            assert isinstance(value, int)
            yield from _of_rule(graph.rules[value])
        elif isinstance(value, tuple):
            yield from (each for each in value if isinstance(each, int))
        elif isinstance(value, int):
            yield value


def _of_rule(rule: Rule) -> Iterator[int]:
    yield rule.function
    match rule.derivative:
        case JvpRule(function, _, transposes):
            yield function
            yield from (transpose.function for transpose in transposes)
        case VjpRule(forward=forward, backward=backward):
            yield from (forward, backward)
        case str():
            return
