"""The call that makes a job: its messages, and the stream that carries them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jacloom import _call
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._jobs.feed import Feed
from jacloom._jobs.kinds import JobDerivative
from jacloom._jobs.order import Order
from jacloom._jobs.record import DERIVATIVES, JobRecord, record_from_message
from jacloom._query import Query
from jacloom_api.v1 import graph_pb2
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph import tensor
from jacloom_graph.framing import Pieces, field
from jacloom_graph.types import Type


@dataclass(frozen=True, slots=True)
class Parts:
    """The arrays of a request in the order of their fields: each a serialized tensor, without elements where each point has its own."""

    args: Sequence[Pieces]
    seeds: Sequence[Pieces]
    pattern: Sequence[Pieces]


def typed(type_: Type) -> Pieces:
    """Returns a serialized tensor without elements."""
    return [graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape).SerializeToString()]


def spec_message(function: str, derivative: JobDerivative, query: Query, points: Sequence[int], parts: Parts, order: Order) -> bytes:
    """Returns the first message of the stream.

    Args:
        function: Its resource name.
        derivative: What is computed at each point.
        query: The same as the service is asked for it at one point.
        points: The input leaves that each point has of its own.
        parts: Arguments, seeds, and the pattern.
        order: What is wanted besides.
    """
    asked = _call.request(function, query.chosen, _call.options(query))
    call = _call.serialized(asked, parts.args, parts.seeds, pattern=parts.pattern)
    number = next(number for number, name in DERIVATIVES.items() if name == derivative)
    spec = pb.JobSpec(
        derivative=number,  # type: ignore[arg-type]
        points=points,
        out=order.out,
        display_name=order.display_name,
        priority=order.priority,
        request_id=order.request_id,
    )
    if order.deadline is not None:
        spec.deadline.FromDatetime(order.deadline)
    if order.ttl is not None:
        spec.ttl.FromNanoseconds(round(order.ttl * 1e9))
    inner = field(pb.JobSpec.CALL_FIELD_NUMBER, call)
    return b"".join(field(pb.CreateJobRequest.SPEC_FIELD_NUMBER, spec.SerializeToString(), *inner))


def points_message(leaves: Sequence[np.ndarray]) -> bytes:
    """Returns the message with some points: one array for each leaf, then for each seed, whose first axis is that of the points."""
    count = pb.Points(count=len(leaves[0])).SerializeToString()
    pieces = [piece for array in leaves for piece in field(pb.Points.LEAVES_FIELD_NUMBER, tensor.raw(array))]
    return b"".join(field(pb.CreateJobRequest.POINTS_FIELD_NUMBER, count, *pieces))


def last_message() -> bytes:
    """Returns the message that completes the stream. A server cannot tell for sure a stream that was cancelled from one that has ended."""
    return pb.CreateJobRequest(last=True).SerializeToString()


def create(connection: Connection, messages: Iterator[bytes], deadline: Deadline) -> JobRecord:
    """Returns the job that a stream of messages makes, once the service has all of it durably.

    What the iterator raises goes up as it is, and like any interruption cancels the stream: no job is made then.

    Raises:
        JacloomError: what the service's status means.
    """
    raised: BaseException | None = None
    with connection.stubs(deadline) as stubs:
        feed = Feed()
        call = stubs.create.future(feed, timeout=deadline.remaining(), metadata=stubs.metadata)
        call.add_done_callback(lambda done: feed.stop())
        try:
            while True:
                try:
                    message = next(messages, None)
                except BaseException as error:
                    # Kept apart from what the service says: it may be an error of another service's.
                    raised = error
                    break
                if message is None:
                    feed.complete()
                elif feed.put(message):
                    continue
                return record_from_message(call.result())
        finally:
            call.cancel()  # type: ignore[no-untyped-call, unused-ignore]  # does nothing to one that is done
    assert raised is not None
    raise raised
