"""A thread that ends its process when a computation overstays or nobody is left to answer to. Compiled code cannot be interrupted otherwise."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

OVERDUE: Final = 71
"""Exit code of a process whose computation overstayed its lease."""
ORPHANED: Final = 72
"""Exit code of a process whose parent is gone."""
_PERIOD: Final = 0.5
_GRACE: Final = 1.0
"""Seconds beyond the lease, so that an answer that is just done still gets out."""


class Watchdog:
    """Watches this process from a thread of its own; the thread gets its turns because XLA computes and compiles without the GIL."""

    def __init__(self) -> None:
        self._deadline: float | None = None
        self._parent = os.getppid()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Ends the process if the body takes longer than ``seconds``."""
        self._deadline = time.monotonic() + seconds + _GRACE
        try:
            yield
        finally:
            self._deadline = None

    def _watch(self) -> None:
        while True:
            time.sleep(_PERIOD)
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                os._exit(OVERDUE)
            # A worker's parent is Ray's node process. Without it nobody can fetch an answer, and nobody else would end the computation.
            if os.getppid() != self._parent:
                os._exit(ORPHANED)
