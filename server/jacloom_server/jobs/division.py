"""How a job is cut into units: some points each, or some seeds of one point. Plain functions on plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from jacloom_worker.unit import Unit

UNIT_SECONDS: Final = 0.5
"""About how long a unit should take: an interactive call waits for one, and what dies with a worker is one."""
CHUNK_BYTES: Final = 32 << 20
"""Most bytes of one unit's results, unless those of a single point or a single seed are more."""
UNITS_A_WORKER: Final = 4
"""Units for each worker at least, where there are as many points: else the last of them would leave the others idle."""


@dataclass(frozen=True, slots=True)
class Division:
    """The units of a job, by number."""

    points: int
    count: int
    """Points of a unit; the last one may have fewer."""
    slabs: tuple[tuple[int, int], ...] = ()
    """Where a unit is some seeds of one point: all ranges ``(start, seeds)``. Then ``count`` is 1."""

    @property
    def units(self) -> int:
        """How many there are."""
        return self.points * len(self.slabs) if self.slabs else math.ceil(self.points / self.count)

    def unit(self, number: int) -> Unit:
        """Returns a unit by its number: those of one point follow one another."""
        if self.slabs:
            point, at = divmod(number, len(self.slabs))
            return Unit(number, point, 1, *self.slabs[at])
        first = number * self.count
        return Unit(number, first, min(self.count, self.points - first))

    def units_of(self, first: int, count: int) -> range:
        """Returns the numbers of all units that have something of a range of points."""
        if not count:
            return range(0)
        if self.slabs:
            return range(first * len(self.slabs), (first + count) * len(self.slabs))
        return range(first // self.count, (first + count - 1) // self.count + 1)


def points_a_unit(points: int, seconds: float, nbytes: int, together: int, workers: int) -> int:
    """Returns how many points a unit has.

    Args:
        points: Of the job.
        seconds: That one point takes.
        nbytes: Of one point's results.
        together: Points that are computed at once; a unit has a multiple of it, unless the job is too small for that.
        workers: Workers that share the units.
    """
    timely = UNIT_SECONDS / max(seconds, 1e-9)
    fitting = CHUNK_BYTES / max(1, nbytes)
    shared = points / (UNITS_A_WORKER * max(1, workers))
    count = max(1, int(min(timely, fitting, shared)))
    return count // together * together if count > together else count


def leaf_slabs(shape: Sequence[int], seeds: int) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Returns the chunk of a leaf's axes, and the ranges ``(start, count)`` of its entries, in C order, that fill one chunk each.

    Args:
        shape: Of the leaf; no axis is 0.
        seeds: Entries of a chunk at most, at least 1.
    """
    inner, axis = 1, len(shape)
    while axis and inner * shape[axis - 1] <= seeds:
        axis -= 1
        inner *= shape[axis]
    if not axis:
        return tuple(shape), [(0, inner)]
    extent, step = shape[axis - 1], max(1, seeds // inner)
    chunk = (*(1,) * (axis - 1), step, *shape[axis:])
    cuts = [(first * inner, min(step, extent - first) * inner) for first in range(0, extent, step)]
    outer = math.prod(shape[: axis - 1])
    return chunk, [(at * extent * inner + start, count) for at in range(outer) for start, count in cuts]


def slabs(shapes: Sequence[Sequence[int]], seeds: int) -> tuple[list[tuple[int, ...]], tuple[tuple[int, int], ...]]:
    """Returns for each of several leaves the chunk of its axes, and for all of them the ranges of seeds, which number their entries one by one."""
    chunks, ranges, first = [], [], 0
    for shape in shapes:
        size = math.prod(shape)
        if not size:
            chunks.append(tuple(max(1, extent) for extent in shape))
            continue
        chunk, cuts = leaf_slabs(shape, seeds)
        chunks.append(chunk)
        ranges += [(first + start, count) for start, count in cuts]
        first += size
    return chunks, tuple(ranges)
