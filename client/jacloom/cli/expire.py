"""``jacloom expire``: jobs whose time is over, deleted."""

from __future__ import annotations

from typing import Annotated

import typer

from jacloom.cli.job import document, line
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service

DryRun = Annotated[bool, typer.Option("--dry-run", help="Delete nothing; only name them.")]


@on_service
def expire(*, dry_run: DryRun = False, service: Service, as_json: Json = False) -> None:
    """Delete the jobs whose --ttl is over, with their results. The service also does so by itself."""
    with service.remote() as client:
        found = client.expire_jobs(dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "jobs": [document(job) for job in found]})
        return
    for job in found:
        print(line(job))
    print(f"{len(found):,} job{'' if len(found) == 1 else 's'} {'would be deleted' if dry_run else 'deleted'}")
