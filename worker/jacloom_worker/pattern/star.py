"""Star colourings of symmetric patterns: every entry, or its mirror image, can be told from passes along the colours.

Columns that are neighbours, with an entry in each other's row, have two colours, and no path of four of them has only two. The columns of any two
colours then form stars, and an entry is read off the pass of its star's hub. That is algorithm 4.1 of Gebremedhin, Tarafdar, Manne and Pothen, "New
acyclic and star coloring algorithms with application to computing Hessians" (2007), whose stars are kept here as the hub of each pair of neighbours.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array, triu

from jacloom_worker.pattern.greedy import EFFORT, Colours, Numbers, graph, orders


def star_coloured(pattern: csr_array, effort: int = EFFORT) -> Colours:
    """Returns colours of the columns that have to be computed: the fewest that some orders of them gave.

    Args:
        pattern: Boolean, shape ``(n, n)``, symmetric, rows sorted.
        effort: How many pairs of entries within rows to look at. Largest first is tried in any case.

    Returns:
        Shape ``(n,)``.
    """
    pairs = triu(pattern, 1, format="coo")
    numbers, ends = np.arange(pairs.nnz), np.concatenate([pairs.row, pairs.col])
    # Columns as lines that meet in pairs of neighbours.
    across = csr_array((np.ones(len(ends), bool), (np.tile(numbers, 2), ends)), shape=(pairs.nnz, pattern.shape[0]))
    meeting = graph(across.T.tocsr(), across)
    lengths = np.diff(pattern.indptr).astype(np.int64)
    best = np.full(pattern.shape[0], -1, np.int32)
    of_each, sums = meeting[1].astype(np.int64), (pairs.row + pairs.col).astype(np.int64)
    for number, order in enumerate(orders(meeting), start=1):
        found = _needed(pattern, _star(meeting[0], of_each, sums, order))
        if number == 1 or found.max(initial=-1) < best.max(initial=-1):
            best = found
        # Largest first gives two colours where two are enough.
        if best.max(initial=-1) < 3 or number * int(lengths @ lengths) > effort:
            break
    return best


def _needed(pattern: csr_array, colours: Colours) -> Colours:
    """Returns colours without those that nothing has to be read off, renumbered: where there is no diagonal, one end of each pair is enough."""
    count = int(colours.max(initial=-1)) + 1
    rows, columns = pattern.nonzero()
    needed, mine = np.zeros(count, bool), colours[columns]
    needed[mine[rows == columns]] = True
    if not needed.all():
        _, places, counts = np.unique(rows * np.int64(count) + mine, return_inverse=True, return_counts=True)
        readable = counts[places] == 1
        numbers = csr_array((np.arange(pattern.nnz), pattern.indices, pattern.indptr), pattern.shape)
        mirrored = readable[numbers.T.tocsr().data]
        needed[mine[readable & ~mirrored]] = True
        either = readable & mirrored
        choices = csr_array((np.ones(np.count_nonzero(either), bool), (mine[either], colours[rows[either]])), shape=(count, count))
        # The last colours have the fewest columns, so that they are the ones to drop. What was to be read off them is read off the others then.
        for colour in range(count - 1, -1, -1):
            if not needed[colour]:
                needed[choices.indices[choices.indptr[colour] : choices.indptr[colour + 1]]] = True
    kept = np.append(np.where(needed, np.cumsum(needed) - 1, -1), -1)
    return np.where(np.diff(pattern.indptr) > 0, kept[colours], -1).astype(np.int32)


@njit(cache=True)
def _star(starts: Numbers, pairs: NDArray[np.int64], sums: NDArray[np.int64], order: NDArray[np.intp]) -> Colours:
    """Returns the least colours that columns can have, given those of the columns before them in the order.

    Args:
        starts: Shape ``(n + 1,)``. The pairs of column ``v`` are ``pairs[starts[v]:starts[v + 1]]``.
        pairs: Shape ``(2 * k,)``.
        sums: Shape ``(k,)``: of the two columns of each pair, so that the one tells the other.
        order: Shape ``(n,)``.
    """
    n = len(starts) - 1
    colours, hubs = np.full(n, -1, np.int32), np.full(len(sums), -1, np.int64)
    # Each with the column for which it was last true: colours taken, colours seen around it and in which pair, neighbours looked through.
    taken, seen, treated = np.full(n + 1, -1, np.int64), np.full(n + 1, -1, np.int64), np.full(n, -1, np.int64)
    first = np.full(n + 1, -1, np.int64)
    # Of each column a chain of the pairs whose hub is the other one: looking through all pairs of a dense row, for each neighbour, would be slow.
    chains, after = np.full(n, -1, np.int64), np.full(len(sums), -1, np.int64)
    for v in order:
        for i in range(starts[v], starts[v + 1]):
            w = sums[pairs[i]] - v
            colour = colours[w]
            if colour < 0:
                continue
            taken[colour] = v
            if seen[colour] == v:
                # v becomes the hub of both: their other neighbours may not have its colour.
                for u in (sums[first[colour]] - v, w):
                    if treated[u] != v:
                        treated[u] = v
                        for j in range(starts[u], starts[u + 1]):
                            other = colours[sums[pairs[j]] - u]
                            if other >= 0:
                                taken[other] = v
                continue
            seen[colour], first[colour] = v, pairs[i]
            pair = chains[w]
            while pair >= 0:
                taken[colours[sums[pair] - w]] = v
                pair = after[pair]
        least = 0
        while taken[least] == v:
            least += 1
        colours[v] = least
        for i in range(starts[v], starts[v + 1]):
            w = sums[pairs[i]] - v
            if colours[w] < 0:
                continue
            hub, other = v, first[colours[w]]
            if other == pairs[i]:
                for j in range(starts[w], starts[w + 1]):
                    if pairs[j] != pairs[i] and colours[sums[pairs[j]] - w] == least:
                        hub, other = w, pairs[j]
                        break
            if other != pairs[i]:
                for pair in (pairs[i], other):
                    if hubs[pair] < 0:
                        hubs[pair] = hub
                        leaf = sums[pair] - hub
                        after[pair], chains[leaf] = chains[leaf], pair
    return colours
