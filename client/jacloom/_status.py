"""From a gRPC status to the SDK's error: by reason where the service gives one, else by code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from jacloom._deadline import Deadline
from jacloom._errors import (
    BY_REASON,
    AuthenticationError,
    InternalError,
    JacloomError,
    OptionError,
    ProtocolError,
    TooLargeError,
    UnavailableError,
)
from jacloom_graph.errors import DOMAIN, Place, Reason

_DETAILS = "grpc-status-details-bin"

BY_CODE: Mapping[grpc.StatusCode, tuple[type[JacloomError], str]] = MappingProxyType(
    {
        grpc.StatusCode.UNAVAILABLE: (UnavailableError, "the service cannot be reached"),
        grpc.StatusCode.UNAUTHENTICATED: (AuthenticationError, "the service does not accept the token"),
        grpc.StatusCode.PERMISSION_DENIED: (AuthenticationError, "the service does not allow this"),
        grpc.StatusCode.RESOURCE_EXHAUSTED: (TooLargeError, "a message is larger than the connection allows, or the service is overloaded"),
        grpc.StatusCode.UNIMPLEMENTED: (ProtocolError, "this address does not offer the method; is it a jacloom service of this version?"),
        grpc.StatusCode.INVALID_ARGUMENT: (OptionError, "the service refused the request"),
        grpc.StatusCode.CANCELLED: (UnavailableError, "the call was cancelled by the service or on the way"),
    }
)
"""What a status without a reason of ours means: it comes from gRPC itself or from something between here and the service."""


def from_rpc(error: grpc.RpcError, deadline: Deadline) -> JacloomError:
    """Returns the SDK's error for a failed call."""
    # What gRPC raises from a call is the call itself, which its types do not say.
    call = cast(grpc.Call, error)
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return deadline.exceeded()
    status = _status(call)
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    retry_after = None
    for detail in status.details:
        detail.Unpack(info)  # type: ignore[no-untyped-call, unused-ignore]
        if detail.Unpack(retry):  # type: ignore[no-untyped-call, unused-ignore]
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    if info.domain == DOMAIN and info.reason in Reason.__members__:
        reason = Reason[info.reason]
        return BY_REASON[reason](
            status.message or details, reason=reason, field=info.metadata.get("field", ""), place=_place(info.metadata), retry_after=retry_after
        )
    kind, meaning = BY_CODE.get(code, (InternalError, "the service failed in a way that this client does not know"))
    return kind(f"{meaning}: {details or code.name}", retry_after=retry_after)


def _status(call: grpc.Call) -> status_pb2.Status:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status()


def _place(metadata: Mapping[str, str]) -> Place | None:
    function, node = metadata.get("function", ""), metadata.get("node", "")
    if not function.isdecimal():
        return None
    return Place(int(function), int(node) if node.isdecimal() else None, metadata.get("op", ""))
