"""``jacloom watch``: a job followed to its end."""

from __future__ import annotations

import typer

from jacloom._jobs import Job
from jacloom.cli.job import INTERRUPTED, Which, document, job_of, leave_by, line
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service


@on_service
def watch(word: Which, *, service: Service, as_json: Json = False) -> None:
    """Wait for a job's end, with a progress bar on a terminal. Ctrl-C ends the watching, not the job.

    Ends with status 0 if all points are done, 3 if the job ended otherwise, 1 after an error, 130 after Ctrl-C.
    """
    with service.remote() as client:
        follow(job_of(client, word), as_json)


def follow(job: Job, as_json: bool) -> None:
    """Waits for a job's end, prints how it ended, and ends the command with the status for that."""
    try:
        job.wait()
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(document(job))
    else:
        print(line(job))
    leave_by(job)
