"""A server that joins a Ray cluster which others have started."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from integration import graphs, service
from integration.service import request

from jacloom_api.v1 import derivative_service_pb2 as pb


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a Ray head with two CPUs and a token, and gives its address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with node(tmp_path / "head.log", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"):
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def node(log: Path, *flags: str) -> Iterator[psutil.Process]:
    """Runs a node of a Ray cluster."""
    command: list[str | Path] = [Path(sys.executable).parent / "ray", "start", "--block", "--object-store-memory=300000000", *flags]
    with log.open("w") as output:
        ray = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ, start_new_session=True)
    try:
        service.wait_for(lambda: "Ray runtime started" in log.read_text(), 60)
        yield psutil.Process(ray.pid)
    finally:
        started = psutil.Process(ray.pid).children(recursive=True) if ray.poll() is None else []
        ray.send_signal(signal.SIGTERM)
        ray.wait(30)
        _, alive = psutil.wait_procs(started, 10)
        for process in alive:
            process.kill()


@pytest.mark.slow
def test_joins_a_cluster_and_leaves_it_as_it_was(head: str, tmp_path: Path) -> None:
    with service.process(tmp_path / "log", "--ray-address", head, "--workers", "1") as running, service.client(running) as client:
        name = client.register(graphs.cubes(3))
        answer = client.call("Hessian", request(name, [np.arange(3.0)]))
        np.testing.assert_allclose(answer.arrays[0], np.diag([0.0, 6.0, 12.0]))
        service.wait_for(lambda: running.ready() == 3, 60)
        assert "on node" in running.log.read_text()
    # The cluster is still there, with its places free again.
    with service.process(tmp_path / "again", "--ray-address", head, "--workers", "2") as running:
        service.wait_for(lambda: running.ready() == 4, 60)


@pytest.mark.slow
def test_a_node_that_joins_takes_part_and_one_that_dies_costs_nothing_but_time(head: str, tmp_path: Path) -> None:
    n, steps = 48, 300_000
    with service.process(tmp_path / "log", "--ray-address", head, "--workers", "1", "--no-wide") as running, service.client(running) as client:
        name = client.register(graphs.decay(n, steps))
        service.wait_for(lambda: running.ready() == 2, 60)
        with node(tmp_path / "second.log", f"--address={head}", "--num-cpus=1") as second:
            service.wait_for(lambda: running.ready() == 3, 60)
            places = re.findall(r"narrow worker 0 on node (\w+) is ready", running.log.read_text())
            assert len(set(places)) == 2
            answers: list[service.Answer] = []
            call = threading.Thread(target=lambda: answers.append(client.call("Jacobian", request(name, [np.zeros(n)], tile=4, sparsity=pb.DENSE))))
            call.start()
            (raylet,) = service.named(second.children(recursive=True), "raylet")
            (worker,) = service.named(raylet.children(), r"ray::Worker.*")
            service.wait_for(lambda: worker.name() == "ray::Worker.run", 30)
            raylet.kill()
            call.join(120)
            (answer,) = answers
        np.testing.assert_allclose(answer.arrays[0], np.eye(n) * (1 + 1e-6) ** steps, rtol=1e-9)
        assert answer.summary.workers == 2
        assert answer.summary.retries > 0
        service.wait_for(lambda: client.serving(), 30)
