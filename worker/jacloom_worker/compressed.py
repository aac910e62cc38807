"""The entries of a pattern, picked from what coloured passes give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from jacloom_graph.tensor import DTYPES, promote
from jacloom_worker.protocol import Part

Passes = Sequence[np.ndarray]
"""What passes give: one ``(count, size)`` per output leaf, or in reverse mode per wrt leaf."""

MOST_PASSES: Final = 256
"""Passes that one tile computes for repairs at most."""
_PATIENCE: Final = 16
"""So many columns, or rows, in a row that alone come out as they were are enough."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair took, and what it left open."""

    passes: int
    doubtful: int
    """Entries that are NaN still, and were not computed alone: others may have made them so."""


def entries(passes: Passes, part: Part, start: int, count: int) -> NDArray[np.inexact]:
    """Returns the entries that some passes yield, one pass after the other.

    Args:
        passes: What they give.
        part: Which entries those are.
        start: The first pass.
        count: How many passes.
    """
    bounds = part.bounds[start : start + count + 1]
    first = bounds[0]
    found = np.empty(bounds[-1] - first, _dtype(passes))
    for number in range(count):
        here = slice(bounds[number] - first, bounds[number + 1] - first)
        _line(passes, number).take(part.lines[bounds[number] : bounds[number + 1]], out=found[here], mode="clip")
    return found


def repair(found: NDArray[np.inexact], part: Part, start: int, width: int, run: Callable[[np.ndarray], Passes], most: int = MOST_PASSES) -> Repair:
    """Computes what is NaN in coloured entries once more, apart from the columns (or rows) that made it so.

    In a pass that sums several columns, an infinite one may spoil its neighbours: where the function multiplies it by zero on the way to their rows,
    that is NaN. Those that are spoilt are computed in smaller groups, and what is spoilt again in yet smaller ones: the many that have no such column
    among them are right at once, and few columns are left to be computed alone. Where the derivative itself is NaN in many places, most of these come
    out as they were: after some in a row that did, no more of that pass are computed, and those left are in doubt. What is infinite is so by itself.

    Args:
        found: What ``entries`` returned; repaired in place.
        part: Which entries these are.
        start: The first of their passes.
        width: How many seeds ``run`` takes.
        run: Computes passes, given colours as ``part.colours``.
        most: How many passes are computed at most.
    """
    bad = np.flatnonzero(np.isnan(found))
    # Of each entry that is NaN, the line to compute, and what to take of it.
    first = int(part.bounds[start])
    lines, across = part.along[first + bad], part.lines[first + bad]
    spoilt = part.colours[lines]
    groups = [np.unique(lines[spoilt == colour]) for colour in np.unique(spoilt)]
    alone = np.zeros(len(bad), bool)
    passes, least = 0, 1
    fruitless = Counter[int]()
    while groups and passes < most:
        # As many as one run takes, so that there are few runs.
        parts = max(least, width // len(groups))
        pieces = [piece for group in groups for piece in np.array_split(group, min(parts, len(group)))][: most - passes]
        groups, least = [], 2
        for batch in (pieces[at : at + width] for at in range(0, len(pieces), width)):
            colours = np.full_like(part.colours, -1)
            for number, piece in enumerate(batch):
                colours[piece] = number
            given = run(colours)
            passes += len(batch)
            for number, piece in enumerate(batch):
                mine = np.flatnonzero(colours[lines] == number)
                found[bad[mine]] = values = _line(given, number).take(across[mine], mode="clip")
                colour = int(part.colours[piece[0]])
                if len(piece) == 1:
                    alone[mine] = True
                    fruitless[colour] = fruitless[colour] + 1 if np.isnan(values).all() else 0
                elif np.isnan(values).any():
                    groups.append(np.unique(lines[mine[np.isnan(values)]]))
        groups = [group for group in groups if fruitless[int(part.colours[group[0]])] < _PATIENCE]
    return Repair(passes, int(np.count_nonzero(np.isnan(found[bad]) & ~alone)))


def _dtype(passes: Passes) -> np.dtype[Any]:
    return DTYPES[promote(*(one.dtype.name for one in passes))]


def _line(passes: Passes, number: int) -> np.ndarray:
    """Returns all that one pass gives, as one line."""
    if len(passes) == 1:
        alone: np.ndarray = passes[0][number]
        return alone
    dtype = _dtype(passes)
    return np.concatenate([one[number].astype(dtype, copy=False) for one in passes])
