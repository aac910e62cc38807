"""Progress of a call: the value that callbacks get, and the bar on a terminal."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from jacloom._plan import Plan, Summary

DELAY = 1.0
"""Seconds before a bar appears: most calls are over by then."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The state of a call. ``on_progress`` gets one when the plan is known, some on the way, and one with the summary at the end."""

    tiles_done: int
    tiles: int
    """Tiles in all."""
    seconds: float
    """Since the call was made."""
    plan: Plan
    summary: Summary | None = None
    """What it took; None until the call is complete."""


screen = threading.Lock()
"""Held by what draws on standard error: rich has one live display per process."""


class Bar:
    """A progress bar on standard error, for one call at a time: rich draws one live display per process."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._display: Any = None
        self._task: Any = None

    def __call__(self, progress: Progress) -> None:
        """Shows the state, if a terminal is there and no other call is showing its own."""
        if self._display is None:
            if progress.summary is not None or not sys.stderr.isatty() or not screen.acquire(blocking=False):
                return
            self._open(progress.tiles)
        self._display.update(self._task, completed=progress.tiles_done, total=progress.tiles)

    def close(self) -> None:
        """Removes the bar."""
        if self._display is not None:
            self._display.stop()
            self._display = None
            screen.release()

    def _open(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tiles"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._display = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._task = self._display.add_task(self._title, total=total)
        self._display.start()


class Watch:
    """Carries progress from a stream of replies to the user's callback, or to a bar once the call has lasted a while."""

    def __init__(self, title: str, on_progress: Callable[[Progress], None] | None) -> None:
        self._began = time.monotonic()
        self._callback = on_progress
        self._title = title
        self._bar: Bar | None = None
        self._plan: Plan | None = None
        self._tiles = (0, 0)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def heard(self) -> bool:
        """Whether the user wants to know: where nobody listens, a fast call need not decode its plan and summary."""
        return self._callback is not None

    def planned(self, plan: Plan) -> None:
        """Takes in the plan."""
        self._plan = plan
        self._tiles = (0, plan.tiles)
        self._tell()

    def advanced(self, done: int, tiles: int) -> None:
        """Takes in how many tiles are done."""
        self._tiles = (done, tiles)
        self._tell()

    def ended(self, summary: Summary) -> None:
        """Takes in the summary."""
        self._tiles = (summary.tiles, summary.tiles)
        self._tell(summary)

    def _tell(self, summary: Summary | None = None) -> None:
        elapsed = time.monotonic() - self._began
        listener: Callable[[Progress], None] | None = self._callback
        if listener is None and elapsed >= DELAY:
            listener = self._bar = self._bar or Bar(self._title)
        if listener is not None and self._plan is not None:
            listener(Progress(*self._tiles, elapsed, self._plan, summary))
