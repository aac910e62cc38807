"""``BlobService``: messages in, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc
import numpy as np

from jacloom_api.v1 import blob_service_pb2 as pb
from jacloom_api.v1 import blob_service_pb2_grpc
from jacloom_graph.errors import Fault, Reason
from jacloom_server.blobs import Blobs
from jacloom_server.status import reported

Context = grpc.aio.ServicerContext[Any, Any]

_MOST_NAMES: Final = 10_000


class BlobServicer(blob_service_pb2_grpc.BlobServiceServicer):
    """The store of blobs, as messages."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def Missing(self, request: pb.MissingRequest, context: Context) -> pb.MissingReply:
        """See the proto file, as for all methods here."""
        async with reported(context):
            if len(request.names) > _MOST_NAMES:
                raise Fault(Reason.TOO_LARGE, f"at most {_MOST_NAMES:,} names may be asked for at once, got {len(request.names):,}", field="names")
            return pb.MissingReply(names=await self._blobs.missing(request.names))

    async def Put(self, request: AsyncIterator[pb.PutRequest], context: Context) -> pb.Blob:
        """See the proto file."""
        async with reported(context):
            messages = aiter(request)
            first = await anext(messages, None)
            if first is None:
                raise Fault(Reason.ARGUMENT_MISMATCH, "an upload has at least one message, with a header; none came", field="header")
            if not first.HasField("header"):
                raise Fault(Reason.ARGUMENT_MISMATCH, "the first message of an upload must have a header", field="header")
            digest = first.header.sha256
            with self._blobs.uploading(first.header.size, digest) as buffer:
                filled = _fill(buffer, 0, first.data)
                async for message in messages:
                    filled = _fill(buffer, filled, message.data)
                if filled != buffer.size:
                    raise Fault(Reason.ARGUMENT_MISMATCH, f"the header says {buffer.size:,} bytes, {filled:,} came", field="data")
                blob = await self._blobs.keep(buffer, digest)
            return pb.Blob(name=blob.name, size=blob.size, lease_seconds=0.0 if digest else self._blobs.lease)

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        """See the proto file."""
        async with reported(context):
            self._blobs.release(request.name)
            return pb.ReleaseReply()


def _fill(buffer: np.ndarray, filled: int, data: bytes) -> int:
    """Copies a piece of an upload to its place and returns how many bytes have come."""
    if filled + len(data) > buffer.size:
        raise Fault(Reason.ARGUMENT_MISMATCH, f"the header says {buffer.size:,} bytes, and more have come", field="data")
    buffer[filled : filled + len(data)] = np.frombuffer(data, np.uint8)
    return filled + len(data)
