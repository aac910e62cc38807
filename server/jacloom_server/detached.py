"""Work that several may wait for, and that goes on when they have gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def detached(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Returns work as a task whose failure is not reported when everybody who waited for it has gone. Wait for it with ``asyncio.shield``."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
