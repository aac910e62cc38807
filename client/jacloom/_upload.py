"""Arrays that do not fit a message: constants by digest, uploaded once, and inputs as leased blobs, for one call."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import grpc
import numpy as np

from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import JacloomError, faults
from jacloom._retry import retrying
from jacloom_api.v1 import blob_service_pb2, graph_pb2
from jacloom_graph import blobnames, tensor, wire
from jacloom_graph.framing import Pieces, field
from jacloom_graph.identity import constant_digest
from jacloom_graph.types import Graph, Type

CHUNK_BYTES = 1 << 20
"""Measured: 1 to 4 MiB a message carry most bytes a second."""
CONSTANT_BYTES = 64 << 10
"""Constants above this travel apart from their graph."""
INLINE_BYTES = 1 << 20
"""Inputs that are larger than this together are leased, the largest first."""
ALIGNMENT = 64
"""Arrays begin at multiples of this many bytes in a blob, where workers can read them in place."""
PARALLEL = 3
"""Blobs under way at once: one being sent, the others being hashed and stored."""
RELEASE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Parcel:
    """A graph ready for registration."""

    graph: bytes
    constants: Mapping[str, memoryview]
    """Bytes of the constants that the graph only names, by digest."""


def pack(graph: Graph) -> Parcel:
    """Returns a graph serialized without its large constants, and those."""
    blobs: dict[str, memoryview] = {}
    constants = []
    for constant in graph.constants:
        if constant.data is not None and constant.data.nbytes > CONSTANT_BYTES:
            content = tensor.raw(constant.data)
            digest = constant_digest(constant).hex()
            blobs[digest] = content
            constant = replace(constant, data=None, blob=blobnames.by_digest(digest))
        constants.append(constant)
    with faults():
        return Parcel(wire.to_bytes(replace(graph, constants=tuple(constants))), blobs)


def upload_constants(connection: Connection, parcel: Parcel, deadline: Deadline) -> None:
    """Uploads those constants that the service does not hold."""
    if not parcel.constants:
        return
    digests = {blobnames.by_digest(digest): digest for digest in parcel.constants}
    request = blob_service_pb2.MissingRequest(names=list(digests))
    missing = [digests[name] for name in connection.unary(lambda stubs: stubs.blobs.Missing, request, deadline).names]
    _put(connection, [(digest, [parcel.constants[digest]]) for digest in missing], deadline)


def tensors(connection: Connection, arrays: Sequence[np.ndarray], types: Sequence[Type], deadline: Deadline) -> tuple[list[Pieces], list[str]]:
    """Returns serialized ``Tensor`` messages for arrays, inline where they are small, and the names of the blobs that the others were uploaded to."""
    apart = _apart([array.nbytes for array in arrays])
    offsets: dict[int, int] = {}
    content: Pieces = []
    size = 0
    for at in apart:
        offsets[at] = size
        content += (tensor.raw(arrays[at]), bytes(-arrays[at].nbytes % ALIGNMENT))
        size += sum(memoryview(piece).nbytes for piece in content[-2:])
    # One upload for all: four beside each other took three times as long, on both sides they want the same interpreter.
    leased = _put(connection, [("", content)], deadline) if apart else []
    messages: list[Pieces] = []
    for at, (array, type_) in enumerate(zip(arrays, types, strict=True)):
        message = graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape)
        if at in offsets:
            message.blob, message.offset = leased[0], offsets[at]
            messages.append([message.SerializeToString()])
        else:
            messages.append([message.SerializeToString(), *field(graph_pb2.Tensor.DATA_FIELD_NUMBER, tensor.raw(array))])
    return messages, leased


def release(connection: Connection, names: Sequence[str]) -> None:
    """Tells the service that leased blobs are not needed any more, without waiting: it would drop them by itself later."""
    if not names:
        return
    # A service that cannot be reached any more is told nothing. The callers' own error, if there is one, matters more.
    with suppress(JacloomError), connection.stubs(Deadline(None)) as stubs:
        for name in names:
            call = stubs.blobs.Release.future(blob_service_pb2.ReleaseRequest(name=name), timeout=RELEASE_SECONDS, metadata=stubs.metadata)
            # The callback keeps the call alive; a call that nobody holds is cancelled by the collector.
            call.add_done_callback(lambda done: None)


def _apart(sizes: Sequence[int]) -> list[int]:
    """Returns which arrays are uploaded apart, by number: the largest, until the others together are small."""
    total, found = sum(sizes), []
    for at in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        if total <= INLINE_BYTES:
            break
        found.append(at)
        total -= sizes[at]
    return found


def _put(connection: Connection, blobs: Sequence[tuple[str, Pieces]], deadline: Deadline) -> list[str]:
    """Uploads blobs, each given by its digest (empty for a leased one) and its content, and returns their names."""
    names: dict[int, str] = {}

    def attempt() -> None:
        under_way: dict[int, grpc.Future[blob_service_pb2.Blob]] = {}

        def await_oldest() -> None:
            number = next(iter(under_way))
            names[number] = under_way[number].result().name
            del under_way[number]

        with connection.stubs(deadline) as stubs:
            try:
                for number, (digest, content) in enumerate(blobs):
                    if number not in names:  # arrived in an earlier attempt
                        sent = threading.Event()
                        chunks = _noting(_chunks(digest, content), sent)
                        under_way[number] = stubs.put.future(chunks, timeout=deadline.remaining(), metadata=stubs.metadata)
                        under_way[number].add_done_callback(partial(_note, sent))
                        # One after the other on the wire, and the next while the service still stores the last ones.
                        sent.wait()
                    if len(under_way) == PARALLEL:
                        await_oldest()
                while under_way:
                    await_oldest()
            finally:
                for put in under_way.values():
                    put.cancel()

    retrying(attempt, deadline)
    return [names[number] for number in range(len(blobs))]


def _note(sent: threading.Event, _: object) -> None:
    sent.set()


def _noting(chunks: Iterator[bytes], sent: threading.Event) -> Iterator[bytes]:
    """Yields chunks, and notes when all of them have been taken."""
    yield from chunks
    sent.set()


def _chunks(sha256: str, content: Pieces) -> Iterator[bytes]:
    """Yields the serialized ``PutRequest`` messages of one upload."""
    size = sum(memoryview(piece).nbytes for piece in content)
    yield blob_service_pb2.PutRequest(header=blob_service_pb2.PutHeader(sha256=sha256, size=size)).SerializeToString()
    for parts in _cut(content, CHUNK_BYTES):
        yield b"".join(field(blob_service_pb2.PutRequest.DATA_FIELD_NUMBER, *parts))


def _cut(content: Pieces, most: int) -> Iterator[Pieces]:
    """Yields content in groups of consecutive parts, each group of ``most`` bytes but for the last."""
    parts: Pieces = []
    room = most
    for piece in content:
        rest = memoryview(piece)
        while rest.nbytes:
            part, rest = rest[:room], rest[room:]
            parts.append(part)
            room -= part.nbytes
            if not room:
                yield parts
                parts, room = [], most
    if parts:
        yield parts
