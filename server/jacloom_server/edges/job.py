"""``JobService``: messages in, messages out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

import grpc
from google.protobuf import empty_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from jacloom_api.v1 import derivative_service_pb2, job_service_pb2_grpc
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph.answer import Derivative
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import nbytes, type_of
from jacloom_graph.wire import type_to_message
from jacloom_server.edges.derivative import decode, plan_to_message
from jacloom_server.jobs.board import Board
from jacloom_server.jobs.order import Order
from jacloom_server.jobs.reading import Reading, read
from jacloom_server.jobs.record import Record, Result
from jacloom_server.jobs.states import State, UnitRow
from jacloom_server.jobs.view import View
from jacloom_server.status import reported

Context = grpc.aio.ServicerContext[Any, Any]

_DERIVATIVES: Final = {
    pb.JOB_VALUE: Derivative.EVALUATE,
    pb.JOB_JVP: Derivative.JVP,
    pb.JOB_VJP: Derivative.VJP,
    pb.JOB_GRADIENT: Derivative.GRADIENT,
    pb.JOB_JACOBIAN: Derivative.JACOBIAN,
    pb.JOB_HESSIAN: Derivative.HESSIAN,
}
_DERIVATIVE_NUMBERS: Final = {derivative.value: number for number, derivative in _DERIVATIVES.items()}
_STATES: Final = {pb.JobState.Value(f"JOB_{state.name}"): state for state in State}
_STATE_NUMBERS: Final = {state: number for number, state in _STATES.items()}
_MOST_TEXT: Final = 2000


class JobServicer(job_service_pb2_grpc.JobServiceServicer):
    """The jobs, as messages. Without a data folder there are none, and every method says so."""

    def __init__(self, board: Board | None) -> None:
        self._found = board

    @property
    def _board(self) -> Board:
        if self._found is None:
            text = "this service keeps no jobs, because it has no folder for them: start it with --data FOLDER (in the SDK: jl.connect(data=...))"
            raise Fault(Reason.JOBS_UNAVAILABLE, text)
        return self._found

    async def Create(self, requests: AsyncIterator[pb.CreateJobRequest], context: Context) -> pb.Job:
        """See the proto file, as for all methods here."""
        async with reported(context):
            messages = aiter(requests)
            first = await anext(messages, None)
            if first is None or not first.HasField("spec"):
                raise Fault(Reason.INVALID_OPTION, "the first message has the job's spec; this stream has none", field="spec")
            async with aclosing(_points(first, messages)) as points:
                return _job(await self._board.create(order_of(await self._whole(first.spec)), points))

    async def _whole(self, spec: pb.JobSpec) -> pb.JobSpec:
        """Returns a spec whose pattern is in it, and not in a blob that may be gone when the job is planned."""
        board = self._board
        for name in ("pointers", "indices") if spec.call.HasField("pattern") else ():
            tensor = getattr(spec.call.pattern, name)
            if tensor.WhichOneof("content") == "blob":
                tensor.data = await asyncio.to_thread(board.fetch, tensor.blob, tensor.offset, nbytes(type_of(tensor)), f"spec.call.pattern.{name}")
        return spec

    async def Get(self, request: pb.GetJobRequest, context: Context) -> pb.Job:
        """See the proto file."""
        async with reported(context):
            return _job(await self._board.get(request.name))

    async def List(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsReply:
        """See the proto file."""
        async with reported(context):
            states = [_STATES.get(number) for number in request.states]
            if None in states:
                raise Fault(Reason.INVALID_OPTION, f"states are numbers of JobState, got {list(request.states)}", field="states")
            wanted = [state for state in states if state is not None]
            views, token = await self._board.page(request.page_size, request.page_token, wanted, request.function)
            return pb.ListJobsReply(jobs=map(_job, views), next_page_token=token)

    async def Watch(self, request: pb.WatchJobRequest, context: Context) -> AsyncIterator[pb.Job]:
        """See the proto file."""
        async with reported(context), aclosing(self._board.watch(request.name)) as views:
            async for view in views:
                yield _job(view)

    async def Cancel(self, request: pb.CancelJobRequest, context: Context) -> pb.Job:
        """See the proto file."""
        async with reported(context):
            return _job(await self._board.cancel(request.name))

    async def Retry(self, request: pb.RetryJobRequest, context: Context) -> pb.Job:
        """See the proto file."""
        async with reported(context):
            return _job(await self._board.retry(request.name))

    async def Verify(self, request: pb.VerifyJobRequest, context: Context) -> pb.VerifyJobReply:
        """See the proto file."""
        async with reported(context):
            chunks, damaged = await self._board.verify(request.name)
            return pb.VerifyJobReply(chunks=chunks, damaged=damaged)

    async def Delete(self, request: pb.DeleteJobRequest, context: Context) -> empty_pb2.Empty:
        """See the proto file."""
        async with reported(context):
            await self._board.delete(request.name)
            return empty_pb2.Empty()

    async def Expire(self, request: pb.ExpireJobsRequest, context: Context) -> pb.ExpireJobsReply:
        """See the proto file."""
        async with reported(context):
            return pb.ExpireJobsReply(jobs=map(_job, await self._board.expire(dry=request.dry_run)))

    async def ListFailures(self, request: pb.ListFailuresRequest, context: Context) -> pb.ListFailuresReply:
        """See the proto file."""
        async with reported(context):
            record, rows, token = await self._board.failures(request.name, request.page_size, request.page_token)
            failures = [] if record is None else [_failure(record, row) for row in rows]
            return pb.ListFailuresReply(failures=failures, next_page_token=token)

    async def ReadResult(self, request: pb.ReadResultRequest, context: Context) -> AsyncIterator[pb.ReadResultReply]:
        """See the proto file."""
        async with (
            reported(context),
            aclosing(read(self._board, request.name, request.path, request.first, request.count, request.offset)) as pieces,
        ):
            async for piece in pieces:
                if isinstance(piece, Reading):
                    yield pb.ReadResultReply(type=type_to_message(piece.type), nbytes=piece.nbytes)
                else:
                    box = pb.Piece(starts=piece.starts, counts=piece.counts, data=bytes(piece.data), offset=piece.offset)
                    yield pb.ReadResultReply(piece=box)


def order_of(spec: pb.JobSpec) -> Order:
    """Returns a spec as plain values.

    Raises:
        Fault: A field has a value that it cannot have.
    """
    derivative = _DERIVATIVES.get(spec.derivative)
    if derivative is None:
        text = f"derivative is one of {', '.join(pb.JobDerivative.keys()[1:])}, got {spec.derivative}"
        raise Fault(Reason.INVALID_OPTION, text, field="spec.derivative")
    call = decode(derivative, spec.call)
    return Order(
        call=call,
        leaves=tuple(spec.points),
        out=spec.out,
        display_name=spec.display_name,
        priority=spec.priority,
        deadline=_seconds(spec.deadline) if spec.HasField("deadline") else None,
        ttl=spec.ttl.ToTimedelta().total_seconds() if spec.HasField("ttl") else None,
        request_id=spec.request_id,
        spec=_kept(spec),
    )


def _kept(spec: pb.JobSpec) -> bytes:
    """Returns what is kept of a spec: without the arguments' elements, which are stored, and without the names that they travelled under."""
    kept = pb.JobSpec.FromString(spec.SerializeToString())
    for tensor in (*kept.call.args, *kept.call.seeds):
        for field in ("data", "blob", "offset"):
            tensor.ClearField(field)
    return kept.SerializeToString(deterministic=True)


def decoded(spec: bytes) -> Order:
    """Returns the order in the bytes of a spec."""
    return order_of(pb.JobSpec.FromString(spec))


async def _points(first: pb.CreateJobRequest, rest: AsyncIterator[pb.CreateJobRequest]) -> AsyncGenerator[tuple[int, Sequence[bytes]]]:
    """Yields the points of a stream, and raises where it does not end as a whole one does."""
    request = first
    while True:
        if request.HasField("points"):
            yield request.points.count, request.points.leaves
        if request.last:
            break
        following = await anext(rest, None)
        if following is None:
            raise Fault(Reason.INVALID_OPTION, "the stream ended without a message that is its last; send all points again", field="last")
        request = following
        if request.HasField("spec"):
            raise Fault(Reason.INVALID_OPTION, "the spec is in the first message alone; this stream has another one", field="spec")
    if await anext(rest, None) is not None:
        raise Fault(Reason.INVALID_OPTION, "a message followed the one that says that it is the last", field="last")


def _job(view: View) -> pb.Job:
    entry, counts = view.entry, view.entry.counts
    job = pb.Job(
        name=f"jobs/{entry.id}",
        display_name=entry.display_name,
        state=_STATE_NUMBERS[entry.state],
        function=f"functions/{entry.function}",
        derivative=_DERIVATIVE_NUMBERS[entry.derivative],
        points=entry.points,
        points_done=counts.points_done,
        points_failed=counts.points_failed,
        points_not_finite=counts.points_not_finite,
        units=entry.units,
        units_done=counts.units_done,
        units_failed=counts.units_failed,
        retries=counts.retries,
        rate=view.rate,
        eta=view.eta,
        workers=view.workers,
        plan=plan_to_message(view.record.plan) if view.record else None,
        out=entry.out,
        store=str(view.store),
        arrays=map(_array, view.record.results) if view.record else (),
        message=view.message[:_MOST_TEXT],
        priority=entry.priority,
        create_time=_time(entry.created),
        request_id=entry.request_id,
        sparse=view.record is not None and view.record.sparse,
    )
    if entry.started is not None:
        job.start_time.CopyFrom(_time(entry.started))
    if entry.ended is not None:
        job.end_time.CopyFrom(_time(entry.ended))
        if entry.ttl is not None:
            job.expire_time.CopyFrom(_time(entry.ended + entry.ttl))
    if entry.deadline is not None:
        job.deadline.CopyFrom(_time(entry.deadline))
    return job


def _array(result: Result) -> pb.ResultArray:
    part = derivative_service_pb2.Part.ValueType(result.part)
    return pb.ResultArray(
        path=result.path, part=part, output=result.output, input=result.input, input2=result.input2, type=type_to_message(result.type)
    )


def _failure(record: Record, row: UnitRow) -> pb.UnitFailure:
    unit = record.division.unit(row.number)
    return pb.UnitFailure(
        first=unit.first,
        count=unit.count,
        start=unit.start,
        seeds=unit.seeds,
        attempts=row.attempts,
        reason=row.reason,
        message=row.message[:_MOST_TEXT],
    )


def _time(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromtimestamp(seconds, UTC))
    return stamp


def _seconds(stamp: Timestamp) -> float:
    return stamp.ToDatetime(UTC).timestamp()
