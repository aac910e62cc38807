"""Workers that are killed, stopped or lost while they compute units of a job: the results are those of a quiet run, and each loss is counted once."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
import pytest
from faults import batches
from faults.batches import MEDIUM, Place
from integration import service

KILLS = 20
WORKERS = 3
STEPS = 10 * MEDIUM
UNITS = 23
"""One point each, as fewer than eight for each worker are."""


def busiest(workers: list[psutil.Process]) -> psutil.Process | None:
    """Returns the process that has computed longest for what it is at, if that is for a while."""
    before = {worker: sum(worker.cpu_times()[:2]) for worker in workers if worker.is_running()}
    time.sleep(0.15)
    spent = {}
    for worker, then in before.items():
        try:
            spent[worker] = sum(worker.cpu_times()[:2]) - then
        except psutil.NoSuchProcess:
            continue
    found = max(spent, key=lambda worker: spent[worker], default=None)
    return found if found is not None and spent[found] > 0.03 else None


@pytest.mark.slow
def test_twenty_killed_workers_change_nothing_but_the_time(tmp_path: Path) -> None:
    place = Place(tmp_path, workers=WORKERS)
    x, v = batches.RNG.normal(size=(2, UNITS, batches.N))
    with place.serve() as server:
        server.wait_until_ready(WORKERS)
        quiet = server.run(STEPS, x, v, out="quiet")
        assert (quiet.units, quiet.retries) == (UNITS, 0)
        job = server.submit(STEPS, x, v, out="killed")
        killed: list[psutil.Process] = []
        while len(killed) < KILLS:
            assert server.board.get(job.name).state in (batches.pb.JOB_QUEUED, batches.pb.JOB_RUNNING)
            # A unit that was hit twice must come through before the next is hit.
            if max((attempts for state, attempts in place.units().values() if state == "pending"), default=0) >= 2:
                time.sleep(0.05)
                continue
            victim = busiest(server.busy())
            if victim is not None:
                victim.kill()
                victim.wait(10)
                killed.append(victim)
        assert not any(victim.is_running() for victim in killed)
        done = batches.succeeded(server.board.wait(job.name))
        assert batches.results(done) == batches.results(quiet)
        assert batches.files(done) == batches.files(quiet)
        # A process that ends between two units costs none of them an attempt.
        log = server.process.log.read_text()
        hit = len(re.findall(r"narrow worker \d is lost: its process ended while it was at point \d+;", log))
        missed = len(re.findall(r"narrow worker \d is lost: its process had ended;", log))
        assert hit + missed == KILLS
        assert done.retries == hit >= KILLS - 3
        assert sum(attempts for _, attempts in place.units().values()) == hit
        batches.nothing_aside(place)


@pytest.mark.slow
def test_a_worker_that_was_stopped_past_its_lease_overwrites_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, ("--tile-lease", "6"))
    with place.serve() as server:
        server.wait_until_ready()
        quiet = server.run(4 * MEDIUM, out="quiet")
        job = server.submit(4 * MEDIUM, out="stopped")
        service.wait_for(lambda: len(server.busy()) == batches.WORKERS)
        victim = server.busy()[0]
        victim.suspend()
        service.wait_for(lambda: server.board.get(job.name).retries == 1, 60)
        assert victim.is_running()
        service.wait_for(lambda: server.board.get(job.name).points_done == batches.POINTS, 60)
        before = batches.stamps(done := batches.succeeded(server.board.wait(job.name)))
        if victim.is_running():
            victim.resume()
        service.assert_gone([victim], 30)
        assert "took longer than 6 s" in server.process.log.read_text()
        assert done.retries == 1
        assert batches.stamps(done) == before
        assert batches.files(done) == batches.files(quiet)
        assert server.verify(job.name).damaged == 0
        batches.nothing_aside(place)
