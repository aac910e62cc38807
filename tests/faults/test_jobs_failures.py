"""Units that cannot be computed: they are given up after three attempts and named, and all the rest is delivered."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from faults import batches
from faults.batches import Place, Server
from integration import graphs, service
from integration.jobs import spec

from jacloom_api.v1 import job_service_pb2 as pb

BAD = (8, 11)
"""Points whose loop does not end: half of nothing never becomes a hundred."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Place(tmp_path_factory.mktemp("server"), ("--tile-lease", "4")).serve() as running:
        yield running.wait_until_ready()


def doubling(server: Server, points: np.ndarray) -> pb.Job:
    name = server.client.register(graphs.doubling(batches.N))
    return server.board.create(spec(name, [points[0]], pb.JOB_VALUE, wrt=()), [points])


@pytest.mark.slow
def test_points_that_never_end_fail_alone(server: Server) -> None:
    good = np.abs(batches.X) + 1
    quiet = batches.succeeded(server.board.wait(doubling(server, good).name))
    points = good.copy()
    points[list(BAD)] = 0
    made = doubling(server, points)
    job = server.board.wait(made.name)
    assert job.state == pb.JOB_SUCCEEDED_WITH_FAILURES
    assert job.message == "2 points could not be computed; see its failures"
    expected = [3 if point in BAD else 1 for point in range(batches.POINTS)]
    assert (job.points_done, job.points_failed, job.units_done, job.units_failed, job.retries) == (13, 2, 13, 2, 6)
    assert server.board.read(job.name, "status").tolist() == expected
    assert batches.status(job) == expected
    failures = server.failures(job.name)
    assert [(each.first, each.count, each.seeds, each.attempts, each.reason) for each in failures] == [(bad, 1, 0, 3, "TOO_SLOW") for bad in BAD]
    assert all("took longer than 4 s" in each.message for each in failures)
    # Everything else is there, and the same as if nothing had failed.
    chunks = batches.results(quiet)
    assert batches.results(job) == {path: chunks[path] for path in chunks if int(path.split(".")[1]) not in BAD}
    np.testing.assert_array_equal(server.board.read(job.name, "value", 0, 8), server.board.read(quiet.name, "value", 0, 8))
    with pytest.raises(grpc.RpcError, match="point 8 failed; see the job's failures, nor are 1 others"):
        server.board.read(job.name, "value")
    # Trying again tries those alone.
    before = batches.stamps(job)
    assert server.retry(job.name).state == pb.JOB_RUNNING
    again = server.board.wait(job.name)
    assert (again.state, again.points_done, again.points_failed, again.units_failed) == (pb.JOB_SUCCEEDED_WITH_FAILURES, 13, 2, 2)
    assert again.retries == 12
    assert [each.attempts for each in server.failures(job.name)] == [3, 3]
    assert batches.stamps(job) == before
    assert batches.status(job) == expected


@pytest.mark.slow
def test_a_first_point_that_never_ends_is_no_reason_not_to_begin(server: Server) -> None:
    points = np.abs(batches.X) + 1
    points[0] = 0
    job = server.board.wait(doubling(server, points).name)
    assert (job.state, job.points_done, job.points_failed) == (pb.JOB_SUCCEEDED_WITH_FAILURES, batches.POINTS - 1, 1)


@pytest.mark.slow
def test_a_unit_that_ends_every_worker_is_named_and_may_be_tried_again(tmp_path: Path) -> None:
    # Of a single worker, which begins again with what it was at.
    place = Place(tmp_path, workers=1)
    x, v = batches.X[:7], batches.V[:7]
    with place.serve() as server:
        server.wait_until_ready(1)
        quiet = server.run(batches.SLOW, x, v, out="quiet")
        job = server.submit(batches.SLOW, x, v, out="poisoned")
        service.wait_for(lambda: place.committed(job) >= {0, 1})
        victims = []
        while not server.failures(job.name):
            assert server.board.get(job.name).state in (pb.JOB_QUEUED, pb.JOB_RUNNING)
            for worker in server.busy():
                time.sleep(0.15)
                worker.kill()
                worker.wait(10)
                victims.append(worker.pid)
            time.sleep(0.05)
        ended = server.board.wait(job.name)
        (failure,) = server.failures(job.name)
        assert (ended.state, ended.points_done, ended.points_failed) == (pb.JOB_SUCCEEDED_WITH_FAILURES, 6, 1)
        assert ended.retries == len(victims)
        assert (failure.count, failure.attempts, failure.reason) == (1, 3, "POISONED")
        assert failure.message.startswith(f"point {failure.first} ended its worker")
        assert not any(str(pid) in failure.message for pid in victims)
        assert batches.status(ended) == [3 if point == failure.first else 1 for point in range(7)]
        # It was not the unit's fault: tried again, it comes through.
        server.retry(job.name)
        again = batches.succeeded(server.board.wait(job.name))
        assert batches.files(again) == batches.files(quiet)
        assert not server.failures(job.name)
        batches.nothing_aside(place)


@pytest.mark.slow
def test_a_job_of_which_nothing_can_be_computed_fails_and_says_why(server: Server) -> None:
    job = server.board.wait(doubling(server, np.zeros((2, batches.N))).name)
    assert (job.state, job.message, job.points_failed) == (pb.JOB_FAILED, "no unit could be computed; see its failures", 2)
    assert {each.reason for each in server.failures(job.name)} == {"TOO_SLOW"}
    service.wait_for(lambda: len(server.process.workers()) == batches.WORKERS, 60)
