"""Which points of a job are done: from the units that are."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from jacloom_server.jobs.division import Division
from jacloom_server.jobs.states import Counts, Landed, UnitRow, UnitState

NOT_DONE: Final = 0
DONE: Final = 1
NOT_FINITE: Final = 2
"""Done, with a NaN or an Inf in the results."""
FAILED: Final = 3


class Tally:
    """The status of each point and each unit of a job. Thread-safe: units are counted in the publisher's thread."""

    def __init__(self, division: Division, rows: Iterable[UnitRow] = ()) -> None:
        """Counts what is done already.

        Args:
            division: The job's units.
            rows: What the ledger has of them.
        """
        self.status = np.zeros(division.points, np.uint8)
        """Of each point."""
        self._division = division
        self._units = np.zeros(division.units, np.uint8)
        # Only where a point has several units: how many of them are not committed.
        self._left = np.full(division.points, len(division.slabs), np.int32) if division.slabs else None
        self._spoilt: set[int] = set()
        """Points with a NaN or an Inf in one of several units."""
        self._totals = np.array([division.points, 0, 0, 0])
        """How many points have each status."""
        self._lock = threading.Lock()
        self._changed = (0, division.points)
        for row in rows:
            if row.state is UnitState.COMMITTED:
                assert row.finite is not None
                self._commit(row.number, row.finite)
            elif row.state is UnitState.FAILED:
                self._fail(row.number)

    def pending(self) -> Iterator[int]:
        """Yields the numbers of all units that are neither committed nor failed, rising, as they are when it gets to them."""
        for number in range(len(self._units)):
            if self._units[number] == NOT_DONE:
                yield number

    def settled(self, number: int) -> bool:
        """Returns whether a unit is committed or has failed."""
        return bool(self._units[number] != NOT_DONE)

    def committed(self, landed: Sequence[Landed]) -> Counts:
        """Counts units that are in place, and returns what that adds to the job's counts."""
        with self._lock:
            before = self._totals.copy()
            for each in landed:
                self._commit(each.number, each.finite)
            return self._since(before, done=len(landed))

    def failed(self, number: int) -> Counts:
        """Counts a unit that is given up, and returns what that adds."""
        with self._lock:
            before = self._totals.copy()
            self._fail(number)
            return self._since(before, failed=1)

    def lost(self, numbers: Sequence[int]) -> Counts:
        """Counts committed units as pending again, and returns what that adds, which is negative."""
        with self._lock:
            before = self._totals.copy()
            for number in numbers:
                unit = self._division.unit(number)
                self._units[number] = NOT_DONE
                if self._left is not None:
                    self._left[unit.first] += 1
                    if self.status[unit.first] == FAILED:
                        continue  # for another unit of this point
                self._mark(unit.first, np.full(unit.count, NOT_DONE, np.uint8))
            return self._since(before, done=-len(numbers))

    def take_changed(self, whole: int = 1) -> tuple[int, np.ndarray]:
        """Returns a range of points whose status may have changed since this was called last: its first point, and their status now.

        The range begins and ends at multiples of ``whole``, or with the points.
        """
        with self._lock:
            first, last = self._changed
            self._changed = (len(self.status), 0)
            if first >= last:
                return 0, self.status[:0]
            first = first // whole * whole
            return first, self.status[first : -(-last // whole) * whole].copy()

    def give_back(self, first: int, count: int) -> None:
        """Says that the status of these points was not taken after all."""
        with self._lock:
            low, high = self._changed
            self._changed = (min(low, first), max(high, first + count))

    def _commit(self, number: int, finite: np.ndarray) -> None:
        unit = self._division.unit(number)
        self._units[number] = DONE
        status = np.where(finite, DONE, NOT_FINITE).astype(np.uint8)
        if self._left is not None:
            # A point of several units is done with the last of them, and finite if all of them are.
            self._left[unit.first] -= 1
            if not finite.all():
                self._spoilt.add(unit.first)
            if self._left[unit.first]:
                return
            status[:] = NOT_FINITE if unit.first in self._spoilt else DONE
        self._mark(unit.first, status)

    def _fail(self, number: int) -> None:
        unit = self._division.unit(number)
        self._units[number] = FAILED
        self._mark(unit.first, np.full(unit.count, FAILED, np.uint8))

    def _mark(self, first: int, status: np.ndarray) -> None:
        here = slice(first, first + len(status))
        self._totals += np.bincount(status, minlength=4) - np.bincount(self.status[here], minlength=4)
        self.status[here] = status
        low, high = self._changed
        self._changed = (min(low, here.start), max(high, here.stop))

    def _since(self, before: np.ndarray, *, done: int = 0, failed: int = 0) -> Counts:
        gained = self._totals - before
        return Counts(
            points_done=int(gained[DONE] + gained[NOT_FINITE]),
            points_failed=int(gained[FAILED]),
            points_not_finite=int(gained[NOT_FINITE]),
            units_done=done,
            units_failed=failed,
        )
