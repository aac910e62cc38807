"""``jacloom verify``: the results of a job compared with their checksums."""

from __future__ import annotations

import typer

from jacloom.cli.job import UNFINISHED, Which, job_of
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service


@on_service
def verify(word: Which, *, service: Service, as_json: Json = False) -> None:
    """Compare a job's results with their checksums. What is damaged or gone is computed again.

    Ends with status 0 if all is well, 3 if something was damaged, 1 after an error.
    """
    with service.remote() as client:
        job = job_of(client, word)
        found = job.verify()
    if as_json:
        print_json({"name": job.name, "ok": bool(found), "chunks": found.chunks, "damaged": found.damaged, "state": job.state.value})
    elif found:
        print(f"{job.id}: all of {found.chunks:,} chunks are as they were written")
    else:
        print(f"{job.id}: {found.damaged:,} units have damaged chunks among {found.chunks:,}, and are computed again; the job is {job.state.value}")
    if not found:
        raise typer.Exit(UNFINISHED)
