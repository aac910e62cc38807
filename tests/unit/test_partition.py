"""The coarsest partition, against examples worked by hand and against the definition."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from jacloom_graph.partition import coarsest


def groups(classes: list[int]) -> set[frozenset[int]]:
    members: dict[int, set[int]] = {}
    for state, number in enumerate(classes):
        members.setdefault(number, set()).add(state)
    return {frozenset(each) for each in members.values()}


def by_definition(kinds: list[int], edges: list[list[int]]) -> set[frozenset[int]]:
    """Moore's algorithm: split by where all edges lead until nothing splits any more."""
    classes = list(kinds)
    for _ in kinds:
        number: dict[tuple[int, ...], int] = {}
        classes = [number.setdefault((classes[state], *(classes[target] for target in targets)), len(number)) for state, targets in enumerate(edges)]
    return groups(classes)


@st.composite
def automata(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    count = draw(st.integers(1, 14))
    arity = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    kinds = draw(st.lists(st.integers(0, len(arity) - 1), min_size=count, max_size=count))
    states = st.integers(0, count - 1)
    return kinds, [draw(st.lists(states, min_size=arity[kind], max_size=arity[kind])) for kind in kinds]


@given(automata())
def test_it_is_the_partition_of_the_definition(automaton: tuple[list[int], list[list[int]]]) -> None:
    kinds, edges = automaton
    assert groups(coarsest(kinds, edges)) == by_definition(kinds, edges)


def test_by_hand() -> None:
    assert coarsest([], []) == []
    assert groups(coarsest("aab", [[], [], []])) == {frozenset({0, 1}), frozenset({2})}
    # Two cycles of different length, alike all the way round, are one state.
    assert groups(coarsest("aaaaa", [[1], [0], [3], [4], [2]])) == {frozenset(range(5))}
    # One odd state in the second cycle tells all apart from the first, each by its distance to it.
    assert groups(coarsest("aaaab", [[1], [0], [3], [4], [2]])) == {frozenset({0, 1}), frozenset({2}), frozenset({3}), frozenset({4})}
    # The order of edges matters.
    assert groups(coarsest("aabc", [[2, 3], [3, 2], [], []])) == {frozenset({0}), frozenset({1}), frozenset({2}), frozenset({3})}


def test_the_worst_shapes_are_fast() -> None:
    """A chain splits one state at a time, and one state has edges to all of it: going round by round would take n * e = 10^8 steps."""
    count = 2000
    edges = [[state + 1] for state in range(count - 2)] + [[count - 2]] + [list(range(count - 1)) * 25]
    kinds = ["link"] * (count - 2) + ["end", "hub"]
    began = time.perf_counter()
    assert len(set(coarsest(kinds, edges))) == count
    assert time.perf_counter() - began < 5
