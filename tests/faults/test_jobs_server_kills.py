"""Servers that are killed while they have a job: the next one goes on by itself, computes nothing again that was counted, with the same bytes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import grpc
import pytest
from faults import batches
from faults.batches import FAST, SLOW, Place
from integration import service

from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_server.jobs import failpoints

CREATING = ("before-transaction:1", "within-transaction:1", "after-transaction:1")
"""The first transaction of a server that has no job is that which makes one."""


def kills() -> list[str]:
    """Returns in which steps servers are killed, one after the other: all of them, each in its first or second unit; and twice at any time."""
    chance = Random(5)
    steps = [f"{name}:{chance.randint(1, 2)}" for name in failpoints.NAMES]
    chance.shuffle(steps)
    return [*steps[:4], "", *steps[4:]]


@pytest.mark.slow
def test_a_job_goes_on_when_its_server_was_killed_in_the_middle_of_a_commit(tmp_path: Path) -> None:
    place = Place(tmp_path)
    before: dict[str, tuple[int, int]] = {}
    committed: set[int] = set()
    progress = []
    with place.serve() as server:
        server.wait_until_ready()
        quiet = server.run(SLOW, out="quiet")
        chunks = batches.files(quiet)
        server.delete(quiet.name)
    with place.doomed() as server:
        job = server.submit(SLOW, out="killed")
        service.wait_for(lambda: len(place.committed(job)) >= 1, 120)
        server.process.popen.kill()
    for step in kills():
        known = place.committed(job)
        assert committed <= known
        # What was counted stays as it was, whoever died meanwhile: it was neither computed nor put in place again.
        found = batches.stamps(job)
        assert before.items() <= found.items()
        committed, before = known, {path: found[path] for path in found if chunk(path) in known}
        progress.append(len(committed))
        if committed == set(range(batches.POINTS)):
            break
        with place.doomed(step) as server:
            if not step:
                service.wait_for(lambda: len(place.committed(job)) > progress[-1], 120)
                server.process.popen.kill()
    assert len(progress) > 5, "the job was done before enough servers were killed"
    with place.serve() as server:
        service.wait_for(lambda: server.only().state == pb.JOB_SUCCEEDED, 120)
        done = batches.succeeded(server.only())
        assert (done.name, done.units, done.retries) == (job.name, batches.POINTS, 0)
        assert before.items() <= batches.stamps(done).items()
        assert batches.files(done) == chunks
        assert server.verify(done.name).damaged == 0
        batches.nothing_aside(place)


def chunk(path: str) -> int:
    """Returns the unit of a chunk: its first index."""
    return int(path.partition("/c.")[2].split(".")[0])


@pytest.mark.slow
def test_a_request_whose_answer_was_lost_makes_one_job(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for step in CREATING:
        with place.doomed(step) as server, pytest.raises(grpc.RpcError) as caught:
            server.submit(FAST, request_id="once", out="once")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with place.serve() as server:
        # The third had been told to the ledger, and nobody else.
        made = server.only()
        again = server.submit(FAST, request_id="once", out="once")
        assert again.name == made.name
        done = batches.succeeded(server.board.wait(made.name))
        assert server.only().name == done.name
        batches.nothing_aside(place)


@pytest.mark.slow
def test_one_server_at_a_time_has_a_data_folder_and_the_next_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path, ("--drain", "1"))
    command = [sys.executable, "-m", "jacloom_server", "--no-supervise", "--address", "127.0.0.1:0", *place.arguments()]
    with place.doomed() as server:
        job = server.submit(SLOW)
        second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert second.returncode == 2
        assert f"held by process {server.process.pid} on " in second.stderr
        assert "Stop that one, or give this one another data folder" in second.stderr
        service.wait_for(lambda: server.board.get(job.name).units_done > 0, 120)
        server.process.popen.kill()
    # Told to stop in the middle, it leaves the job to the next, though somebody watches.
    with place.serve() as server:
        server.wait_until_ready()
        long = server.endless()
        watching = server.board.stub.Watch(pb.WatchJobRequest(name=long.name))
        next(watching)
        service.wait_for(lambda: server.board.get(long.name).units_done == 8, 120)
        server.process.popen.send_signal(signal.SIGTERM)
        assert server.process.popen.wait(30) == 0
        with pytest.raises(grpc.RpcError):
            list(watching)
    with place.serve() as server:
        assert batches.succeeded(server.board.wait(job.name)).retries == 0
        assert server.board.get(long.name).state == pb.JOB_RUNNING
        assert server.board.get(long.name).units_done == 8
        began = time.monotonic()
        assert server.cancel(long.name).state == pb.JOB_CANCELLED
        assert time.monotonic() - began < 10
        batches.nothing_aside(place)
