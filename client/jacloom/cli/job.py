"""What the commands about jobs share: which job a word means, how a job reads, and what status a command ends with."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from jacloom._client import Client
from jacloom._errors import ArgumentError, JobNotFoundError
from jacloom._jobs import Job, JobState
from jacloom._jobs.bar import details

_ID: Final = re.compile(r"(?:jobs/)?([0-9a-f]{6,20})")
_DIGITS: Final = 20
SHORT: Final = 10
"""Digits of an id that tables show."""
UNFINISHED: Final = 3
"""Exit status of commands that are about a job which ended otherwise than with all its points done."""
INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it."""

_HELP = "Its id, the first 6 or more digits of it, or the name if only one job has it."
Which = Annotated[str, typer.Argument(metavar="JOB", help=_HELP, show_default=False)]


def job_of(client: Client, word: str) -> Job:
    """Returns the job that a word means: an id, the beginning of one, or a display name.

    Raises:
        JobNotFoundError: if it means none.
        ArgumentError: if it means several.
    """
    given = _ID.fullmatch(word)
    digits = given[1] if given else None
    if digits is not None and len(digits) == _DIGITS:
        return client.job(digits)
    found = [each for each in client.jobs() if each.display_name == word or (digits is not None and each.id.startswith(digits))]
    if not found:
        raise JobNotFoundError(f"no job has the name {word!r}, or an id that begins with it (6 digits at least); `jacloom jobs` lists what there is")
    if len(found) > 1:
        shown = ", ".join(f"{each.id[:SHORT]} ({each.display_name})" for each in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ArgumentError(f"{word!r} means {len(found)} jobs: {shown}{more}; give more digits of the id")
    return found[0]


def line(job: Job) -> str:
    """Returns a job in a line."""
    named = f" ({job.display_name})" if job.display_name else ""
    why = f": {job.message}" if job.message and job.state.ended else ""
    return f"{job.id}{named}: {job.state.value}{why}; {details(job.record)}"


def document(job: Job) -> dict[str, Any]:
    """Returns a job for programs."""
    record = job.record
    return {
        "name": job.name,
        "display_name": record.display_name,
        "state": record.state.value,
        "message": record.message,
        "function": f"functions/{record.function}",
        "derivative": record.derivative,
        "progress": asdict(record.progress),
        "strategy": None if record.plan is None else record.plan.strategy,
        "arrays": {array.path: str(array.type) for array in record.arrays},
        "out": record.out,
        "store": record.store,
        "priority": record.priority,
        "request_id": record.request_id,
        "created": moment(record.created),
        "started": moment(record.started),
        "ended": moment(record.ended),
        "expires": moment(record.expires),
        "deadline": moment(record.deadline),
    }


def moment(when: datetime | None) -> str | None:
    """Returns a moment as ISO 8601 in UTC, to the second."""
    return None if when is None else when.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def leave_by(job: Job) -> None:
    """Ends the command with status 3 if the job has ended without all points done."""
    if job.state.ended and job.state is not JobState.SUCCEEDED:
        raise typer.Exit(UNFINISHED)
