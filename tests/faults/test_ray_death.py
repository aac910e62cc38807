"""The Ray below a server dies: the server goes, another comes up in its place, and both leave nothing behind."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from integration import graphs, service
from integration.service import Client, request


@pytest.fixture
def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def supervisor(tmp_path: Path, address: str) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "jacloom_server", "--address", address, "--workers", "1", "--no-wide", "--object-store", "256M"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log) as popen:
        yield psutil.Process(popen.pid)
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(30) == 0, (tmp_path / "log").read_text()


@pytest.mark.slow
def test_a_server_whose_node_dies_is_replaced(supervisor: psutil.Process, address: str) -> None:
    with grpc.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 500)]) as channel:
        client = Client(channel)
        service.wait_for(lambda: is_right(client), 60)
        first = supervisor.children(recursive=True)
        (raylet,) = service.named(first, "raylet")
        raylet.kill()
        service.assert_gone(first, 60)
        service.wait_for(lambda: is_right(client), 60)


def is_right(client: Client) -> bool:
    """Returns whether the service gives an answer, having checked that it is the right one."""
    try:
        name = client.register(graphs.cubes(3))
        answer = client.call("Gradient", request(name, [np.arange(3.0)]), timeout=10)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return False
        raise
    np.testing.assert_allclose(answer.arrays[0], [0.0, 3.0, 12.0])
    return True
