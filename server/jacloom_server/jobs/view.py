"""A job as those see it who ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jacloom_server.jobs.record import Record
from jacloom_server.jobs.states import Entry, State


@dataclass(frozen=True, slots=True)
class View:
    """A job as it is now."""

    entry: Entry
    store: Path
    record: Record | None
    rate: float = 0.0
    """Points per second."""
    workers: int = 0
    message: str = ""

    @property
    def eta(self) -> float | None:
        """Seconds until its end; None where that is not known."""
        if self.entry.state is not State.RUNNING or not self.rate or not self.entry.units:
            return None
        counts = self.entry.counts
        left = 1 - (counts.units_done + counts.units_failed) / self.entry.units
        return left * self.entry.points / self.rate
