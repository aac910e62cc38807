"""``jacloom retry``: what failed in a job, computed again."""

from __future__ import annotations

from jacloom.cli.job import Which, document, job_of, line
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service


@on_service
def retry(word: Which, *, service: Service, as_json: Json = False) -> None:
    """Compute the points of a job again that failed, and those that a cancelled one had not come to."""
    with service.remote() as client:
        job = job_of(client, word).retry_failed()
    if as_json:
        print_json(document(job))
    else:
        print(line(job))
