"""Jobs that are stopped at any moment of their life: the end is told, workers are free, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from faults import batches
from faults.batches import ENDLESS, FAST, MEDIUM, SLOW, Place, Server
from integration import graphs, jobs, service
from integration.service import request

from jacloom_api.v1 import derivative_service_pb2 as call_pb
from jacloom_api.v1 import job_service_pb2 as pb


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Server]:
    with place.serve() as server:
        yield server.wait_until_ready()


@pytest.fixture
def server(running: Server, place: Place) -> Iterator[Server]:
    """A server in full strength, which is found in full strength afterwards, with nothing that nobody has asked to keep."""
    service.wait_for(lambda: len(running.process.workers()) == batches.WORKERS, 60)
    yield running
    service.wait_for(lambda: not running.busy(), 30)
    service.wait_for(lambda: len(running.process.workers()) == batches.WORKERS, 60)
    batches.nothing_aside(place)
    assert "never retrieved" not in running.process.log.read_text()
    assert "internal error" not in running.process.log.read_text()


def answers(server: Server) -> None:
    """Checks that workers are free."""
    x = np.arange(3.0)
    call = request(server.client.register(graphs.sine(3)), [x], sparsity=call_pb.DENSE)
    np.testing.assert_allclose(server.client.call("Jacobian", call, timeout=30).arrays[0], np.diag(np.cos(x)))


@pytest.mark.slow
def test_in_the_middle_of_long_units(server: Server) -> None:
    job = server.endless()
    service.wait_for(lambda: server.board.get(job.name).units_done == 8 and len(server.busy()) == batches.WORKERS, 60)
    before = server.busy()
    with pytest.raises(grpc.RpcError, match="has not ended; cancel it first") as caught:
        server.delete(job.name)
    assert service.failure(caught.value).reason == "JOB_NOT_ENDED"
    cancelled = server.cancel(job.name)
    assert (cancelled.state, cancelled.units_done, cancelled.retries) == (pb.JOB_CANCELLED, 8, 0)
    # Both processes could not be stopped otherwise than by ending them.
    service.assert_gone(before, 10)
    answers(server)
    assert batches.status(cancelled) == [1] * 8 + [0] * 7
    assert server.cancel(job.name) == server.board.get(job.name)


@pytest.mark.slow
def test_by_its_deadline(server: Server) -> None:
    ended = server.board.wait(server.endless(8).name)
    assert (ended.state, ended.units_done, ended.retries) == (pb.JOB_DEADLINE_EXCEEDED, 8, 0)
    assert batches.status(ended) == [1] * 8 + [0] * 7
    answers(server)


def test_while_it_is_planned(server: Server) -> None:
    job = server.submit(ENDLESS)
    service.wait_for(lambda: service.named(server.process.tree(), r"ray::Worker\.pace"), 60)
    assert server.board.get(job.name).state == pb.JOB_QUEUED
    assert server.cancel(job.name).state == pb.JOB_CANCELLED
    answers(server)
    server.delete(job.name)


def test_at_once(server: Server) -> None:
    for _ in range(10):
        job = server.submit(FAST)
        assert server.cancel(job.name).state in (pb.JOB_CANCELLED, pb.JOB_SUCCEEDED)
        server.delete(job.name)
    assert not server.board.stub.List(pb.ListJobsRequest(states=[pb.JOB_QUEUED, pb.JOB_RUNNING])).jobs


def test_by_a_client_that_does_not_wait_for_the_answer(server: Server) -> None:
    job = server.submit(SLOW)
    service.wait_for(lambda: server.board.get(job.name).units_done > 0, 60)
    call = server.board.stub.Cancel.future(pb.CancelJobRequest(name=job.name), timeout=service.TIMEOUT)
    call.cancel()
    done = server.board.get(job.name).units_done
    # Whether it was heard or not, the job is not left between the two.
    service.wait_for(lambda: (now := server.board.get(job.name)).state == pb.JOB_CANCELLED or now.units_done > done)
    assert server.cancel(job.name).state == pb.JOB_CANCELLED
    answers(server)


def test_while_its_points_come_in(server: Server, place: Place) -> None:
    name = server.client.register(graphs.decay(batches.N, FAST))
    asked = jobs.spec(name, [batches.X[0]], pb.JOB_JVP, seeds=[batches.V[0]], request_id="broken", out="broken")
    came, go = threading.Event(), threading.Event()

    def slowly() -> Iterator[pb.CreateJobRequest]:
        yield from jobs.messages(asked, [batches.X, batches.V], 5)
        came.set()
        go.wait(30)

    call = server.board.stub.Create.future(slowly(), timeout=service.TIMEOUT)
    assert came.wait(30)
    service.wait_for(lambda: list((place.hidden / "incoming").glob("*")))
    call.cancel()
    go.set()
    batches.nothing_aside(place)
    # Its path and its request are free again.
    batches.succeeded(server.board.wait(server.board.create(asked, [batches.X, batches.V]).name))


def test_and_then_goes_on_when_it_is_asked_to(server: Server) -> None:
    quiet = server.run(MEDIUM, out="quiet")
    job = server.submit(MEDIUM, out="again")
    for done in (1, 4, 8):
        service.wait_for(lambda least=done: server.board.get(job.name).units_done >= least, 60)
        assert server.cancel(job.name).state == pb.JOB_CANCELLED
        assert server.retry(job.name).state == pb.JOB_RUNNING
    done = batches.succeeded(server.board.wait(job.name))
    assert batches.files(done) == batches.files(quiet)
    assert batches.status(done) == [1] * batches.POINTS


@pytest.mark.slow
def test_a_job_without_workers_waits_for_them(server: Server) -> None:
    quiet = server.run(SLOW, out="kept/quiet")
    job = server.submit(SLOW, out="kept/waiting")
    service.wait_for(lambda: server.board.get(job.name).units_done > 0, 60)
    workers = server.process.workers()
    for worker in workers:
        worker.kill()
    service.assert_gone(workers)
    service.wait_for(lambda: server.process.log.read_text().count("is lost: its process") == len(workers), 60)
    assert server.board.get(job.name).state == pb.JOB_RUNNING
    done = batches.succeeded(server.board.wait(job.name))
    assert done.retries == len(workers)
    assert batches.files(done) == batches.files(quiet)
