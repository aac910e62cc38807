"""Requests that are no message of the method they are sent to: refused as what they are, where gRPC would say UNKNOWN and log a traceback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from jacloom_graph.errors import Fault, Reason
from jacloom_server.edges.handlers import Continuation, Handler, replaced
from jacloom_server.status import reported

_OURS: Final = "/jacloom_api.v1."


class Decoding(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Hands a fault to the handler in place of a request that cannot be decoded, and has it end the call."""

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Handler:
        """Returns a method's handler that refuses what is no request."""
        handler = await continuation(details)
        # The stubs do not say so, but there is no handler for a method that nobody serves. Those of health and reflection have forms of their own.
        if not handler or not handler.request_deserializer or not details.method.startswith(_OURS):
            return handler
        decode = handler.request_deserializer

        def decoded(data: bytes) -> Any:
            try:
                return decode(data)
            except DecodeError:
                text = f"the {len(data):,} bytes are no request of {details.method}; use stubs that were generated from this service's .proto files"
                return Fault(Reason.ARGUMENT_MISMATCH, text)

        return replaced(handler, lambda behaviour: _refusing(behaviour, handler), decoded)


def _refusing(behaviour: Any, handler: Handler) -> Any:
    """Returns the behaviour of a handler, but for requests that are faults."""
    accepted = _accepted_each if handler.request_streaming else _accepted

    async def unary(request: Any, context: Any) -> Any:
        async with reported(context):
            return await behaviour(accepted(request), context)

    async def streamed(request: Any, context: Any) -> AsyncIterator[Any]:
        async with reported(context), aclosing(behaviour(accepted(request), context)) as replies:
            async for reply in replies:
                yield reply

    return streamed if handler.response_streaming else unary


def _accepted(request: Any) -> Any:
    if isinstance(request, Fault):
        raise request
    return request


async def _accepted_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _accepted(request)
