"""Tile width by measurement, on tiles that are needed anyway."""

from __future__ import annotations

from typing import Final

from jacloom_server.strategy import WIDTHS

_WORTH_SECONDS: Final = 2.0
_WORTH_COMPILES: Final = 5
"""Another width means compiling once more on every worker: worth it only for work that lasts much longer."""
_BETTER: Final = 0.9
"""A width is better if a seed takes less than this part of the time; measurements on a busy machine differ by as much."""


class Tuner:
    """Climbs to the best width: larger as long as that helps, else smaller as long as that helps, one trial tile at a time.

    The rule that gives the first width knows sizes, not machines; measured, the best width of a scan was 8 and that of a dense function 512.
    """

    def __init__(self, width: int, most: int, workers: int, *, fixed: bool = False) -> None:
        """Begins at a width.

        Args:
            width: The first width.
            most: The largest width that may be tried.
            workers: Workers that share the tiles.
            fixed: Never try another width: it was asked for, or found before.
        """
        self.best = width
        self._most = most
        self._workers = max(1, workers)
        self._fixed = fixed
        self._seconds: dict[int, float] = {}
        self._compile = 0.0
        self._trial: int | None = None
        self._step = 1

    def next(self, left: int) -> int:
        """Returns the width for the next tile, ``left`` seeds remaining: that of a trial where one is worth its price, else the best known."""
        if self._fixed or self._trial is not None or self.best not in self._seconds:
            return self.best
        remaining = left * self._seconds[self.best] / self._workers
        if remaining < max(_WORTH_SECONDS, _WORTH_COMPILES * self._compile):
            return self.best
        self._trial = self._candidate(left)
        return self.best if self._trial is None else self._trial

    def record(self, width: int, count: int, seconds: float, compile_seconds: float) -> None:
        """Notes what a tile took. Tiles that were mostly padding tell nothing."""
        self._compile = max(self._compile, compile_seconds)
        if 2 * count <= width:
            if width == self._trial:
                self._trial = None
            return
        a_seed = seconds / count
        self._seconds[width] = min(a_seed, self._seconds.get(width, a_seed))
        if width == self._trial:
            self._trial = None
            if self._seconds[width] < _BETTER * self._seconds[self.best]:
                self.best = width
            elif self._step > 0:
                self._step = -1
            else:
                self._fixed = True

    def limit(self, width: int) -> None:
        """Uses no width above ``width`` from now on: a larger one did not fit into memory."""
        self._most = min(self._most, width)
        self.best = min(self.best, self._most)
        self._trial = None
        self._fixed = True

    def _candidate(self, left: int) -> int | None:
        """Returns the next width to try, or None if this is the end of the climb."""
        while True:
            wanted = self.best * 2 if self._step > 0 else self.best // 2
            if WIDTHS[0] <= wanted <= min(self._most, left) and wanted not in self._seconds:
                return wanted
            if self._step < 0:
                self._fixed = True
                return None
            self._step = -1
