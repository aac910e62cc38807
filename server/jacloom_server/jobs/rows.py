"""From jobs and units to rows of the ledger and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

import numpy as np

from jacloom_server.jobs.states import Counts, Entry, Landed, State, UnitRow, UnitState
from jacloom_worker.unit import Chunk

_PLAIN: Final = tuple(field.name for field in fields(Entry) if field.name not in ("request_id", "state", "counts"))
_COUNTS: Final = tuple(field.name for field in fields(Counts))

ENTRY: Final = ", ".join((*_PLAIN, "request_id", "state", *_COUNTS))
"""Columns of a job."""
UNIT: Final = "number, state, attempts, reason, message, points, finite, chunks"
"""Columns of a unit, as they are read."""
COMMITTED: Final = "job, number, attempt, points, all_finite, finite, chunks"
"""Columns of a unit that is committed, as they are written."""
ADDED: Final = ", ".join(f"{name} = {name} + ?" for name in _COUNTS)
"""What adds counts to those of a job."""


def entry(row: Sequence[Any]) -> Entry:
    """Returns the job of a row of ``ENTRY``."""
    plain, (request_id, state, *counts) = row[: len(_PLAIN)], row[len(_PLAIN) :]
    return Entry(**dict(zip(_PLAIN, plain, strict=True)), request_id=request_id or "", state=State(state), counts=Counts(*counts))


def entry_values(job: Entry) -> tuple[Any, ...]:
    """Returns a job as values of ``ENTRY``. No id of a request is NULL, of which there may be many."""
    return (*(getattr(job, name) for name in _PLAIN), job.request_id or None, job.state.value, *count_values(job.counts))


def count_values(counts: Counts) -> tuple[int, ...]:
    """Returns counts as values of ``ADDED``."""
    return tuple(getattr(counts, name) for name in _COUNTS)


def unit(row: Sequence[Any]) -> UnitRow:
    """Returns the unit of a row of ``UNIT``."""
    number, state, attempts, reason, message, points, finite, chunks = row
    return UnitRow(
        number,
        UnitState(state),
        attempts,
        reason,
        message,
        None if finite is None else np.unpackbits(np.frombuffer(finite, np.uint8), count=points).astype(bool),
        () if chunks is None else tuple(Chunk(*chunk) for chunk in json.loads(chunks)),
    )


def committed_values(job: int, landed: Landed) -> tuple[Any, ...]:
    """Returns a unit of a job, by its number in the ledger, as values of ``COMMITTED``."""
    finite = np.asarray(landed.finite, bool)
    chunks = json.dumps([(chunk.path, chunk.nbytes, chunk.checksum) for chunk in landed.chunks], separators=(",", ":"))
    return job, landed.number, landed.attempt, len(finite), bool(finite.all()), np.packbits(finite).tobytes(), chunks
