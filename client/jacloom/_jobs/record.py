"""A job as the service describes it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from jacloom._errors import ProtocolError
from jacloom._jobs.kinds import JobDerivative
from jacloom._plan import Plan, plan_from_message
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph import tensor
from jacloom_graph.answer import ArrayKey
from jacloom_graph.types import Type
from jacloom_graph.wire import type_from_message


class JobState(StrEnum):
    """How far a job has come. Equal to its own name in small letters: ``job.state == "running"``."""

    QUEUED = "queued"
    """Stored, and about to be planned."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    """Every point is done."""
    SUCCEEDED_WITH_FAILURES = "succeeded_with_failures"
    """Some points failed three times; all others are done."""
    FAILED = "failed"
    """It could not be planned, or no point succeeded."""
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """Stopped because its deadline had come."""

    @property
    def ended(self) -> bool:
        """Whether nothing more happens unless it is asked for."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


STATES: Final[Mapping[int, JobState]] = MappingProxyType({pb.JobState.Value(f"JOB_{state.name}"): state for state in JobState})
"""By their numbers on the wire."""

DERIVATIVES: Final[Mapping[int, JobDerivative]] = MappingProxyType(
    {pb.JOB_VALUE: "value", pb.JOB_JVP: "jvp", pb.JOB_VJP: "vjp", pb.JOB_GRADIENT: "gradient", pb.JOB_JACOBIAN: "jacobian", pb.JOB_HESSIAN: "hessian"}
)
"""By their numbers on the wire."""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job has come, in numbers."""

    points: int
    """Points in all."""
    points_done: int = 0
    """Points whose results are complete."""
    points_failed: int = 0
    """Points that failed three times."""
    points_not_finite: int = 0
    """Points of those done that have a NaN or an Inf in their results."""
    units: int = 0
    """Units of work in all; 0 until the job is planned. A unit is some points, or some seeds of one point."""
    units_done: int = 0
    units_failed: int = 0
    retries: int = 0
    """Attempts that failed or were lost."""
    rate: float | None = None
    """Points per second, lately; None where it is not known."""
    eta: float | None = None
    """Seconds until the end, at this rate; None where it is not known."""
    workers: int = 0
    """Workers that are at work on it now."""


@dataclass(frozen=True, slots=True)
class JobArray:
    """One array of a job's results."""

    path: str
    """Within the results, such as ``"jacobian/velocity/x"``."""
    key: ArrayKey
    type: Type
    """The first axis is that of the points, but for the structure of a sparse derivative, which all points share."""

    @property
    def stored(self) -> tuple[np.dtype, tuple[int, ...]]:
        """Dtype and shape as the store has it: of bfloat16 the float32 that holds it, of random keys their raw data.

        Raises:
            ProtocolError: if this version does not know the dtype.
        """
        try:
            dtype, shape = tensor.storage(self.type)
        except KeyError:
            raise ProtocolError(f"the service told of an array {self.path} of {self.type}, a dtype that this version does not know") from None
        return np.dtype(np.float32) if self.type.dtype == "bfloat16" else dtype, shape


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that the service tells of a job, at one moment."""

    id: str
    """20 hex digits."""
    display_name: str
    state: JobState
    function: str
    """The function's id, 64 hex digits."""
    derivative: JobDerivative
    progress: JobProgress
    message: str
    """Why it failed, or what it waits for. May be empty."""
    plan: Plan | None
    """How each point's derivative is computed; None until the job is planned."""
    arrays: tuple[JobArray, ...]
    """Of the results; none until the job is planned."""
    out: str
    """Where the results are, below the service's folder for results."""
    store: str
    """The same as the service's file system has it; ``zarr.open(store)`` reads it where that can be seen."""
    priority: int
    request_id: str
    created: datetime | None
    started: datetime | None
    ended: datetime | None
    expires: datetime | None
    """When it may be deleted; None: never, or it has not ended."""
    deadline: datetime | None
    sparse: bool = False
    """Whether its results are read as sparse matrices; they may be stored so in either case."""


def record_from_message(message: pb.Job) -> JobRecord:
    """Returns the job that a message describes.

    Raises:
        ProtocolError: if its state or derivative is none that this version knows.
    """
    state, derivative = STATES.get(message.state), DERIVATIVES.get(message.derivative)
    if state is None or derivative is None:
        raise ProtocolError(
            f"the service told of a job in state {message.state} with derivative {message.derivative}, which this version does not know; "
            "use the same version on both sides"
        )
    return JobRecord(
        id=message.name.removeprefix("jobs/"),
        display_name=message.display_name,
        state=state,
        function=message.function.removeprefix("functions/"),
        derivative=derivative,
        progress=_progress(message),
        message=message.message,
        plan=plan_from_message(message.plan) if message.HasField("plan") else None,
        arrays=tuple(map(_array, message.arrays)),
        out=message.out,
        store=message.store,
        priority=message.priority,
        request_id=message.request_id,
        created=_moment(message.create_time) if message.HasField("create_time") else None,
        started=_moment(message.start_time) if message.HasField("start_time") else None,
        ended=_moment(message.end_time) if message.HasField("end_time") else None,
        expires=_moment(message.expire_time) if message.HasField("expire_time") else None,
        deadline=_moment(message.deadline) if message.HasField("deadline") else None,
        sparse=message.sparse,
    )


def _progress(message: pb.Job) -> JobProgress:
    return JobProgress(
        message.points,
        message.points_done,
        message.points_failed,
        message.points_not_finite,
        message.units,
        message.units_done,
        message.units_failed,
        message.retries,
        message.rate or None,
        message.eta if message.HasField("eta") else None,
        message.workers,
    )


def _array(message: pb.ResultArray) -> JobArray:
    return JobArray(message.path, (message.part, message.output, message.input, message.input2), type_from_message(message.type))


def _moment(message: Timestamp) -> datetime:
    return message.ToDatetime(UTC)
