"""The calls about jobs that are one message each way, or one stream of them from the service."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf import empty_pb2

from jacloom._connection import Connection, Stubs
from jacloom._deadline import Deadline
from jacloom._errors import ArgumentError
from jacloom._jobs.record import STATES, JobRecord, JobState, record_from_message
from jacloom_api.v1 import job_service_pb2 as pb

_NAME: Final = re.compile(r"(?:jobs/)?([0-9a-f]{20})")
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Points of a job, or seeds of one, that failed three times."""

    first: int
    """The first point."""
    count: int
    """How many points."""
    start: int
    """The first seed, where it is some seeds of one point."""
    seeds: int
    """How many seeds; 0 for all."""
    attempts: int
    """How often they were tried."""
    reason: str
    """The service's stable name for the failure."""
    message: str
    """What went wrong the last time."""

    def __str__(self) -> str:
        points = f"point {self.first}" if self.count == 1 else f"points {self.first} to {self.first + self.count - 1}"
        seeds = f", seeds {self.start} to {self.start + self.seeds - 1}" if self.seeds else ""
        return f"{points}{seeds}: {self.reason} after {self.attempts} attempts: {self.message}"


@dataclass(frozen=True, slots=True)
class JobVerification:
    """What was found when the results of a job were compared with their checksums. True if all is well."""

    chunks: int
    """Chunks that were compared."""
    damaged: int
    """Units with chunks that were damaged or gone, and that are computed again."""

    def __bool__(self) -> bool:
        return not self.damaged


def parse_job(text: object) -> str:
    """Returns the 20 hex digits of a job's id, given with or without ``jobs/``.

    Raises:
        ArgumentError: if the text is not an id.
    """
    found = _NAME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ArgumentError(f"a job's id is 'jobs/' and 20 hex digits, or the digits alone; got {text!r}")
    return found[1]


def get(connection: Connection, job: str, deadline: Deadline) -> JobRecord:
    """Returns a job by its id.

    Raises:
        JobNotFoundError: if the service has none of that id.
    """
    return record_from_message(connection.unary(lambda stubs: stubs.jobs.Get, pb.GetJobRequest(name=f"jobs/{job}"), deadline))


def listed(connection: Connection, states: Collection[JobState], function: str, limit: int | None, deadline: Deadline) -> list[JobRecord]:
    """Returns jobs, newest first.

    Args:
        connection: To the service.
        states: Only those in one of these; empty for all.
        function: Only those of the function of this id; empty for all.
        limit: At most so many; None for all.
        deadline: Of the call.
    """
    found: list[JobRecord] = []
    numbers = [number for number, state in STATES.items() if state in states]
    request = pb.ListJobsRequest(states=numbers, function=f"functions/{function}" if function else "")  # type: ignore[arg-type]
    while limit is None or len(found) < limit:
        request.page_size = _PAGE if limit is None else min(_PAGE, limit - len(found))
        page = connection.unary(lambda stubs: stubs.jobs.List, request, deadline)
        found += map(record_from_message, page.jobs)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    return found[:limit]


def cancel(connection: Connection, job: str, deadline: Deadline) -> JobRecord:
    """Stops a job, and returns it."""
    return record_from_message(connection.unary(lambda stubs: stubs.jobs.Cancel, pb.CancelJobRequest(name=f"jobs/{job}"), deadline))


def retry(connection: Connection, job: str, deadline: Deadline) -> JobRecord:
    """Has the units of a job computed that failed or were not come to, and returns it."""
    return record_from_message(connection.unary(lambda stubs: stubs.jobs.Retry, pb.RetryJobRequest(name=f"jobs/{job}"), deadline))


def verify(connection: Connection, job: str, deadline: Deadline) -> JobVerification:
    """Compares all finished chunks with their checksums."""
    # All results are read, which may take longer than other calls are given where the user sets no limit.
    with connection.stubs(deadline) as stubs:
        reply = stubs.jobs.Verify(pb.VerifyJobRequest(name=f"jobs/{job}"), timeout=deadline.remaining(), metadata=stubs.metadata)
    return JobVerification(reply.chunks, reply.damaged)


def delete(connection: Connection, job: str, deadline: Deadline) -> None:
    """Forgets a job and removes its results."""

    def method(stubs: Stubs) -> grpc.UnaryUnaryMultiCallable[pb.DeleteJobRequest, empty_pb2.Empty]:
        return stubs.jobs.Delete

    connection.unary(method, pb.DeleteJobRequest(name=f"jobs/{job}"), deadline)


def expire(connection: Connection, dry_run: bool, deadline: Deadline) -> list[JobRecord]:
    """Deletes the jobs whose time is over, or with ``dry_run`` only returns them."""
    reply = connection.unary(lambda stubs: stubs.jobs.Expire, pb.ExpireJobsRequest(dry_run=dry_run), deadline)
    return list(map(record_from_message, reply.jobs))


def failures(connection: Connection, job: str, deadline: Deadline) -> Iterator[JobFailure]:
    """Yields the units of a job that failed, in order."""
    request = pb.ListFailuresRequest(name=f"jobs/{job}", page_size=_PAGE)
    while True:
        page = connection.unary(lambda stubs: stubs.jobs.ListFailures, request, deadline)
        for each in page.failures:
            yield JobFailure(each.first, each.count, each.start, each.seeds, each.attempts, each.reason, each.message)
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def watched(connection: Connection, job: str, deadline: Deadline) -> Iterator[JobRecord]:
    """Yields a job whenever it has come further, for as long as one stream lasts."""
    with connection.stubs(deadline) as stubs:
        stream = stubs.jobs.Watch(pb.WatchJobRequest(name=f"jobs/{job}"), timeout=deadline.remaining(), metadata=stubs.metadata)
        try:
            for message in stream:
                yield record_from_message(message)
        finally:
            stream.cancel()  # type: ignore[no-untyped-call]  # does nothing to one that is done
