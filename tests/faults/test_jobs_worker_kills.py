"""Workers that are killed, stopped or lost while they compute units of a job: the results are those of a quiet run, and each loss is counted once."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil
import pytest
from faults import batches
from faults.batches import SLOW, Place
from integration import service

from jacloom_api.v1 import job_service_pb2 as pb

KILLS = 20
WORKERS = 3
STEPS = 2 * SLOW
UNITS = 23
"""One point each, as fewer than eight for each worker are."""


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
            assert server.board.get(job.name).state in (pb.JOB_QUEUED, pb.JOB_RUNNING)
            busy = server.busy()
            # A unit that was hit twice must come through before another is hit.
            if busy and max((attempts for state, attempts in place.units(job).values() if state == "pending"), default=0) < 2:
                time.sleep(0.1)
                busy[0].kill()
                busy[0].wait(10)
                killed.append(busy[0])
            time.sleep(0.1)
        assert not any(victim.is_running() for victim in killed)
        done = batches.succeeded(server.board.wait(job.name))
        assert batches.results(done) == batches.results(quiet)
        assert batches.files(done) == batches.files(quiet)
        lost = re.findall(r"narrow worker \d is lost: its process (had )?ended", server.process.log.read_text())
        assert done.retries == len(lost) == KILLS
        # A process that was found dead when a unit was sent to it costs that no attempt.
        assert sum(attempts for _, attempts in place.units(job).values()) == lost.count("")
        batches.nothing_aside(place)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The results of a job to which nothing happens."""
    with Place(tmp_path_factory.mktemp("quiet")).serve() as server:
        return batches.files(server.wait_until_ready().run(STEPS))


@pytest.mark.slow
@pytest.mark.parametrize("lease", [8, 600])
def test_a_worker_that_was_stopped_and_goes_on_overwrites_nothing(tmp_path: Path, quiet: dict[str, bytes], lease: int) -> None:
    place = Place(tmp_path, ("--tile-lease", str(lease)))
    with place.serve() as server:
        server.wait_until_ready()
        job = server.submit(STEPS)
        service.wait_for(lambda: len(place.committed(job)) > 1, 120)
        service.wait_for(lambda: len(server.busy()) == batches.WORKERS)
        victim = server.busy()[0]
        victim.suspend()
        time.sleep(9)
        # Meanwhile another computes its unit.
        service.wait_for(lambda: server.board.get(job.name).retries == 1, 60)
        before, committed = batches.stamps(job), place.committed(job)
        assert len(committed) < batches.POINTS
        assert victim.is_running()
        victim.resume()
        if lease < 9:
            # Its time is over, and it ends itself.
            service.assert_gone([victim])
        else:
            attempts = place.hidden / "aside" / job.name.removeprefix("jobs/")
            # It writes what nobody takes, unless it hears first that it was replaced, and ends.
            service.wait_for(
                lambda: not victim.is_running() or any(int(path.name.split("-")[0]) in committed and late(path) for path in attempts.glob("*"))
            )
        done = batches.succeeded(server.board.wait(job.name))
        assert done.retries == 1
        assert before.items() <= batches.stamps(done).items()
        assert batches.files(done) == quiet
        assert server.verify(job.name).damaged == 0
        batches.nothing_aside(place)


def late(attempt: Path) -> bool:
    """Whether a worker has written chunks in an attempt's folder that nobody takes."""
    return any(path.is_file() for path in attempt.rglob("c.*"))
