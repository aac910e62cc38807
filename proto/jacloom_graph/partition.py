"""The coarsest partition of the states of a finite automaton that its transitions respect."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def coarsest(kinds: Sequence[Hashable], edges: Sequence[Sequence[int]]) -> list[int]:
    """Returns for each state the number of its class. Which number a class has means nothing.

    There are as few classes as possible such that states of one class are of one kind and their edges, taken in order, lead into the same
    classes. Takes O(e log n) steps for n states and e edges, whatever their shape.

    Algorithm:
        J. Hopcroft, "An n log n algorithm for minimizing states in a finite automaton", 1971. A class is split by where the edges into a
        *splitter* start. Of its parts, all but the largest become splitters in turn: what that one would tell apart, the whole and the
        others have told already.

    Args:
        kinds: What each state is by itself. States of one kind must have equally many edges.
        edges: For each state the states that its edges lead to, in order. They may form cycles.
    """
    number: dict[Hashable, int] = {}
    class_of = [number.setdefault(kind, len(number)) for kind in kinds]
    members: list[set[int]] = [set() for _ in number]
    incoming: list[list[tuple[int, int]]] = [[] for _ in kinds]
    for state, targets in enumerate(edges):
        members[class_of[state]].add(state)
        for position, target in enumerate(targets):
            incoming[target].append((state, position))
    splitters = set(range(len(members)))
    while splitters:
        for split, parts in _cuts(members[splitters.pop()], incoming, class_of).items():
            if sum(map(len, parts)) == len(members[split]):
                parts.pop()  # one part stays behind, where nothing else would
            family = [split]
            for part in parts:
                members[split].difference_update(part)
                for state in part:
                    class_of[state] = len(members)
                family.append(len(members))
                members.append(set(part))
            if split not in splitters:
                family.remove(max(family, key=lambda part: len(members[part])))
            splitters.update(family)
    return class_of


def _cuts(splitter: set[int], incoming: Sequence[Sequence[tuple[int, int]]], class_of: Sequence[int]) -> dict[int, list[list[int]]]:
    """Returns, by class, the states with edges into a splitter, those apart that have other edges into it."""
    positions: dict[int, list[int]] = {}
    for target in splitter:
        for state, position in incoming[target]:
            positions.setdefault(state, []).append(position)
    groups: dict[tuple[int, ...], list[int]] = {}
    for state, at in positions.items():
        groups.setdefault((class_of[state], *sorted(at)), []).append(state)
    cuts: dict[int, list[list[int]]] = {}
    for (split, *_), states in groups.items():
        cuts.setdefault(split, []).append(states)
    return cuts
