"""Commands that can be stopped: by SIGTERM, by Ctrl-C, or after some time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType, TracebackType
from typing import Final, Self

_REASONS: Final = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C", signal.SIGALRM: "--stop-after"}
_AGAIN: Final = 1.0
"""Seconds after which a stop is raised again that something has swallowed, as destructors do with exceptions."""


class Stopped(BaseException):
    """The command is to stop. Like KeyboardInterrupt, nothing catches it that means errors."""


class Stop:
    """Within its ``with`` block, signals end nothing but the part that wants to be ended; in the main thread only."""

    def __init__(self, limit: timedelta | None) -> None:
        """Sets the time after which it stops; None for never."""
        self.reason = ""
        """What asked for it; empty until something does."""
        self._limit = limit
        self._raises = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in _REASONS}
        if self._limit is not None:
            signal.setitimer(signal.ITIMER_REAL, self._limit.total_seconds())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raises Stopped in the block when a stop is asked for, or was before. After the block, signals are only noted."""
        self._raises = True
        try:
            if self.reason:
                raise Stopped
            yield
        finally:
            self._raises = False

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.reason = self.reason or _REASONS[signal.Signals(number)]
        if self._raises:
            signal.setitimer(signal.ITIMER_REAL, _AGAIN)
            raise Stopped
