"""Jobs and their units as the ledger has them: plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Self

import numpy as np

from jacloom_worker.unit import Chunk


class State(Enum):
    """How far a job has come."""

    QUEUED = "queued"
    """Stored, and not planned yet."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    SUCCEEDED_WITH_FAILURES = "succeeded_with_failures"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline_exceeded"

    @property
    def ended(self) -> bool:
        """Whether nothing is computed for it any more, unless it is reopened."""
        return self not in (State.QUEUED, State.RUNNING)


class UnitState(Enum):
    """What became of a unit."""

    PENDING = "pending"
    """It is to be computed: attempts have failed, or its chunks were found damaged."""
    COMMITTED = "committed"
    """Its chunks are durably in place."""
    FAILED = "failed"
    """It is not tried any more."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much of a job is done; or, where counts are handed to the ledger, what is to be added to that."""

    points_done: int = 0
    points_failed: int = 0
    points_not_finite: int = 0
    """Points among those done that have a NaN or an Inf in their results."""
    units_done: int = 0
    units_failed: int = 0
    retries: int = 0
    """Attempts that failed or were lost. The ledger itself adds them, see ``Ledger.attempt``."""

    def __add__(self, other: Self) -> Counts:
        return Counts(
            self.points_done + other.points_done,
            self.points_failed + other.points_failed,
            self.points_not_finite + other.points_not_finite,
            self.units_done + other.units_done,
            self.units_failed + other.units_failed,
            self.retries + other.retries,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A job as the ledger has it. Times are seconds since the epoch (``time.time``)."""

    id: str
    """20 hexadecimal digits."""
    request_id: str = ""
    """The caller's id for it; empty for none."""
    digest: str
    """Of everything that two jobs of one ``request_id`` must have in common."""
    display_name: str = ""
    function: str
    derivative: str
    """Such as ``"jacobian"``."""
    points: int
    priority: int = 0
    out: str
    """Path of its group below the folder for results."""
    created: float
    started: float | None = None
    """When it was planned."""
    ended: float | None = None
    deadline: float | None = None
    ttl: float | None = None
    """Seconds that it is kept after its end; None: until it is deleted."""
    state: State = State.QUEUED
    message: str = ""
    """Why it failed, or what it waits for."""
    spec: bytes
    """What was asked for, serialized."""
    record: bytes = b""
    """What its units are computed with, serialized. Empty until it is planned."""
    units: int = 0
    """0 until it is planned."""
    counts: Counts = Counts()


@dataclass(frozen=True, slots=True, eq=False)
class Landed:
    """A unit whose chunks a worker has written aside."""

    number: int
    attempt: str
    """Which sending of the unit it was."""
    chunks: tuple[Chunk, ...]
    finite: np.ndarray
    """As ``Written.finite``: shape ``(count,)``, ``bool``."""


@dataclass(frozen=True, slots=True, eq=False)
class UnitRow:
    """What the ledger has of a unit. There is a row only where something happened to it."""

    number: int
    state: UnitState
    attempts: int
    """Those that failed or were lost."""
    reason: str
    """Name of the ``Reason`` of the last one that did; empty where none did."""
    message: str
    finite: np.ndarray | None
    """Of a committed unit: of each of its points whether its results are finite, shape ``(count,)``, ``bool``. Else None."""
    chunks: tuple[Chunk, ...]
    """Of a committed unit; else empty."""
