"""Greedy colourings of the lines of a pattern: no two lines of a colour meet in an entry across.

A greedy colouring takes lines in some order and gives each the least colour that no line has which it meets (Gebremedhin, Manne and Pothen, "What
Color Is Your Jacobian?", 2005, algorithm 3.2). How many colours that takes depends on the order, and none is best for all patterns. So several are
tried, and every colouring is done again, its last colour first, which never takes more and often fewer (Culberson, "Iterated greedy graph coloring
and the difficulty landscape", 1992).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array

Colours: TypeAlias = NDArray[np.int32]
"""A colour for each line, from 0 on; -1 for those that no pass computes."""

EFFORT: Final = 1 << 26
"""Pairs of entries within lines across that all tries together look at, or little more: about a quarter of a second."""

Numbers: TypeAlias = NDArray[np.int32]
Graph: TypeAlias = tuple[Numbers, Numbers, Numbers, Numbers]
"""For each line where its entries begin, and what is across there; then the same seen from across."""


def coloured(lines: csr_array, across: csr_array, effort: int = EFFORT) -> Colours:
    """Returns colours of the lines that have entries: the fewest that were found.

    Args:
        lines: Boolean, shape ``(m, n)``: its rows are coloured.
        across: The same transposed, shape ``(n, m)``.
        effort: How many pairs of entries to look at. Largest first is tried in any case.

    Returns:
        Shape ``(m,)``.
    """
    meeting = graph(lines, across)
    lengths = np.diff(across.indptr).astype(np.int64)
    # Lines that meet in one across all differ.
    least, pairs = int(lengths.max(initial=0)), int(lengths @ lengths)
    best = np.full(lines.shape[0], -1, np.int32)
    if pairs == 0:
        return best
    for number, found in enumerate(_tries(meeting), start=1):
        if number == 1 or found.max() < best.max():
            best = found
        if best.max() < least or number * pairs > effort:
            break
    return best


def graph(lines: csr_array, across: csr_array) -> Graph:
    """Returns which lines meet, of a pattern and the same transposed."""
    places = (lines.indptr, lines.indices, across.indptr, across.indices)
    starts, columns, ends, rows = (each.astype(np.int32, copy=False) for each in places)
    return starts, columns, ends, rows


def _tries(meeting: Graph) -> Iterator[Colours]:
    """Gives a colouring by each order, then what comes of them, that of fewest colours first, for as long as colours are saved."""
    made: list[Colours] = []
    for order in orders(meeting):
        made.append(_greedy(*meeting, order))
        yield made[-1]
    for found in sorted(made, key=np.max):
        saved = True
        while saved:
            again = _greedy(*meeting, _descending(found))
            yield again
            saved = bool(again.max() < found.max())
            found = again


def orders(meeting: Graph) -> Iterator[NDArray[np.intp]]:
    """Gives orders of the lines, most promising first: by how many others each meets, of all or of those that are left, and as they are."""
    met = _met(*meeting)
    yield _descending(met)
    yield _smallest_last(*meeting, met)
    yield np.arange(len(met))


def _descending(numbers: NDArray[np.int32]) -> NDArray[np.intp]:
    """Returns the places of numbers from -1 on, greatest first, and of equal ones the first first."""
    most = int(numbers.max(initial=0))
    # Short integers are sorted in one pass over them.
    return np.argsort((most - numbers).astype(np.min_scalar_type(most + 1)), kind="stable")


@njit(cache=True)
def _met(starts: Numbers, columns: Numbers, ends: Numbers, rows: Numbers) -> NDArray[np.int32]:
    """Returns how many others each line meets."""
    m = len(starts) - 1
    found, seen = np.zeros(m, np.int32), np.full(m, -1, np.int32)
    for v in range(m):
        seen[v] = v
        for i in range(starts[v], starts[v + 1]):
            for j in range(ends[columns[i]], ends[columns[i] + 1]):
                if seen[rows[j]] != v:
                    seen[rows[j]] = v
                    found[v] += 1
    return found


@njit(cache=True)
def _greedy(starts: Numbers, columns: Numbers, ends: Numbers, rows: Numbers, order: NDArray[np.intp]) -> Colours:
    """Returns the least colours that lines can have, given those of the lines before them in the order."""
    m = len(starts) - 1
    colours, taken = np.full(m, -1, np.int32), np.full(m + 1, -1, np.int32)
    for v in order:
        if starts[v] == starts[v + 1]:
            continue
        for i in range(starts[v], starts[v + 1]):
            for j in range(ends[columns[i]], ends[columns[i] + 1]):
                colour = colours[rows[j]]
                if colour >= 0:
                    taken[colour] = v
        least = 0
        while taken[least] == v:
            least += 1
        colours[v] = least
    return colours


@njit(cache=True)
def _smallest_last(starts: Numbers, columns: Numbers, ends: Numbers, rows: Numbers, met: NDArray[np.int32]) -> NDArray[np.intp]:
    """Returns the order in which every line meets the fewest of those before it and itself (Matula and Beck, 1983)."""
    m = len(starts) - 1
    left = met.copy()  # of the lines that each meets, those without a place in the order
    # Lines that meet equally many are a chain of their own, so that moving a line to the next one takes no search.
    first, after, before = np.full(max(m, 1), -1, np.int32), np.full(m, -1, np.int32), np.full(m, -1, np.int32)
    for v in range(m - 1, -1, -1):
        after[v] = first[left[v]]
        if after[v] >= 0:
            before[after[v]] = v
        first[left[v]] = v
    order, seen, least = np.empty(m, np.intp), np.full(m, -1, np.int32), 0
    for place in range(m - 1, -1, -1):
        while first[least] < 0:
            least += 1
        v = first[least]
        first[least] = after[v]
        if after[v] >= 0:
            before[after[v]] = -1
        order[place], left[v] = v, -1
        for i in range(starts[v], starts[v + 1]):
            for j in range(ends[columns[i]], ends[columns[i] + 1]):
                w = rows[j]
                if left[w] < 0 or seen[w] == v:
                    continue
                seen[w] = v
                if before[w] >= 0:
                    after[before[w]] = after[w]
                else:
                    first[left[w]] = after[w]
                if after[w] >= 0:
                    before[after[w]] = before[w]
                left[w] -= 1
                before[w], after[w] = -1, first[left[w]]
                if after[w] >= 0:
                    before[after[w]] = w
                first[left[w]] = w
                least = min(least, left[w])
    return order
