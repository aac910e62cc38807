"""A machine of the cluster dies while a job runs, and another joins: the job goes on with what is there."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import batches
from faults.batches import SLOW, Place
from integration import service
from integration.test_cluster import head, node

__all__ = ["head"]


@pytest.mark.slow
def test_a_job_outlives_a_node_and_takes_in_another(head: str, tmp_path: Path) -> None:
    place = Place(tmp_path, workers=1, ray=head)
    with ExitStack() as nodes:
        dies = nodes.enter_context(node(tmp_path / "dies.log", f"--address={head}", "--num-cpus=1"))
        with place.serve() as server:
            server.wait_until_ready(2)
            quiet = server.run(SLOW, out="quiet")
            job = server.submit(SLOW, out="cluster")
            (raylet,) = service.named(dies.children(recursive=True), "raylet")
            # Both machines are at it.
            service.wait_for(lambda: len(place.committed(job)) > 0, 60)
            service.wait_for(lambda: service.named(raylet.children(), r"ray::Worker\.write"), 30)
            raylet.kill()
            before = server.process.ready()
            nodes.enter_context(node(tmp_path / "joins.log", f"--address={head}", "--num-cpus=1"))
            done = batches.succeeded(server.board.wait(job.name))
            assert done.retries > 0
            assert batches.files(done) == batches.files(quiet)
            service.wait_for(lambda: server.process.ready() > before, 60)
            again = server.run(SLOW, out="again")
            assert batches.files(again) == batches.files(quiet)
            batches.nothing_aside(place)
