"""Jobs and units for tests of the ledger and of what puts results in place."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jacloom_server.jobs.publishing import Landing
from jacloom_server.jobs.states import Counts, Entry, Landed
from jacloom_worker.unit import Chunk


def entry(number: int = 0, **changes: Any) -> Entry:
    values = {"digest": "d", "function": "f" * 64, "derivative": "jacobian", "points": 30, "out": f"jobs/{number}", "created": 5.0, "spec": b"spec"}
    return Entry(id=f"{number:020x}", **(values | changes))


def chunk(path: str, data: bytes) -> Chunk:
    return Chunk(path, len(data), zlib.crc32(data))


def unit(number: int, *data: bytes, attempt: str = "a", finite: Sequence[bool] = (True, True)) -> Landed:
    """A unit with a chunk ``jacobian/c/<number>/<index>`` of each content."""
    chunks = tuple(chunk(f"jacobian/c/{number}/{index}", content) for index, content in enumerate(data))
    return Landed(number, attempt, chunks, np.asarray(finite))


def counts(new: Sequence[Landed]) -> Counts:
    """What units of points add, one of each point's NaNs included."""
    points = sum(len(landed.finite) for landed in new)
    return Counts(points_done=points, units_done=len(new), points_not_finite=points - sum(int(landed.finite.sum()) for landed in new))


def landing(results: Path, job: str, number: int, *data: bytes, attempt: str = "a") -> Landing:
    """A unit as a worker has written it aside, for a group in the folder ``results/<job>``."""
    landed = unit(number, *data, attempt=attempt)
    aside = results / ".jacloom" / "aside" / job / f"{number}-{attempt}"
    for written, content in zip(landed.chunks, data, strict=True):
        target = aside / written.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return Landing(job, results / job, aside, landed, counts)
