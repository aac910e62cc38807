"""Anonymous memory while a Jacobian much larger than any buffer streams through the server to a slow reader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc
import jax
import numpy as np
import psutil

from benchmarks.measure import Goal, Report, anonymous_bytes, service_processes
from jacloom_api.v1 import derivative_service_pb2, derivative_service_pb2_grpc, function_service_pb2, function_service_pb2_grpc
from jacloom_graph import tensor, wire

_MIB = 1 << 20


class Peak:
    """The greatest anonymous memory of this process, of the server and of any worker while a body runs."""

    def __init__(self) -> None:
        """Starts at nothing."""
        self.client = 0
        self.server = 0
        self.worker = 0

    def sample(self) -> None:
        """Looks once."""
        found = service_processes()
        self.client = max(self.client, anonymous_bytes(os.getpid()))
        self.server = max([self.server, *map(_anonymous, found["server"])])
        self.worker = max([self.worker, *map(_anonymous, found["workers"])])


def _anonymous(process: psutil.Process) -> int:
    # A process may end between being found and being looked at; raising would end the thread that watches, and with it the measurement.
    try:
        return anonymous_bytes(process.pid)
    except (OSError, LookupError):
        return 0


@contextmanager
def watched(every: float = 0.1) -> Iterator[Peak]:
    """Gives a peak that is kept up to date by a thread."""
    peak, done = Peak(), threading.Event()

    def watch() -> None:
        while not done.wait(every):
            peak.sample()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def dense(n: int) -> tuple[Callable[[jax.Array], jax.Array], np.ndarray]:
    """Returns a cheap function of ``n`` variables with a full ``n x n`` Jacobian, and a point."""
    return (lambda x: x * jax.numpy.sum(x)), np.linspace(0, 1, n)


@contextmanager
def service() -> Iterator[str]:
    """Gives the address of a service of its own, open to this machine's users."""
    command = [sys.executable, "-m", "jacloom_server", "--parent", "--address", "127.0.0.1:0", "--log", "warning"]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield json.loads(server.stdout.readline())["address"]
    finally:
        server.stdin.close()
        server.wait(30)


def slow_reader(gib: float = 2.0, rate: float = 256e6) -> Report:
    """Streams a Jacobian of ``gib`` GiB to a reader that takes ``rate`` bytes per second."""
    with service() as address:
        return _slow_reader(address, gib, rate)


def _slow_reader(address: str, gib: float, rate: float) -> Report:
    n = int(np.sqrt(gib * (1 << 30) / 8))
    fun, x = dense(n)
    received = 0
    base = Peak()
    with watched() as peak, grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", 16 << 20)]) as channel:
        import jacloom as jl

        graph = wire.to_bytes(jl.trace(fun, x).graph)
        name = function_service_pb2_grpc.FunctionServiceStub(channel).Register(function_service_pb2.RegisterRequest(graph=graph)).name
        base.sample()
        request = derivative_service_pb2.CallRequest(function=name, args=[tensor.to_message(x)], wrt=[0])
        start = time.perf_counter()
        for reply in derivative_service_pb2_grpc.DerivativeServiceStub(channel).Jacobian(request):
            received += sum(len(block.data) for block in reply.blocks)
            ahead = received / rate - (time.perf_counter() - start)
            if ahead > 0:
                time.sleep(ahead)
        seconds = time.perf_counter() - start
    assert received == n * n * 8, f"{received} bytes of {n * n * 8} came"
    figures = {
        "seconds": seconds,
        "server before (MiB)": base.server / _MIB,
        "server at most (MiB)": peak.server / _MIB,
        "worker before (MiB)": base.worker / _MIB,
        "worker at most (MiB)": peak.worker / _MIB,
    }
    return Report(f"Memory, {gib:g} GiB to a slow reader", figures, (Goal("server at most 512 MiB", peak.server / _MIB, 512, "MiB"),))
