"""From a failure to the gRPC status that a client sees: one total table, and nothing of our insides beyond it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, Final

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

from jacloom_graph.errors import DOMAIN, Fault, Reason

_LOG = logging.getLogger(__name__)

_DETAILS: Final = "grpc-status-details-bin"
_MOST_TEXT: Final = 2048
"""Characters of a message: details beyond about 8 KiB are lost on the way, so text, field and metadata stay below half of that."""
_RETRY_SECONDS: Final = 1

CODES: Final = MappingProxyType(
    {
        Reason.INVALID_GRAPH: grpc.StatusCode.INVALID_ARGUMENT,
        Reason.UNSUPPORTED_OP: grpc.StatusCode.UNIMPLEMENTED,
        Reason.TYPE_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
        Reason.ARGUMENT_MISMATCH: grpc.StatusCode.INVALID_ARGUMENT,
        Reason.INVALID_OPTION: grpc.StatusCode.INVALID_ARGUMENT,
        Reason.MODE_UNAVAILABLE: grpc.StatusCode.INVALID_ARGUMENT,
        Reason.FUNCTION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Reason.BLOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Reason.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
        Reason.OVER_QUOTA: grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.OUT_OF_MEMORY: grpc.StatusCode.FAILED_PRECONDITION,
        Reason.TOO_SLOW: grpc.StatusCode.FAILED_PRECONDITION,
        Reason.POISONED: grpc.StatusCode.FAILED_PRECONDITION,
        Reason.NO_WORKERS: grpc.StatusCode.UNAVAILABLE,
        Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
        Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        Reason.INTERNAL: grpc.StatusCode.INTERNAL,
        Reason.JOB_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        Reason.JOBS_UNAVAILABLE: grpc.StatusCode.FAILED_PRECONDITION,
        Reason.JOB_NOT_ENDED: grpc.StatusCode.FAILED_PRECONDITION,
        Reason.REQUEST_CONFLICT: grpc.StatusCode.ALREADY_EXISTS,
        Reason.RESULT_NOT_READY: grpc.StatusCode.FAILED_PRECONDITION,
        Reason.STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        Reason.FUNCTION_IN_USE: grpc.StatusCode.FAILED_PRECONDITION,
    }
)
"""The code of each reason. A client may try again what is UNAVAILABLE or, after the delay in RetryInfo, RESOURCE_EXHAUSTED; all else fails again."""


def to_fault(error: BaseException) -> Fault:
    """Returns the fault that a client may see for any exception: itself, or INTERNAL with an id under which the log has the exception."""
    if isinstance(error, Fault):
        return error
    identity = secrets.token_hex(8)
    _LOG.error("internal error %s", identity, exc_info=error)
    return Fault(Reason.INTERNAL, f"the service failed in a way that it did not foresee; its log has the details under {identity}")


def to_status(fault: Fault) -> status_pb2.Status:
    """Returns the rich status of a fault: ErrorInfo always, BadRequest where a field is at fault, RetryInfo where waiting helps."""
    metadata = {"field": fault.field}
    if fault.place is not None:
        metadata |= {"function": str(fault.place.function), "op": fault.place.op}
        if fault.place.node is not None:
            metadata["node"] = str(fault.place.node)
    text = _short(fault.message)
    status = status_pb2.Status(code=_number(CODES[fault.reason]), message=text)
    info = {key: _short(value, 256) for key, value in metadata.items() if value}
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=fault.reason.value, domain=DOMAIN, metadata=info))
    if fault.field and CODES[fault.reason] is grpc.StatusCode.INVALID_ARGUMENT:
        # The description stays short: the whole text is the status's message already.
        violation = error_details_pb2.BadRequest.FieldViolation(field=info["field"], description=_short(text, 512))
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
    if fault.reason is Reason.OVER_QUOTA:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=_RETRY_SECONDS)))
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], fault: Fault) -> None:
    """Ends a call with a fault's status; raises what grpc.aio raises to leave the handler."""
    status = to_status(fault)
    context.set_trailing_metadata(((_DETAILS, status.SerializeToString()),))
    await context.abort(CODES[fault.reason], status.message)


@asynccontextmanager
async def reported(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Turns whatever the handler's body raises into the status of the call."""
    try:
        yield
    except (asyncio.CancelledError, grpc.aio.AbortError):
        # The client is gone, or the server stops and grpc.aio ends the call itself.
        raise
    except Exception as error:
        await abort(context, to_fault(error))


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


def _short(text: str, most: int = _MOST_TEXT) -> str:
    """Returns a text of at most ``most`` bytes in UTF-8, which is what travels."""
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most else data[: most - 3].decode("utf-8", "ignore") + "..."
