"""``jacloom jobs``: what a service computes on its own, has computed, and is about to."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from jacloom.cli.job import SHORT, document, moment
from jacloom.cli.output import Json, print_json, print_table
from jacloom.cli.service import Service, on_service
from jacloom.cli.which import function_id

_STATES = "queued, running, succeeded, succeeded_with_failures, failed, cancelled, deadline_exceeded"
States = Annotated[list[str] | None, typer.Option("--state", metavar="STATE", help=f"Only jobs in this state: {_STATES}. May be repeated.")]
Function = Annotated[
    str | None, typer.Option("--function", metavar="FUNCTION", help="Only those of this function, by id or name.", show_default=False)
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")]
Full = Annotated[bool, typer.Option("--full", help="Print whole ids.")]

_RIGHT: Final = frozenset({"points", "done", "failed"})


@on_service
def jobs(*, states: States = None, function: Function = None, limit: Limit = 50, full: Full = False, service: Service, as_json: Json = False) -> None:
    """List jobs, newest first."""
    with service.remote() as client:
        found = client.jobs(states=states or (), function=None if function is None else function_id(client, function), limit=limit)
    if as_json:
        print_json([document(job) for job in found])
        return
    rows = []
    for job in found:
        progress, record = job.progress, job.record
        counts = [f"{count:,}" for count in (progress.points, progress.points_done, progress.points_failed)]
        made = (moment(record.created) or "")[:16].replace("T", " ")
        rows.append([job.id if full else job.id[:SHORT], job.display_name, job.state.value, *counts, record.derivative, f"{made}Z" if made else ""])
    print_table(["id", "name", "state", "points", "done", "failed", "derivative", "created"], rows, right=_RIGHT, cut=frozenset({"name"}))
