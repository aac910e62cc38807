"""How long a call may still take."""

from __future__ import annotations

import math
import time

from jacloom._errors import DeadlineExceeded, OptionError

_LONGEST = 1e8
"""Seconds, about three years: gRPC takes much longer times for moments in the past."""


class Deadline:
    """A moment counted from its making, shared by all steps of one call; or none."""

    __slots__ = ("_end", "timeout")

    def __init__(self, timeout: float | None) -> None:
        """Starts the clock.

        Args:
            timeout: Seconds, greater than 0; None for no limit.

        Raises:
            OptionError: if ``timeout`` is not a positive number.
        """
        if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
            raise OptionError(f"timeout must be a finite positive number of seconds, or None for no limit; got {timeout!r}")
        self.timeout = timeout
        self._end = None if timeout is None else time.monotonic() + timeout

    def remaining(self, default: float | None = None) -> float | None:
        """Returns the seconds left, or ``default`` where there is no limit.

        Raises:
            DeadlineExceeded: if none are left.
        """
        if self._end is None:
            return default
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return min(left, _LONGEST)

    def allows(self, pause: float) -> bool:
        """Returns whether time will be left after ``pause`` seconds."""
        return self._end is None or time.monotonic() + pause < self._end

    def exceeded(self) -> DeadlineExceeded:
        """Returns the error for a call that ran out of time."""
        limit = "" if self.timeout is None else f" within {self.timeout:g} s"
        return DeadlineExceeded(f"the call did not end{limit} and was cancelled; give it a longer timeout, or less to do")
