"""``jacloom run``: a job file computed to its end, without a service that was there before or stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from jacloom._connect import local
from jacloom._errors import ArgumentError, LocalServiceError, OptionError
from jacloom._jobs import Job, JobState
from jacloom._jobs.bar import details
from jacloom.cli import jobfile
from jacloom.cli.job import UNFINISHED, document, line
from jacloom.cli.jobfile import JobFile
from jacloom.cli.output import Json, print_error, print_json
from jacloom.cli.span import span
from jacloom.cli.stop import Stop, Stopped

FAILED: Final = 1
WRONG: Final = 2
"""Exit status where the job file, or something that it names, cannot be."""
STOPPED: Final = 75
"""Exit status of one that was stopped before its end: EX_TEMPFAIL of sysexits.h, try again later."""
_LINES: Final = 30.0
"""Seconds between lines about how far the job has come, where there is no terminal for a bar."""

File = Annotated[Path, typer.Argument(metavar="JOB.toml", help="What to compute, and how.", show_default=False)]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help="Keep the job here; run again with the same one, it goes on.", show_default="JOB.data, beside it"),
]
Results = Annotated[
    Path | None,
    typer.Option("--results", metavar="FOLDER", help="Put results here; all workers must see it.", show_default="results, in the folder of --data"),
]
RayAddress = Annotated[str | None, typer.Option("--ray-address", metavar="HOST:PORT", help="Join this Ray cluster.", show_default="one of its own")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="One-thread workers.", show_default="one per core")]
StopAfter = Annotated[
    str | None,
    typer.Option("--stop-after", metavar="TIME", help="Stop after 90s, 55m or 11.5h, as before a batch system's wall time.", show_default="never"),
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="If it has ended already, compute again what failed or was not come to.")]


def run(
    file: File,
    *,
    data: Data = None,
    results: Results = None,
    ray_address: RayAddress = None,
    workers: Workers = None,
    stop_after: StopAfter = None,
    retry_failed: RetryFailed = False,
    as_json: Json = False,
) -> None:
    """Compute a job file to its end, with a service that is started for it and ends with it. The same command again goes on where it was.

    SIGTERM, Ctrl-C and --stop-after stop it: what is finished stays. Ends with status 0 when all points are done, 3 if some failed, 75 if it was
    stopped, 2 if the job file cannot be, 1 after an error. docs/jobs.md describes job files.
    """
    given = {"data": data, "results": results, "ray_address": ray_address, "workers": workers}
    try:
        with Stop(None if stop_after is None else span("--stop-after", stop_after)) as stop:
            job = _run(stop, jobfile.read(file), given, retry_failed)
    except (OptionError, ArgumentError) as error:
        print_error(error, as_json=as_json)
        raise typer.Exit(WRONG) from None
    raise typer.Exit(_told(job, stop, as_json))


def _run(stop: Stop, read: JobFile, given: Mapping[str, Any], retry_failed: bool) -> Job | None:
    """Returns the job at its end, or as it was last seen before a stop; None if it was not submitted by then.

    A service that ends before the job does is started again, for as long as each of them gets further than the one before.
    """
    job: Job | None = None
    data, flags = read.flags(given)
    done = -1
    while True:
        try:
            # It starts while the function is loaded, which may take as long.
            with local(data=data, flags=flags) as client, stop.raising():
                job = client.submit(read.function(), read.points, *read.args, **read.options)
                if retry_failed and job.state.ended and job.state is not JobState.SUCCEEDED:
                    job.retry_failed()
                return job.wait(on_progress=None if sys.stderr.isatty() else _Lines())
        except Stopped:
            return job
        except LocalServiceError as error:
            # Batch systems send signals to all processes; the service may have been faster.
            if stop.reason:
                return job
            if job is None or job.progress.units_done <= done:
                raise
            done = job.progress.units_done
            print(f"jacloom: {error} It is started again.", file=sys.stderr, flush=True)


def _told(job: Job | None, stop: Stop, as_json: bool) -> int:
    """Prints how it went, and returns the exit status."""
    ended = job is not None and job.state.ended
    if as_json:
        print_json({"stopped": None if ended else stop.reason, "job": None if job is None else document(job)})
    elif job is not None:
        print(line(job))
        if job.store:
            print(f"results: {job.store}")
    if job is None or not job.state.ended:
        print(f"jacloom: stopped by {stop.reason}; what is finished stays, and the same command goes on", file=sys.stderr)
        return STOPPED
    match job.state:
        case JobState.SUCCEEDED:
            return 0
        case JobState.SUCCEEDED_WITH_FAILURES:
            return UNFINISHED
    return FAILED


class _Lines:
    """Prints now and then how far a job has come."""

    def __init__(self) -> None:
        self._next = time.monotonic() + _LINES

    def __call__(self, job: Job) -> None:
        if time.monotonic() >= self._next:
            print(f"jacloom: {details(job.record)}", file=sys.stderr, flush=True)
            self._next = time.monotonic() + _LINES
