"""How fast a job goes, lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

_SECONDS: Final = 30.0
"""How far back is looked: long enough for a few units of each worker, short enough to notice that workers came or went."""


class Meter:
    """Adds up what was done, by when."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._done: deque[tuple[float, float]] = deque([(clock(), 0.0)])
        self._total = 0.0

    def add(self, amount: float) -> None:
        """Notes what was done just now."""
        now = self._clock()
        self._total += amount
        self._done.append((now, self._total))
        while len(self._done) > 2 and self._done[1][0] < now - _SECONDS:
            self._done.popleft()

    @property
    def rate(self) -> float:
        """What is done in a second; 0 until something was."""
        began, before = self._done[0]
        last, _ = self._done[-1]
        # Until the next is done, time goes on: a job that stands still is seen to become slow.
        elapsed = max(last, self._clock() - 1.0) - began
        return (self._total - before) / elapsed if elapsed > 0 else 0.0
