"""Every error that the SDK raises, and which of them each reason of the service becomes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jacloom_graph.errors import Fault, Place, Reason

if TYPE_CHECKING:
    from jacloom._certificate import Certificate


class JacloomError(Exception):
    """Base of all errors of the SDK. The text says what was expected, what came, and what to do.

    Attributes:
        message: The text, without the place.
        reason: The service's stable name for the failure; None where the SDK found it.
        field: Path of the request field at fault, such as ``"args[2]"``; empty where none is.
        place: Where in the graph, or None.
        source: The user's ``file:line`` of that place, or None.
        retry_after: Seconds after which the service wants to be asked again, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Reason | None = None,
        field: str = "",
        place: Place | None = None,
        source: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.field = field
        self.place = place
        self.source = source
        self.retry_after = retry_after

    def __str__(self) -> str:
        if self.source:
            return f"{self.message} (at {self.source})"
        return f"{self.message} ({self.place})" if self.place else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by calling the class with `args`; keyword-only parameters travel as state instead.
        return (type(self), (self.message,), dict(self.__dict__))


class JacloomWarning(UserWarning):
    """Something was left out of a graph: the service computes the same values, but prints nothing and checks nothing for the user."""


class ArgumentError(JacloomError, ValueError):
    """An argument does not fit the function: its number, tree, dtype, shape, or an index into the arguments."""


class OptionError(JacloomError, ValueError):
    """An option has a value outside its range, or two options exclude each other."""


class TraceError(JacloomError):
    """The function cannot be turned into a graph."""


class UnsupportedOpError(JacloomError):
    """The function uses an operation that graphs do not have."""


class GraphError(JacloomError):
    """A graph breaks a rule of the format, or its types do not fit together."""


class ModeUnavailableError(JacloomError):
    """The function has no derivative in the mode asked for, or in any."""


class FunctionNotFoundError(JacloomError, LookupError):
    """The service holds no function of that id."""


class JobNotFoundError(JacloomError, LookupError):
    """The service has no job of that name."""


class JobError(JacloomError):
    """A job cannot do this: the service keeps none, it has or has not ended, its id stands for another, or its results are not there (yet)."""


class BlobNotFoundError(JacloomError, LookupError):
    """The service no longer holds an uploaded array."""


class TooLargeError(JacloomError):
    """The request or its result is larger than the service allows, whatever its load."""


class QuotaError(JacloomError):
    """A quota is used up for now; ``retry_after`` says when to come back."""


class OutOfMemoryError(JacloomError, MemoryError):
    """The computation needed more memory than a worker has, or its result more than this process has."""


class TooSlowError(JacloomError):
    """Compiling or computing took longer than the service allows."""


class PoisonedError(JacloomError):
    """One part of the work ended several workers and is not tried again."""


class UnavailableError(JacloomError, ConnectionError):
    """The service cannot be reached, is shutting down, or has no workers."""


class LocalServiceError(UnavailableError):
    """The local service did not start, or ended; the text has the end of its log."""


class AuthenticationError(JacloomError):
    """The service wants a token, or does not accept the one it got."""


class InternalError(JacloomError):
    """A defect of the service; the text carries an id under which the service's log has the details."""


class ProtocolError(JacloomError):
    """The service's answer is incomplete or does not fit the request."""


class VerificationError(JacloomError):
    """A derivative is not what the function's own passes say; it is not returned.

    Attributes:
        certificate: The comparison, with its figures.
    """

    def __init__(self, message: str, *, certificate: Certificate | None = None, **known: Any) -> None:
        super().__init__(message, **known)
        self.certificate = certificate


class DeadlineExceeded(JacloomError, TimeoutError):
    """The call did not end within its ``timeout``; the service was told to stop."""


class ClientStateError(JacloomError, RuntimeError):
    """A client was used where it cannot work: closed, after a fork, or while JAX traces."""


class MissingExtraError(JacloomError, ImportError):
    """An optional part of the installation is needed and not there."""


BY_REASON: Mapping[Reason, type[JacloomError]] = MappingProxyType(
    {
        Reason.INVALID_GRAPH: GraphError,
        Reason.UNSUPPORTED_OP: UnsupportedOpError,
        Reason.TYPE_MISMATCH: GraphError,
        Reason.ARGUMENT_MISMATCH: ArgumentError,
        Reason.INVALID_OPTION: OptionError,
        Reason.MODE_UNAVAILABLE: ModeUnavailableError,
        Reason.FUNCTION_NOT_FOUND: FunctionNotFoundError,
        Reason.BLOB_NOT_FOUND: BlobNotFoundError,
        Reason.TOO_LARGE: TooLargeError,
        Reason.OVER_QUOTA: QuotaError,
        Reason.OUT_OF_MEMORY: OutOfMemoryError,
        Reason.TOO_SLOW: TooSlowError,
        Reason.POISONED: PoisonedError,
        Reason.NO_WORKERS: UnavailableError,
        Reason.DRAINING: UnavailableError,
        Reason.UNAUTHENTICATED: AuthenticationError,
        Reason.INTERNAL: InternalError,
        Reason.JOB_NOT_FOUND: JobNotFoundError,
        Reason.JOBS_UNAVAILABLE: JobError,
        Reason.JOB_NOT_ENDED: JobError,
        Reason.REQUEST_CONFLICT: JobError,
        Reason.RESULT_NOT_READY: JobError,
        Reason.STORE_UNAVAILABLE: UnavailableError,
        Reason.FUNCTION_IN_USE: JobError,
    }
)
"""The exception that each reason becomes."""


@contextmanager
def faults() -> Iterator[None]:
    """Turns the graph package's ``Fault`` inside the block into the SDK's error for its reason."""
    try:
        yield
    except Fault as fault:
        raise BY_REASON[fault.reason](fault.message, reason=fault.reason, field=fault.field, place=fault.place) from fault
