"""``BlobService``: messages in, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

import grpc

from jacloom_api.v1 import blob_service_pb2 as pb
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.framing import only_bytes
from jacloom_server.blobs import Blobs
from jacloom_server.status import reported

Context = grpc.aio.ServicerContext[Any, Any]

SERVICE: Final = pb.DESCRIPTOR.services_by_name["BlobService"].full_name
_MOST_NAMES: Final = 10_000


def piece(message: bytes) -> pb.PutRequest | memoryview:
    """Returns a message of an upload, or only its data where it holds nothing else, which protobuf would copy twice more."""
    data = only_bytes(pb.PutRequest.DATA_FIELD_NUMBER, message)
    return pb.PutRequest.FromString(message) if data is None else data


def _later(message: pb.PutRequest) -> bytes:
    if message.HasField("header"):
        text = "only the first message of an upload has a header, and another came: begin a new upload for other content"
        raise Fault(Reason.ARGUMENT_MISMATCH, text, field="header")
    return message.data


class BlobServicer:
    """The store of blobs, as messages."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    def add_to(self, server: grpc.aio.Server) -> None:
        """Has a server answer with this. Not by the generated function: pieces of uploads are not decoded by protobuf, see ``piece``."""
        handlers = {
            "Missing": grpc.unary_unary_rpc_method_handler(
                self.Missing, request_deserializer=pb.MissingRequest.FromString, response_serializer=pb.MissingReply.SerializeToString
            ),
            "Put": grpc.stream_unary_rpc_method_handler(self.Put, request_deserializer=piece, response_serializer=pb.Blob.SerializeToString),
            "Release": grpc.unary_unary_rpc_method_handler(
                self.Release, request_deserializer=pb.ReleaseRequest.FromString, response_serializer=pb.ReleaseReply.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def Missing(self, request: pb.MissingRequest, context: Context) -> pb.MissingReply:
        """See the proto file, as for all methods here."""
        async with reported(context):
            if len(request.names) > _MOST_NAMES:
                raise Fault(Reason.TOO_LARGE, f"at most {_MOST_NAMES:,} names may be asked for at once, got {len(request.names):,}", field="names")
            return pb.MissingReply(names=await self._blobs.missing(request.names))

    async def Put(self, request: AsyncIterator[pb.PutRequest | memoryview], context: Context) -> pb.Blob:
        """See the proto file."""
        async with reported(context):
            messages = aiter(request)
            first = await anext(messages, None)
            if first is None:
                raise Fault(Reason.ARGUMENT_MISMATCH, "an upload has at least one message, with a header; none came", field="header")
            if isinstance(first, memoryview) or not first.HasField("header"):
                raise Fault(Reason.ARGUMENT_MISMATCH, "the first message of an upload must have a header", field="header")
            digest = first.header.sha256
            with self._blobs.uploading(first.header.size, digest) as upload:
                upload.take(first.data)
                async for message in messages:
                    upload.take(message if isinstance(message, memoryview) else _later(message))
                blob = await self._blobs.keep(upload)
            return pb.Blob(name=blob.name, size=blob.size, lease_seconds=0.0 if digest else self._blobs.lease)

    async def Release(self, request: pb.ReleaseRequest, context: Context) -> pb.ReleaseReply:
        """See the proto file."""
        async with reported(context):
            self._blobs.release(request.name)
            return pb.ReleaseReply()
