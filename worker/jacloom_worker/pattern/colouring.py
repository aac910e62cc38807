"""Colours: which columns or rows of a pattern can be computed together, because no entry of the answer mixes two of them.

Columns of one colour share no row, so one JVP gives all their entries; rows likewise by one VJP. In a symmetric pattern, an entry may be
told as its mirror image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from jacloom_worker.pattern.greedy import EFFORT, Colours, coloured
from jacloom_worker.pattern.star import star_coloured

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


def by_both(pattern: csr_array, alone: Colouring, price: float = 1.0) -> Colouring:
    """Returns a colouring for JVPs and VJPs together that costs less than one direction alone, or else that one.

    A few dense lines make either direction alone as expensive as a dense matrix. Then dense rows are computed as rows and the rest by columns, or the
    other way about. Which lines are dense is found by trying: the first k in order of their length, for some k. It is the direct cover of Coleman and
    Verma, "The efficient computation of sparse Jacobian matrices using automatic differentiation" (1998), whose parts are whole lines.

    Args:
        pattern: Boolean, shape ``(m, n)``.
        alone: The cheaper one of ``by_columns`` and ``by_rows``.
        price: Of a VJP, in JVPs.
    """
    across = pattern.T.tocsr()

    def cost(found: Colouring) -> float:
        return found.forward + price * found.reverse

    def split(wide: bool, count: int, effort: int) -> Colouring:
        if not wide:
            return _split(pattern, count, effort)
        turned = _split(across, count, effort)
        return Colouring(turned.rows, turned.columns)

    bounds = {(False, count): bound for count, bound in _bounds(pattern, 1.0, price)}
    bounds |= {(True, count): bound for count, bound in _bounds(across, price, 1.0)}
    best, least = None, np.inf
    # Most promising first, so that the others need not be coloured at all.
    for dense in sorted(bounds, key=bounds.__getitem__):
        if bounds[dense] < min(least, cost(alone)) and (trial := cost(split(*dense, effort=0))) < least:
            best, least = dense, trial
    return alone if best is None else min(alone, split(*best, effort=EFFORT), key=cost)


def symmetric(pattern: csr_array) -> Colouring:
    """Returns a colouring of the columns of a symmetric pattern that tells every entry or its mirror image, with no more passes than ``by_columns``.

    Args:
        pattern: Boolean, shape ``(n, n)``, symmetric, rows sorted.
    """
    filled = np.diff(pattern.indptr) > 0
    if pattern.nnz == np.count_nonzero(filled) ** 2:  # full, so that each entry is one of a column that shares its pass with no other
        return Colouring(_each(filled), _none(pattern.shape[0]))
    star = Colouring(star_coloured(pattern), _none(pattern.shape[0]))
    # Where entries come in full blocks, mirror images save little, and a greedy star colouring may take more passes than one that ignores them.
    if np.diff(pattern.indptr).max(initial=0) >= star.forward:
        return star
    return min(star, by_columns(pattern), key=lambda found: found.forward)


def _split(pattern: csr_array, count: int, effort: int) -> Colouring:
    """Returns a colouring that computes so many of the longest rows as rows, and the entries of all others by columns."""
    dense = np.zeros(pattern.shape[0], bool)
    dense[_longest(pattern)[:count]] = True
    by_row = _none(pattern.shape[0])
    by_row[dense] = _rows(pattern[dense], effort)
    return Colouring(_columns(pattern[~dense], effort), by_row)


def _bounds(pattern: csr_array, forward: float, reverse: float) -> Iterator[tuple[int, float]]:
    """Gives how many of the longest rows to take for dense, and what that costs at least: up to places where lengths, in falling order, drop most.

    What is left of a row needs as many passes by columns as it has entries, and a column of the dense rows as many by rows.
    """
    order = _longest(pattern)
    lengths = np.diff(pattern.indptr)[order]
    drops = lengths[:-1] - lengths[1:]
    for place in np.argsort(-drops, kind="stable")[:_TRIALS]:
        if drops[place] > 0:
            across = np.bincount(pattern[order[: place + 1]].indices)
            yield int(place) + 1, forward * int(lengths[place + 1]) + reverse * int(across.max())


def _longest(pattern: csr_array) -> NDArray[np.intp]:
    return np.argsort(-np.diff(pattern.indptr), kind="stable")


def _columns(pattern: csr_array, effort: int = EFFORT) -> Colours:
    alone = _alone(np.diff(pattern.indptr), np.bincount(pattern.indices, minlength=pattern.shape[1]))
    return coloured(pattern.T.tocsr(), pattern, effort) if alone is None else alone


def _rows(pattern: csr_array, effort: int = EFFORT) -> Colours:
    alone = _alone(np.bincount(pattern.indices, minlength=pattern.shape[1]), np.diff(pattern.indptr))
    return coloured(pattern, pattern.T.tocsr(), effort) if alone is None else alone


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
    return _each(filled)


def _each(filled: NDArray[np.bool_]) -> Colours:
    """Returns a colour of its own for each line that has entries."""
    colours = _none(len(filled))
    colours[filled] = np.arange(np.count_nonzero(filled), dtype=np.int32)
    return colours


def _none(count: int) -> Colours:
    return np.full(count, -1, np.int32)
