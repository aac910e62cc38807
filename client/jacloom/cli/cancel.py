"""``jacloom cancel``: a job stopped."""

from __future__ import annotations

from jacloom.cli.job import Which, document, job_of, line
from jacloom.cli.output import Json, print_json
from jacloom.cli.service import Service, on_service


@on_service
def cancel(word: Which, *, service: Service, as_json: Json = False) -> None:
    """Stop a job; what is finished stays. Does nothing to one that has ended."""
    with service.remote() as client:
        job = job_of(client, word).cancel()
    if as_json:
        print_json(document(job))
    else:
        print(line(job))
