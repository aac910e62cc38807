"""Jobs of the scripted service: what clients send is kept, and what they get is told beforehand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf import empty_pb2
from unit.scripted import Script, fail, serving

import jacloom as jl
from jacloom._connect import connect
from jacloom_api.v1 import derivative_service_pb2 as derivative_pb
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_api.v1 import job_service_pb2_grpc as pb_grpc
from jacloom_graph import tensor, wire
from jacloom_graph.answer import ArrayKey
from jacloom_graph.errors import Reason
from jacloom_graph.types import Type

Act = Callable[[Any], None]
"""Something that the service does in the middle of a call, given its context: end it, say."""


@dataclass
class Jobs:
    """What happened, and what will."""

    jobs: dict[str, pb.Job] = field(default_factory=dict)
    specs: list[pb.JobSpec] = field(default_factory=list)
    """Of all streams that began."""
    points: list[list[pb.Points]] = field(default_factory=list)
    """Of all streams that ended as they should."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of all messages that came."""
    at_spec: list[Act] = field(default_factory=list)
    """Done when the first message of a stream has come, one for each stream."""
    at_points: list[Act] = field(default_factory=list)
    """Done when the first points of a stream have come, one for each stream."""
    began: threading.Event = field(default_factory=threading.Event)
    """Set when a stream has come: one that is cancelled before has no handler."""
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when a stream is over, however it ended."""
    results: dict[str, np.ndarray] = field(default_factory=dict)
    """By path, of every job."""
    cut: Callable[[np.ndarray], list[tuple[slice, ...]]] = lambda array: [(slice(at, at + 1),) for at in range(len(array))]
    """Cuts what was asked for into boxes."""
    breaks: list[int] = field(default_factory=list)
    """For each reading stream, the pieces after which it breaks."""
    answer: pb.ReadResultReply | None = None
    """What each reading stream says instead."""
    reads: list[pb.ReadResultRequest] = field(default_factory=list)
    watches: list[Sequence[pb.Job | Act]] = field(default_factory=list)
    """What each watching stream says or does, in order."""
    calls: list[str] = field(default_factory=list)
    failures: list[pb.UnitFailure] = field(default_factory=list)
    damaged: int = 0
    listed: list[pb.ListJobsRequest] = field(default_factory=list)
    dry_runs: list[bool] = field(default_factory=list)

    def add(self, number: int = 0, **fields: Any) -> pb.Job:
        """Adds a job."""
        job = pb.Job(**{"name": f"jobs/{number:020x}", "state": pb.JOB_RUNNING, "derivative": pb.JOB_JACOBIAN, "points": 4, **fields})
        self.jobs[job.name] = job
        return job

    def add_array(self, job: pb.Job, path: str, key: ArrayKey, array: np.ndarray, dtype: str = "") -> None:
        """Adds an array to a job's results."""
        part, output, input_, input2 = key
        described = pb.ResultArray(path=path, part=part, output=output, input=input_, input2=input2)  # type: ignore[arg-type]
        described.type.CopyFrom(wire.type_to_message(Type(dtype or array.dtype.name, array.shape)))
        job.arrays.append(described)
        self.results[path] = array


class _Service(pb_grpc.JobServiceServicer):
    def __init__(self, jobs: Jobs) -> None:
        self.told = jobs

    def _job(self, name: str, context: Any) -> pb.Job:
        if name not in self.told.jobs:
            fail(context, Reason.JOB_NOT_FOUND, f"no {name}", grpc.StatusCode.NOT_FOUND)
        return self.told.jobs[name]

    def Create(self, requests: Iterator[pb.CreateJobRequest], context: Any) -> pb.Job:
        told = self.told
        context.add_callback(told.ended.set)
        told.calls.append("Create")
        told.began.set()
        points: list[pb.Points] = []
        last = False
        for number, request in enumerate(requests):
            assert request.HasField("spec") == (number == 0)
            told.sizes.append(request.ByteSize())
            if request.HasField("spec"):
                told.specs.append(request.spec)
                if told.at_spec:
                    told.at_spec.pop(0)(context)
            if request.HasField("points"):
                if not points and told.at_points:
                    told.at_points.pop(0)(context)
                points.append(request.points)
            assert not last
            last = request.last
        if not last:
            return pb.Job()  # to nobody
        told.points.append(points)
        spec = told.specs[-1]
        known = [job for job in told.jobs.values() if job.request_id == spec.request_id]
        if known:
            return known[0]
        return told.add(
            len(told.jobs),
            state=pb.JOB_QUEUED,
            derivative=spec.derivative,
            points=sum(each.count for each in points),
            function=spec.call.function,
            display_name=spec.display_name,
            request_id=spec.request_id,
            out=spec.out,
            sparse=spec.call.options.sparsity == derivative_pb.SPARSE,
        )

    def Get(self, request: pb.GetJobRequest, context: Any) -> pb.Job:
        self.told.calls.append("Get")
        return self._job(request.name, context)

    def List(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsReply:
        self.told.listed.append(request)
        found = [job for job in reversed(self.told.jobs.values()) if not request.states or job.state in request.states]
        found = [job for job in found if request.function in ("", job.function)]
        start = int(request.page_token or 0)
        end = start + min(request.page_size, 2)
        return pb.ListJobsReply(jobs=found[start:end], next_page_token=str(end) if end < len(found) else "")

    def Watch(self, request: pb.WatchJobRequest, context: Any) -> Iterator[pb.Job]:
        self.told.calls.append("Watch")
        self._job(request.name, context)
        for each in self.told.watches.pop(0):
            if isinstance(each, pb.Job):
                yield each
            else:
                each(context)

    def Cancel(self, request: pb.CancelJobRequest, context: Any) -> pb.Job:
        job = self._job(request.name, context)
        job.state = pb.JOB_CANCELLED
        return job

    def Retry(self, request: pb.RetryJobRequest, context: Any) -> pb.Job:
        job = self._job(request.name, context)
        job.state = pb.JOB_RUNNING
        return job

    def Verify(self, request: pb.VerifyJobRequest, context: Any) -> pb.VerifyJobReply:
        self._job(request.name, context)
        return pb.VerifyJobReply(chunks=12, damaged=self.told.damaged)

    def Delete(self, request: pb.DeleteJobRequest, context: Any) -> empty_pb2.Empty:
        job = self._job(request.name, context)
        if job.state == pb.JOB_RUNNING:
            fail(context, Reason.JOB_NOT_ENDED, f"{job.name} runs; cancel it first", grpc.StatusCode.FAILED_PRECONDITION)
        del self.told.jobs[request.name]
        return empty_pb2.Empty()

    def Expire(self, request: pb.ExpireJobsRequest, context: Any) -> pb.ExpireJobsReply:
        self.told.dry_runs.append(request.dry_run)
        return pb.ExpireJobsReply(jobs=self.told.jobs.values())

    def ListFailures(self, request: pb.ListFailuresRequest, context: Any) -> pb.ListFailuresReply:
        self._job(request.name, context)
        start = int(request.page_token or 0)
        found = self.told.failures[start : start + 2]
        more = start + 2 < len(self.told.failures)
        return pb.ListFailuresReply(failures=found, next_page_token=str(start + 2) if more else "")

    def ReadResult(self, request: pb.ReadResultRequest, context: Any) -> Iterator[pb.ReadResultReply]:
        told = self.told
        told.reads.append(request)
        if told.answer is not None:
            yield told.answer
            return
        self._job(request.name, context)
        if request.path not in told.results:
            fail(context, Reason.RESULT_NOT_READY, f"{request.path} is not there yet", grpc.StatusCode.FAILED_PRECONDITION)
        array = told.results[request.path][request.first :][: request.count or None]
        left = told.breaks.pop(0) if told.breaks else -1
        yield pb.ReadResultReply(type=wire.type_to_message(Type(array.dtype.name, array.shape)), nbytes=array.nbytes)
        position = 0
        for box in told.cut(array):
            data = tensor.raw(array[box]).tobytes()
            piece = pb.Piece(starts=[0] * array.ndim, counts=array[box].shape, data=data, offset=position)
            piece.starts[: len(box)] = [part.start for part in box]
            position += len(data)
            if position <= request.offset:
                continue
            if not left:
                going_away(context)
            left -= 1
            yield pb.ReadResultReply(piece=piece)


def going_away(context: Any) -> None:
    """Ends a call as a service does that is shutting down."""
    fail(context, Reason.DRAINING, "the service is shutting down", grpc.StatusCode.UNAVAILABLE)


def refusing(reason: Reason, message: str) -> Act:
    """Returns what ends a call with a reason."""
    return lambda context: fail(context, reason, message)


def until_cancelled(context: Any) -> None:
    """Waits for the client to end the call."""
    over = threading.Event()
    if context.add_callback(over.set):
        over.wait(60)


@contextmanager
def serving_jobs(script: Script, jobs: Jobs, port: int = 0) -> Iterator[int]:
    """Runs the service with its jobs and yields its port."""
    with serving(script, port, further=lambda server: pb_grpc.add_JobServiceServicer_to_server(_Service(jobs), server)) as port:
        yield port


@contextmanager
def client_of_jobs(script: Script, jobs: Jobs) -> Iterator[jl.Client]:
    """Yields a client of such a service."""
    with serving_jobs(script, jobs) as port, connect(f"127.0.0.1:{port}") as client:
        yield client
