"""What a worker logs travels to the server with its next answer: the log of a worker is gone with its machine, and Ray's is nobody's to read."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from jacloom_worker.envelope import Note

_MOST: Final = 100
"""Records kept between two answers; the oldest leave first."""


class Notes(logging.Handler):
    """Collects this process's log records of level WARNING and above."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._records: deque[Note] = deque(maxlen=_MOST)
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record, with its traceback if it has one."""
        self._records.append(Note(record.name, record.levelno, self.format(record)))

    def take(self) -> tuple[Note, ...]:
        """Returns what has been logged since the last call."""
        if not self._records:
            return ()
        taken = tuple(self._records)
        self._records.clear()
        return taken
