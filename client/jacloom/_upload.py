"""Arrays that do not fit a message: constants by digest, uploaded once, and inputs as leased blobs, for one call."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import grpc
import numpy as np

from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import faults
from jacloom._retry import retrying
from jacloom._status import from_rpc
from jacloom_api.v1 import blob_service_pb2, graph_pb2
from jacloom_graph import tensor, wire
from jacloom_graph.types import Graph, Type

CHUNK_BYTES = 1 << 20
"""Measured: 1 to 4 MiB a message carry most bytes a second."""
CONSTANT_BYTES = 64 << 10
"""Constants above this travel apart from their graph."""
INLINE_BYTES = 1 << 20
"""Inputs that are larger than this together are leased, the largest first."""
BLOB_PREFIX = "blobs/sha256:"
"""What the name of a blob begins with that is kept by the digest of its content."""
PARALLEL = 4
"""Constants uploaded at once."""
RELEASE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """A graph ready for registration."""

    graph: bytes
    constants: Mapping[str, memoryview]
    """Bytes of the constants that the graph only names, by blob name."""


def pack(graph: Graph) -> Parcel:
    """Returns a graph serialized without its large constants, and those."""
    blobs: dict[str, memoryview] = {}
    constants = []
    for constant in graph.constants:
        if constant.data is not None and constant.data.nbytes > CONSTANT_BYTES:
            content = tensor.raw(constant.data)
            name = f"{BLOB_PREFIX}{hashlib.sha256(content).hexdigest()}"
            blobs[name] = content
            constant = replace(constant, data=None, blob=name)
        constants.append(constant)
    with faults():
        return Parcel(wire.to_bytes(replace(graph, constants=tuple(constants))), blobs)


def upload_constants(connection: Connection, parcel: Parcel, deadline: Deadline) -> None:
    """Uploads those constants that the service does not hold."""
    if not parcel.constants:
        return
    request = blob_service_pb2.MissingRequest(names=list(parcel.constants))
    missing = list(connection.unary(lambda stubs: stubs.blobs.Missing, request, deadline).names)
    for start in range(0, len(missing), PARALLEL):
        batch = missing[start : start + PARALLEL]
        _put_all(connection, {name.removeprefix(BLOB_PREFIX): parcel.constants[name] for name in batch}, deadline)


def tensors(
    connection: Connection, arrays: Sequence[np.ndarray], types: Sequence[Type], deadline: Deadline
) -> tuple[list[graph_pb2.Tensor], list[str]]:
    """Returns messages for arrays, inline where they are small, and the names of the blobs that the others were uploaded to."""
    sizes = [array.nbytes for array in arrays]
    total = sum(sizes)
    leased: dict[int, str] = {}
    if total > INLINE_BYTES:
        apart = []
        for at in sorted(range(len(arrays)), key=sizes.__getitem__, reverse=True):
            if total <= INLINE_BYTES:
                break
            apart.append(at)
            total -= sizes[at]
        leased = dict(zip(apart, _put_all(connection, [tensor.raw(arrays[at]) for at in apart], deadline), strict=True))
    messages = []
    for at, (array, type_) in enumerate(zip(arrays, types, strict=True)):
        if at in leased:
            messages.append(graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape, blob=leased[at]))
        else:
            messages.append(graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape, data=tensor.raw(array).tobytes()))
    return messages, list(leased.values())


def types_only(types: Sequence[Type]) -> list[graph_pb2.Tensor]:
    """Returns messages of these types without elements."""
    return [graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape) for type_ in types]


def release(connection: Connection, names: Sequence[str]) -> None:
    """Tells the service that leased blobs are not needed any more, without waiting: it would drop them by itself later."""
    if not names:
        return
    stubs = connection.stubs(Deadline(None))
    for name in names:
        call = stubs.blobs.Release.future(blob_service_pb2.ReleaseRequest(name=name), timeout=RELEASE_SECONDS, metadata=stubs.metadata)
        # The callback keeps the call alive; a call that nobody holds is cancelled by the collector.
        call.add_done_callback(lambda done: None)


def _put_all(connection: Connection, contents: Mapping[str, memoryview] | Sequence[memoryview], deadline: Deadline) -> list[str]:
    """Uploads at the same time, by digest where there is one, and returns the blobs' names."""
    pairs = [*contents.items()] if isinstance(contents, Mapping) else [("", content) for content in contents]
    stubs = connection.stubs(deadline)

    def attempt() -> list[str]:
        connection.service.require_alive()
        puts = [stubs.blobs.Put.future(_chunks(digest, content), timeout=deadline.remaining(), metadata=stubs.metadata) for digest, content in pairs]
        try:
            return [put.result().name for put in puts]
        except grpc.RpcError as error:
            raise from_rpc(error, deadline) from None
        finally:
            for put in puts:
                put.cancel()  # type: ignore[no-untyped-call]  # does nothing to those that are done

    return retrying(attempt, deadline)


def _chunks(sha256: str, content: memoryview) -> Iterator[blob_service_pb2.PutRequest]:
    header = blob_service_pb2.PutHeader(sha256=sha256, size=content.nbytes)
    yield blob_service_pb2.PutRequest(header=header, data=content[:CHUNK_BYTES].tobytes())
    for start in range(CHUNK_BYTES, content.nbytes, CHUNK_BYTES):
        yield blob_service_pb2.PutRequest(data=content[start : start + CHUNK_BYTES].tobytes())
