"""Tile width by measurement, on tiles that are needed anyway."""

from __future__ import annotations

from typing import Final

from jacloom_server.plan import WIDTHS

_WORTH_SECONDS: Final = 2.0
_WORTH_COMPILES: Final = 5
"""Another width means compiling once more on every worker: worth it only for work that lasts much longer."""
_BETTER: Final = 0.9
"""A width is better if a seed takes less than this part of the time; measurements on a busy machine differ by as much."""


class Tuner:
    """Climbs to the best width of one kernel on one platform: up as long as that helps, else down, one trial tile at a time.

    The rule that gives the first width knows sizes, not machines; measured, the best width of a scan was 8 and that of a dense function 512. A
    tuner outlives the call that made it: work that comes again is worth a trial just as much as work that is still to be done.
    """

    def __init__(self, width: int, most: int = WIDTHS[-1], *, fixed: bool = False) -> None:
        """Begins at a width.

        Args:
            width: The first width.
            most: The largest width that may be tried.
            fixed: Never try another one.
        """
        self.best = width
        self._most = most
        self._fixed = fixed
        self._seconds: dict[int, float] = {}
        """Least seconds a seed took, by width."""
        self._spent = 0.0
        self._compile = 0.0
        self._trial: int | None = None
        self._up = True

    def next(self, left: int, workers: int) -> int:
        """Returns the width for the next tile: that of a trial where one is worth its price, else the best known.

        Args:
            left: Seeds that the call still has to hand out.
            workers: Workers that share them.
        """
        if self._fixed or self._trial is not None or self.best not in self._seconds:
            return self.best
        if not self.worthwhile(left * self._seconds[self.best], workers):
            return self.best
        self._trial = self._candidate(left)
        return self.best if self._trial is None else self._trial

    @property
    def found(self) -> tuple[int, float] | None:
        """Width and seconds a seed of the best width; of another, where only that was tried. None if no tile has come back."""
        width = self.best if self.best in self._seconds else next(iter(self._seconds), None)
        return None if width is None else (width, self._seconds[width])

    def worthwhile(self, left: float, workers: int) -> bool:
        """Returns whether work is long enough that compiling something for a trial pays.

        Args:
            left: Seconds that the call is expected to take from now on, summed over workers.
            workers: Workers that share them.
        """
        # What was spent on this kernel so far is the best guess at what is to come in later calls.
        return (self._spent + left) / max(1, workers) >= max(_WORTH_SECONDS, _WORTH_COMPILES * self._compile)

    def record(self, width: int, count: int, seconds: float, compile_seconds: float) -> None:
        """Notes what a tile took. Tiles that were mostly padding tell nothing of a seed's price."""
        self._compile = max(self._compile, compile_seconds)
        self._spent += seconds
        if 2 * count > width:
            a_seed = seconds / count
            self._seconds[width] = min(a_seed, self._seconds.get(width, a_seed))
        if width == self._trial:
            self._trial = None
            self._judge(width)

    def limit(self, width: int) -> None:
        """Uses no width above ``width`` from now on: a larger one did not fit into memory."""
        self._most = min(self._most, width)
        self.best = min(self.best, self._most)
        self._trial = None
        self._fixed = True

    def forget(self, width: int) -> None:
        """Notes that a tile ended without an answer. If it was the trial, another may follow."""
        if width == self._trial:
            self._trial = None

    def _judge(self, width: int) -> None:
        if width in self._seconds and self._seconds[width] < _BETTER * self._seconds[self.best]:
            self.best = width
        elif self._up:
            self._up = False
        else:
            self._fixed = True

    def _candidate(self, left: int) -> int | None:
        """Returns the next width to try, or None where the climb ends or this call has too few seeds left for it."""
        larger, smaller = self.best * 2, self.best // 2
        if self._up and larger <= self._most and larger not in self._seconds:
            return larger if larger <= left else None
        self._up = False
        if smaller >= 1 and smaller not in self._seconds:
            return smaller if smaller <= left else None
        self._fixed = True
        return None
