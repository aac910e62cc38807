"""The elements of a range of points, as the service streams them: resumed where a stream breaks, and complete in the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from itertools import chain
from math import prod

import numpy as np

from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import OutOfMemoryError, ProtocolError, UnavailableError
from jacloom._retry import retrying
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph import tensor
from jacloom_graph.types import Type
from jacloom_graph.wire import type_from_message

Allocate = Callable[[tuple[int, ...], np.dtype], np.ndarray]
"""Makes an array to read into."""


def read(connection: Connection, job: str, path: str, points: range, deadline: Deadline, allocate: Allocate = np.empty) -> np.ndarray:
    """Returns a range of points of one array of a job's results, read straight into an array that is allocated once.

    Args:
        connection: To the service.
        job: Its id.
        path: Of the array within the results, or ``"status"``.
        points: The points, at least one, of step 1; of arrays that all points share, the rows.
        deadline: Of the call.
        allocate: Makes the array, once its shape and dtype are known.

    Raises:
        JobError: if not all of them are finished.
        OutOfMemoryError: if the array cannot be allocated.
        ProtocolError: if the answer is not all that was asked for, once.
    """
    request = pb.ReadResultRequest(name=f"jobs/{job}", path=path, first=points.start, count=len(points))
    found: np.ndarray | None = None
    total = 0
    for reply in _replies(connection, request, deadline):
        if found is None:
            found = _allocated(reply, len(points), path, allocate)
            total = reply.nbytes
            if total != found.nbytes:
                raise ProtocolError(f"the service announced {total} bytes of {path}, whose type needs {found.nbytes}")
        if reply.HasField("piece"):
            _place(found, reply.piece, path)
    if found is None or request.offset != total:
        raise ProtocolError(f"the results of {path} ended after {request.offset} of {total} bytes; they are not used")
    return found


def _replies(connection: Connection, request: pb.ReadResultRequest, deadline: Deadline) -> Iterator[pb.ReadResultReply]:
    """Yields replies, each piece once and in order, and moves the request's offset on: a further stream goes on from there."""
    while True:
        # Until a piece has come, the service may be away: it is asked again. An interruption after that is a new one.
        begun, stream = retrying(lambda: _opened(connection, request, deadline), deadline)
        try:
            for reply in chain(begun, stream):
                if reply.HasField("piece"):
                    if reply.piece.offset != request.offset:
                        raise ProtocolError(f"the service sent bytes from {reply.piece.offset} on where those from {request.offset} on were next")
                    request.offset += len(reply.piece.data)
                yield reply
            return
        except UnavailableError:
            pass
        finally:
            stream.close()


_Stream = Generator[pb.ReadResultReply, None, None]


def _opened(connection: Connection, request: pb.ReadResultRequest, deadline: Deadline) -> tuple[list[pb.ReadResultReply], _Stream]:
    """Returns the replies of a new stream up to the first that has a piece, and the stream."""
    begun: list[pb.ReadResultReply] = []
    stream = _stream(connection, request, deadline)
    for reply in stream:
        begun.append(reply)
        if reply.HasField("piece"):
            break
    return begun, stream


def _stream(connection: Connection, request: pb.ReadResultRequest, deadline: Deadline) -> _Stream:
    with connection.stubs(deadline) as stubs:
        call = stubs.jobs.ReadResult(request, timeout=deadline.remaining(), metadata=stubs.metadata)
        try:
            yield from call
        finally:
            call.cancel()  # type: ignore[no-untyped-call]  # does nothing to one that is done


def _allocated(reply: pb.ReadResultReply, count: int, path: str, allocate: Allocate) -> np.ndarray:
    type_ = type_from_message(reply.type)
    if not type_.shape or type_.shape[0] != count:
        raise ProtocolError(f"the service answered with {_shown(type_)} of {path}, {count} points were asked for")
    try:
        dtype, shape = tensor.storage(type_)
    except KeyError:
        raise ProtocolError(f"the service answered with {_shown(type_)} of {path}, a dtype that this version does not know") from None
    try:
        return allocate(shape, dtype)
    except (MemoryError, ValueError):  # the latter beyond what addresses can tell apart
        raise OutOfMemoryError(
            f"these points of {path} have {prod(shape) * dtype.itemsize:,} bytes, more than this process can allocate; read fewer at a time, or have "
            "job.fetch write them to a file"
        ) from None


def _place(array: np.ndarray, box: pb.Piece, path: str) -> None:
    starts, counts = box.starts, box.counts
    inside = len(starts) == len(counts) == array.ndim and all(
        start + count <= extent for start, count, extent in zip(starts, counts, array.shape, strict=True)
    )
    if not inside or len(box.data) != prod(counts) * array.itemsize:
        raise ProtocolError(f"the service sent a part of {path} that lies outside of it, or not the bytes that its size needs")
    where = tuple(slice(start, start + count) for start, count in zip(starts, counts, strict=True))
    array[where] = np.frombuffer(box.data, array.dtype).reshape(tuple(counts))


def _shown(type_: Type) -> str:
    return str(type_) if type_.dtype else "no type"
