"""The handler of a method with another behaviour in its place: what interceptors make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

# In quotes: the stubs make these classes generic, gRPC itself does not.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler]]"
"""Returns the handler of the method that is called, as the interceptors further in and the service have it."""


def replaced(handler: Handler, wrap: Callable[[Any], Any], deserializer: Callable[[bytes], Any] | None = None) -> Handler:
    """Returns a handler of the same form.

    Args:
        handler: The handler.
        wrap: Makes the new behaviour of the old. It must be an ``async def`` itself: gRPC looks.
        deserializer: Decodes requests. Default: the handler's own.
    """
    forms = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    name, make = forms[handler.request_streaming, handler.response_streaming]
    made: Handler = make(
        wrap(getattr(handler, name)),
        request_deserializer=deserializer or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made
