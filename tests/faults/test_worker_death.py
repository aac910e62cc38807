"""Workers that are killed while they compute, and readers that do not read: the answer is right or an error, and the server is as before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest
from integration import graphs, service
from integration.service import Client, Process, request

from jacloom_api.v1 import derivative_service_pb2 as pb

N = 64
STEPS = 100_000


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with service.process(tmp_path_factory.mktemp("server") / "log", "--workers", "2", "--no-wide", "--object-store", "1G") as running:
        yield running


@pytest.fixture
def client(process: Process) -> Iterator[Client]:
    """A client of a service in full strength, which is found in full strength afterwards."""
    with service.client(process) as made:
        service.wait_for(lambda: len(process.workers()) == 2 and made.serving(), 60)
        name = made.register(graphs.cubes(3))
        server = psutil.Process(process.pid)
        before = usage(server)
        yield made
        service.wait_for(lambda: len(process.workers()) == 2 and made.serving(), 60)
        np.testing.assert_allclose(made.call("Gradient", request(name, [np.arange(3.0)])).arrays[0], [0, 3, 12])
        service.wait_for(lambda: all(now <= then + slack for now, then, slack in zip(usage(server), before, (20, 20, 128 << 20), strict=True)))


def usage(server: psutil.Process) -> tuple[int, int, int]:
    """Returns file descriptors, threads and resident bytes of its own."""
    return server.num_fds(), server.num_threads(), anonymous(server)


def anonymous(server: psutil.Process) -> int:
    memory = server.memory_info()
    return int(memory.rss - memory.shared)


def busiest(process: Process) -> psutil.Process | None:
    """Returns the worker that computes most, if one does."""
    before = {worker: sum(worker.cpu_times()[:2]) for worker in process.workers()}
    time.sleep(0.3)
    spent = {worker: sum(worker.cpu_times()[:2]) - then for worker, then in before.items() if worker.is_running()}
    worker = max(spent, key=lambda each: spent[each], default=None)
    return worker if worker is not None and spent[worker] > 0.1 else None


def test_tiles_of_a_killed_worker_are_run_again(client: Client, process: Process) -> None:
    name = client.register(graphs.decay(N, STEPS))
    call = request(name, [np.zeros(N)], tile=4, sparsity=pb.DENSE)
    stream = client.derivatives.Jacobian(call, timeout=service.TIMEOUT)
    victim = None
    while victim is None:
        victim = busiest(process)
    victim.kill()
    answer = service.collect(stream)
    # The derivative of x + 1e-6 sin x at 0, STEPS times over.
    np.testing.assert_allclose(answer.arrays[0], np.eye(N) * (1 + 1e-6) ** STEPS, rtol=1e-9)
    assert answer.summary.retries >= 1
    assert (answer.summary.passes, answer.summary.tiles) == (N, N // 4)
    assert not victim.is_running()


def test_a_tile_that_ends_every_worker_fails_alone_with_its_seeds_named(client: Client, process: Process) -> None:
    name = client.register(graphs.decay(5, 1_000_000_000))
    killed: list[psutil.Process] = []
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.call, "Jacobian", request(name, [np.zeros(5)], tile=5, sparsity=pb.DENSE))
        while not call.done() and len(killed) < 5:
            victim = busiest(process)
            if victim is not None:
                killed.append(victim)
                victim.kill()
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
    found = service.failure(caught.value)
    assert (found.code, found.reason, len(killed)) == (grpc.StatusCode.FAILED_PRECONDITION, "POISONED", 3)
    assert "seeds 0 to 4" in found.text
    assert not any(str(victim.pid) in found.text for victim in killed)


def test_a_clerk_that_is_killed_is_replaced(client: Client, process: Process) -> None:
    (clerk,) = service.named(process.tree(), r"ray::Clerk.*")
    clerk.kill()
    name = client.register(graphs.sine(17))
    assert client.call("Jacobian", request(name, [np.zeros(17)])).summary.passes == 17
    assert not clerk.is_running()


def test_a_call_that_its_client_gives_up_frees_its_worker(client: Client, process: Process) -> None:
    name = client.register(graphs.decay(5, 1_000_000_000))
    pids = {worker.pid for worker in process.workers()}
    with pytest.raises(grpc.RpcError) as caught:
        client.call("Jacobian", request(name, [np.zeros(5)], sparsity=pb.DENSE), timeout=3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    service.wait_for(lambda: {worker.pid for worker in process.workers()} != pids, 10)
    service.wait_for(lambda: busiest(process) is None, 30)


def test_a_slow_reader_slows_the_work_and_does_not_fill_memory(client: Client, process: Process) -> None:
    n = 8192  # an answer of 512 MiB
    server = psutil.Process(process.pid)
    name = client.register(graphs.sine(n))
    base, peak, done = anonymous(server), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, anonymous(server))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        stream = client.derivatives.Jacobian(request(name, [np.zeros(n)], sparsity=pb.DENSE), timeout=service.TIMEOUT)
        received = 0
        for reply in stream:
            received += sum(len(block.data) for block in reply.blocks)
            if received < 32 << 20:
                time.sleep(0.1)
            if 32 << 20 <= received < 33 << 20:
                time.sleep(1)
                assert busiest(process) is None, "nobody works ahead of a reader that has stopped"
    finally:
        done.set()
        watcher.join()
    assert received == n * n * 8
    assert peak - base < 200 << 20
