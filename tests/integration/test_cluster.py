"""A server that joins a Ray cluster which others have started."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from integration import graphs, service
from integration.service import request


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs a Ray head with two CPUs and a token, and gives its address."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).parent / "ray"
    command = [
        program,
        "start",
        "--head",
        "--block",
        f"--port={port}",
        "--num-cpus=2",
        "--include-dashboard=false",
        "--object-store-memory=300000000",
    ]
    with (tmp_path / "ray.log").open("w") as log:
        ray = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ, start_new_session=True)
    try:
        service.wait_for(lambda: "Ray runtime started" in (tmp_path / "ray.log").read_text(), 60)
        yield f"127.0.0.1:{port}"
    finally:
        started = psutil.Process(ray.pid).children(recursive=True)
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
