"""What can go wrong, as one exception with a stable reason. Nothing here knows gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, Self

DOMAIN: Final = "jacloom"
"""The domain of our reasons in ``google.rpc.ErrorInfo``."""


class Reason(Enum):
    """Stable names of failures; each is a value of ``jacloom_api.v1.Reason`` and is documented there."""

    INVALID_GRAPH = "INVALID_GRAPH"
    UNSUPPORTED_OP = "UNSUPPORTED_OP"
    TYPE_MISMATCH = "TYPE_MISMATCH"
    ARGUMENT_MISMATCH = "ARGUMENT_MISMATCH"
    INVALID_OPTION = "INVALID_OPTION"
    MODE_UNAVAILABLE = "MODE_UNAVAILABLE"
    FUNCTION_NOT_FOUND = "FUNCTION_NOT_FOUND"
    BLOB_NOT_FOUND = "BLOB_NOT_FOUND"
    TOO_LARGE = "TOO_LARGE"
    OVER_QUOTA = "OVER_QUOTA"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    TOO_SLOW = "TOO_SLOW"
    POISONED = "POISONED"
    NO_WORKERS = "NO_WORKERS"
    DRAINING = "DRAINING"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    INTERNAL = "INTERNAL"
    JOB_NOT_FOUND = "JOB_NOT_FOUND"
    JOBS_UNAVAILABLE = "JOBS_UNAVAILABLE"
    JOB_NOT_ENDED = "JOB_NOT_ENDED"
    REQUEST_CONFLICT = "REQUEST_CONFLICT"
    RESULT_NOT_READY = "RESULT_NOT_READY"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    FUNCTION_IN_USE = "FUNCTION_IN_USE"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a graph: function index, node index within it, and the node's op. ``node`` is None for a place outside the nodes."""

    function: int
    node: int | None = None
    op: str = ""

    def __str__(self) -> str:
        if self.node is None:
            return f"function {self.function}"
        return f"function {self.function}, node {self.node} ({self.op})"


class Fault(Exception):
    """A failure that its caller can understand and, mostly, mend.

    Attributes:
        reason: The stable reason.
        message: One or two sentences: what was expected, what came, what to do.
        field: Path of the request field at fault in proto notation, such as ``"args[2]"``; empty where none is.
        place: Where in the graph, or None.
    """

    def __init__(self, reason: Reason, message: str, *, field: str = "", place: Place | None = None) -> None:
        super().__init__(reason, message, field, place)
        self.reason = reason
        self.message = message
        self.field = field
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions pickle by calling the class with `args`; keyword-only parameters need this detour on the way between Ray processes.
        return (_restore, (type(self), self.reason, self.message, self.field, self.place))

    def __str__(self) -> str:
        return f"{self.message} [{self.place}]" if self.place else self.message

    def at(self, place: Place) -> Self:
        """Returns the same fault at a place in the graph."""
        return type(self)(self.reason, self.message, field=self.field, place=place)


class NotRecorded(Fault):
    """A rule was traced for fewer inputs than are differentiated. It is so of the graph, not of the function that the graph was made of."""


def _restore(kind: type[Fault], reason: Reason, message: str, field: str, place: Place | None) -> Fault:
    return kind(reason, message, field=field, place=place)
