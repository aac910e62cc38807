"""Trying again what failed before it began."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from jacloom._deadline import Deadline
from jacloom._errors import LocalServiceError, QuotaError, UnavailableError

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which a service that is not there is asked again, where no deadline ends it sooner: restarting takes one about ten. Counted from the
first attempt that failed, which may have been under way for long."""


def retrying(attempt: Callable[[], T], deadline: Deadline, *, again: Callable[[], bool] = lambda: True) -> T:
    """Returns what ``attempt`` returns, trying again with growing pauses while the service is unavailable or over a quota.

    Args:
        attempt: Raises ``UnavailableError`` or ``QuotaError`` for what may pass.
        deadline: Of the whole call.
        again: Whether a failed attempt may be repeated; asked after each.
    """
    failed: float | None = None
    for pause in _pauses():
        try:
            return attempt()
        except LocalServiceError:
            raise
        except UnavailableError as error:
            failed = failed or time.monotonic()
            wait = error.retry_after or pause
            if not again() or not _worth(wait, failed, deadline):
                raise
        except QuotaError as error:
            failed = failed or time.monotonic()
            # Without a delay the limit is not one that passes.
            wait = error.retry_after or 0.0
            if not wait or not again() or not _worth(wait, failed, deadline):
                raise
        time.sleep(wait)
    raise AssertionError("the pauses never end")


def _pauses() -> Iterator[float]:
    pause = 0.1
    while True:
        yield pause
        pause = min(2 * pause, 2.0)


def _worth(wait: float, failed: float, deadline: Deadline) -> bool:
    return deadline.allows(wait) and (deadline.timeout is not None or time.monotonic() + wait - failed < PATIENCE)
