"""Colours: which columns or rows of a pattern can be computed together, because no entry of the answer mixes two of them.

Columns of one colour share no row, so one JVP gives all their entries; rows likewise by one VJP. Greedy colourings are asdex's, which follow
Gebremedhin, Manne and Pothen, "What Color Is Your Jacobian?" (2005): partial distance-2 colouring (algorithm 3.2), largest first, and star colouring
for symmetric patterns (algorithm 4.1 of Gebremedhin, Tarafdar, Manne and Pothen, 2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from asdex.coloring import color_cols, color_rows, color_symmetric
from numpy.typing import NDArray
from scipy.sparse import csr_array

Colours: TypeAlias = NDArray[np.int32]
"""A colour for each column, or for each row; -1 for those that no pass computes."""

_MUCH_WORK = 1 << 27
"""Pairs of entries within a line that colouring looks at in about half a second."""
_TRIALS = 12
"""How many numbers of dense lines are tried in search of the fewest passes."""


@dataclass(frozen=True, slots=True)
class Colouring:
    """Passes that give every entry of a pattern."""

    columns: Colours
    """Shape ``(n,)``. Colour ``c`` is JVP number ``c``."""
    rows: Colours
    """Shape ``(m,)``. Colour ``c`` is VJP number ``c``."""

    @property
    def forward(self) -> int:
        """How many JVPs there are."""
        return int(self.columns.max(initial=-1)) + 1

    @property
    def reverse(self) -> int:
        """How many VJPs there are."""
        return int(self.rows.max(initial=-1)) + 1


def by_columns(pattern: csr_array) -> Colouring:
    """Returns a colouring of the columns, for JVPs alone."""
    return Colouring(_columns(pattern), _none(pattern.shape[0]))


def by_rows(pattern: csr_array) -> Colouring:
    """Returns a colouring of the rows, for VJPs alone."""
    return Colouring(_none(pattern.shape[1]), _rows(pattern))


def by_both(pattern: csr_array, price: float = 1.0) -> Colouring:
    """Returns a colouring for JVPs and VJPs together: dense rows are computed as rows, the rest by columns, or the other way about.

    A few dense lines make either direction alone as expensive as a dense matrix. Which lines are dense is found by trying: the first k in order of
    their length, for some k. It is the direct cover of Coleman and Verma, "The efficient computation of sparse Jacobian matrices using automatic
    differentiation" (1998), whose parts are whole lines.

    Args:
        pattern: Boolean, shape ``(m, n)``.
        price: Of a VJP, in JVPs.
    """
    tall, wide = _cover(pattern, 1.0, price), _cover(pattern.T.tocsr(), price, 1.0)
    return min(tall, Colouring(wide.rows, wide.columns), key=lambda found: found.forward + price * found.reverse)


def symmetric(pattern: csr_array) -> Colouring:
    """Returns a colouring of the columns of a symmetric pattern that tells every entry or its mirror image, with fewer passes than ``by_columns``.

    Args:
        pattern: Boolean, shape ``(n, n)``, symmetric.
    """
    colours = _packed(color_symmetric(_places(pattern))[0]) if pattern.nnz else _none(pattern.shape[0])
    return Colouring(colours, _none(pattern.shape[0]))


def _cover(pattern: csr_array, forward: float, reverse: float) -> Colouring:
    """Returns the cheapest cover of a pattern found by some number of dense rows, computed as rows, and columns for the others."""
    lengths = np.diff(pattern.indptr)
    order = np.argsort(-lengths, kind="stable")
    best, least = Colouring(_none(pattern.shape[1]), _none(pattern.shape[0])), np.inf
    # A row of so many entries needs as many passes by columns: most promising first, so that the others need not be coloured at all.
    bounds = {count: forward * lengths[order[count:]].max(initial=0) + reverse * min(count, 1) for count in _counts(lengths[order])}
    for count in sorted(bounds, key=bounds.__getitem__):
        if bounds[count] < least:
            found = _split(pattern, order[:count])
            cost = forward * found.forward + reverse * found.reverse
            if cost < least:
                best, least = found, cost
    return best


def _split(pattern: csr_array, rows: NDArray[np.intp]) -> Colouring:
    """Returns a colouring that computes some rows as rows, and the entries of all others by columns."""
    dense = np.zeros(pattern.shape[0], bool)
    dense[rows] = True
    by_row = _none(pattern.shape[0])
    by_row[dense] = _rows(pattern[dense])
    rest = pattern[~dense]
    by_column = _columns(rest)
    by_column[np.bincount(rest.indices, minlength=pattern.shape[1]) == 0] = -1
    return Colouring(_packed(by_column), by_row)


def _counts(lengths: NDArray[np.int32]) -> list[int]:
    """Returns how many of the longest rows to take for dense: up to places where lengths, in falling order, drop most."""
    drops = lengths[:-1] - lengths[1:]
    places = np.argsort(-drops, kind="stable")[:_TRIALS]
    return [0, *sorted(int(place) + 1 for place in places if drops[place] > 0)]


def _columns(pattern: csr_array) -> Colours:
    alone = _alone(np.diff(pattern.indptr), np.bincount(pattern.indices, minlength=pattern.shape[1]))
    return color_cols(_places(pattern))[0].astype(np.int32) if alone is None else alone


def _rows(pattern: csr_array) -> Colours:
    alone = _alone(np.bincount(pattern.indices, minlength=pattern.shape[1]), np.diff(pattern.indptr))
    return color_rows(_places(pattern))[0].astype(np.int32) if alone is None else alone


def _alone(across: NDArray[np.integer], along: NDArray[np.integer]) -> Colours | None:
    """Returns a colour of its own for each line that has entries, where that is all that can be done, or nearly, and far quicker; else None.

    Args:
        across: How many entries each line has that the coloured ones meet.
        along: How many each of the coloured lines has.
    """
    filled = along > 0
    count, bound = np.count_nonzero(filled), int(across.max(initial=0))
    work = int(np.square(across, dtype=np.int64).sum())
    if bound < count and (2 * bound < count or work < _MUCH_WORK):
        return None
    colours = _none(len(along))
    colours[filled] = np.arange(count, dtype=np.int32)
    return colours


def _none(count: int) -> Colours:
    return np.full(count, -1, np.int32)


def _packed(colours: NDArray[np.int32]) -> Colours:
    """Returns colours renumbered from zero without gaps; -1 stays."""
    used, places = np.unique(colours, return_inverse=True)
    return (places - np.count_nonzero(used < 0)).astype(np.int32)


@dataclass(frozen=True, slots=True)
class _Places:
    """What colourings look at of a pattern. asdex's own class makes a JAX array of the places, too, and that compiles anew for each size."""

    m: int
    n: int
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]


def _places(pattern: csr_array) -> Any:
    found = pattern.tocoo()
    m, n = pattern.shape
    return _Places(m, n, found.row.astype(np.int32), found.col.astype(np.int32))
