"""Work that goes on when those who wait for it have gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

_T = TypeVar("_T")
_P = ParamSpec("_P")


def detached(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Returns work as a task whose failure is not reported when everybody who waited for it has gone. Wait for it with ``asyncio.shield``."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


async def to_its_end(function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Returns what a function that blocks returns, called in a thread. Whoever is cancelled meanwhile waits for its end, so that nothing goes on."""
    task = detached(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
