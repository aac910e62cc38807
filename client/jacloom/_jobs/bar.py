"""How a job that is being watched looks on a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from jacloom._jobs.record import JobRecord
from jacloom._progress import screen


class JobBar:
    """A progress bar on standard error, where that is a terminal and no call is showing its own."""

    def __init__(self) -> None:
        self._display: Any = None
        self._task: Any = None

    def __enter__(self) -> JobBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._display is not None:
            self._display.stop()
            screen.release()

    def show(self, record: JobRecord) -> None:
        """Shows how far the job has come."""
        if self._display is None:
            if record.state.ended or not sys.stderr.isatty() or not screen.acquire(blocking=False):
                return
            self._open(record)
        progress = record.progress
        planned = progress.points if progress.units else None
        done = progress.points_done + progress.points_failed
        self._display.update(self._task, description=title(record), completed=done, total=planned, details=details(record), refresh=True)

    def lost(self) -> None:
        """Shows that the service cannot be reached just now."""
        if self._display is not None:
            self._display.update(self._task, details="the service cannot be reached; trying again", refresh=True)

    def _open(self, record: JobRecord) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[details]}", markup=False),
            TimeElapsedColumn(),
        )
        self._display = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
        self._task = self._display.add_task(title(record), total=None, details="")
        self._display.start()


def title(record: JobRecord) -> str:
    """Returns what a job is called: its name for people, or its id."""
    return record.display_name or record.id


def details(record: JobRecord) -> str:
    """Returns in a line how far a job has come: ``1,200/10,000 points, 85.0/s, 1:44 left, 3 failed, 4 workers``."""
    progress = record.progress
    parts = [f"{progress.points_done:,}/{progress.points:,} points"]
    if not record.state.ended:
        parts += [record.state.value] if not progress.units else []
        parts += [f"{progress.rate:,.3g}/s"] if progress.rate is not None and progress.rate < 1000 else []
        parts += [f"{progress.rate:,.0f}/s"] if progress.rate is not None and progress.rate >= 1000 else []
        parts += [f"{span(progress.eta)} left"] if progress.eta is not None else []
    parts += [f"{progress.points_failed:,} failed"] if progress.points_failed else []
    parts += [f"{progress.points_not_finite:,} with NaN or Inf"] if progress.points_not_finite else []
    parts += [f"{progress.retries:,} retries"] if progress.retries else []
    if not record.state.ended:
        parts += [f"{progress.workers} worker{'' if progress.workers == 1 else 's'}"]
        parts += [record.message] if record.message else []
    return ", ".join(parts)


def span(seconds: float) -> str:
    """Returns a time as a clock shows it: ``0:09``, ``1:44``, ``2:05:00``, and days before that: ``3 d 4:00:00``."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
