"""What a process does between its tasks: it tidies up, in a thread of its own, as nobody calls it while it has nothing to do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

PERIOD: Final = 30.0
"""Seconds between two rounds."""


class Leisure:
    """Runs a function now and then, never at the same time as a task."""

    def __init__(self, tidy: Callable[[], None], period: float = PERIOD) -> None:
        """Begins with the first round after one period.

        Args:
            tidy: The function; takes no time worth waiting for.
            period: Seconds between two rounds.
        """
        self._tidy = tidy
        self._period = period
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, name="leisure", daemon=True).start()

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Keeps the function from running during the body."""
        with self._lock:
            yield

    def _watch(self) -> None:
        while True:
            time.sleep(self._period)
            with self._lock:
                self._tidy()
