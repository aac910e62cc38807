"""What a user wants of a job beside what it computes: where its results go, when it runs, and how long it is kept."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from jacloom._errors import OptionError
from jacloom._outline import outline
from jacloom._signature import display_name

_HIGHEST: Final = 100
_LONGEST_ID: Final = 64
_LONGEST_PATH: Final = 512
_LONGEST_SECONDS: Final = 100 * 365 * 86_400
"""A hundred years: messages hold no times that are much longer."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted of a job beside what it computes."""

    out: str
    """Path below the service's folder for results; empty for the service's choice."""
    display_name: str
    priority: int
    deadline: datetime | None
    """When the job is stopped."""
    ttl: float | None
    """Seconds for which the results are kept after its end; None: until it is deleted."""
    request_id: str


def read_order(call: str, *, out: object, name: object, priority: object, deadline: object, ttl: object, request_id: object) -> Order:
    """Returns an order, from options of which each may be None.

    Args:
        call: The user's call up to its options, for errors.
        out: As for ``client.submit``; the same for those that follow.
        name: Not None.
        priority: Not None.
        deadline: A moment, or a time from now.
        ttl: A time.
        request_id: Default: a new one.

    Raises:
        OptionError: if one of them cannot be.
        ArgumentError: if the name cannot be.
    """
    return Order(
        out=_text(call, "out", out, _LONGEST_PATH),
        display_name=display_name(name, f"{call}, name=...)"),
        priority=_priority(call, priority),
        deadline=_moment(call, deadline),
        ttl=_seconds(call, "ttl", ttl),
        request_id=_text(call, "request_id", request_id, _LONGEST_ID) or uuid.uuid4().hex,
    )


def _text(call: str, option: str, given: object, most: int) -> str:
    if given is None:
        return ""
    if not isinstance(given, str) or not 1 <= len(given) <= most or not given.isprintable():
        raise OptionError(f"`{call}, {option}=...)`: {option} must be a str of 1 to {most} printable characters, got {outline(given)}.")
    return given


def _priority(call: str, given: object) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or not -_HIGHEST <= given <= _HIGHEST:
        raise OptionError(f"`{call}, priority=...)`: priority must be an integer from {-_HIGHEST} to {_HIGHEST}, got {outline(given)}.")
    return given


def _moment(call: str, given: object) -> datetime | None:
    if isinstance(given, datetime):
        return given.astimezone(UTC)  # one without a zone is local time, as everywhere in Python
    seconds = _seconds(call, "deadline", given)
    return None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)


def _seconds(call: str, option: str, given: object) -> float | None:
    if given is None:
        return None
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf or seconds > _LONGEST_SECONDS:
        moment = ", or a datetime" if option == "deadline" else ""
        raise OptionError(
            f"`{call}, {option}=...)`: {option} must be a positive number of seconds, a timedelta{moment}, or None; got {outline(given)}."
        )
    return float(seconds)
