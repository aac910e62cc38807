"""Jobs whose units are known in advance, and servers that are killed and come again over the same data."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import psutil
import zarr
from integration import graphs, service
from integration.jobs import Jobs, spec
from integration.service import Client, Process

from jacloom_api.v1 import job_service_pb2 as pb

WORKERS = 2
POINTS = 15
"""As many as are one unit each, whatever a server measures: fewer than eight for each of two workers."""
N = 8
RNG = np.random.default_rng(11)
X, V = RNG.normal(size=(POINTS, N)), RNG.normal(size=(POINTS, N))
FAST, MEDIUM, SLOW, ENDLESS = 2_000, 800_000, 4_000_000, 1_000_000_000
"""Steps of a point that takes milliseconds, some hundred of them, about a second, and hours; on a machine that is busy, three times as long."""


@dataclass(frozen=True)
class Place:
    """Where a server keeps things."""

    folder: Path
    flags: tuple[str, ...] = ()
    workers: int = WORKERS
    ray: str = ""
    """Address of a cluster; empty for one of its own."""

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def hidden(self) -> Path:
        """What is being made, or waits to be put in place."""
        return self.data / "results" / ".jacloom"

    def arguments(self) -> list[str]:
        ray = ("--ray-address", self.ray) if self.ray else ("--object-store", "256M")
        return [*ray, "--workers", str(self.workers), "--no-wide", "--data", str(self.data), *self.flags]

    @contextlib.contextmanager
    def serve(self) -> Iterator[Server]:
        """Runs a server that ends in order."""
        with service.process(self.folder / "log", *self.arguments()) as running, opened(running) as server:
            yield server

    @contextlib.contextmanager
    def doomed(self, failpoint: str = "") -> Iterator[Server]:
        """Runs a server that ends by SIGKILL within the block."""
        log = self.folder / "log"
        command = [sys.executable, "-m", "jacloom_server", "--parent", "--address", "127.0.0.1:0", *self.arguments()]
        environment = os.environ | ({"JACLOOM_FAILPOINT": failpoint} if failpoint else {})
        with log.open("w") as stderr:
            popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True, env=environment
            )
        assert popen.stdin is not None
        assert popen.stdout is not None
        line = popen.stdout.readline()
        started: list[psutil.Process] = []
        try:
            if line:
                ready = json.loads(line)
                running = Process(popen, ready["address"], ready["pid"], log)
                started = [each for each in running.tree() if each.pid != popen.pid]
                with opened(running) as server:
                    yield server
            else:
                raise AssertionError(log.read_text())
            assert popen.wait(60) == -signal.SIGKILL, log.read_text()
        finally:
            popen.kill()
            popen.stdin.close()
            popen.stdout.close()
            popen.wait()
        # What it has started ends by itself, and does not write any more.
        service.assert_gone(started, 30)

    def units(self, job: pb.Job) -> dict[int, tuple[str, int]]:
        """Returns state and failed attempts of each unit of a job that the ledger knows, as SQLite itself reads it."""
        query = "SELECT units.number, units.state, attempts FROM units, jobs WHERE job = jobs.number AND id = ?"
        with closing(sqlite3.connect(f"file:{self.data / 'jobs' / 'jobs.sqlite3'}?mode=ro", uri=True, timeout=30)) as connection:
            return {number: (state, attempts) for number, state, attempts in connection.execute(query, (job.name.removeprefix("jobs/"),))}

    def committed(self, job: pb.Job) -> set[int]:
        return {number for number, (state, _) in self.units(job).items() if state == "committed"}


@dataclass(frozen=True)
class Server:
    """A server with its clients."""

    process: Process
    client: Client
    board: Jobs

    def wait_until_ready(self, workers: int = WORKERS) -> Self:
        service.wait_for(lambda: self.process.ready() >= workers + 1, 120)
        return self

    def submit(self, steps: int, x: np.ndarray = X, v: np.ndarray = V, **fields: object) -> pb.Job:
        """Makes a job of products with Jacobians of ``graphs.decay``."""
        name = self.client.register(graphs.decay(N, steps))
        return self.board.create(spec(name, [x[0]], pb.JOB_JVP, seeds=[v[0]], **fields), [x, v])

    def run(self, steps: int, x: np.ndarray = X, v: np.ndarray = V, **fields: object) -> pb.Job:
        """Makes a job, and returns it when it has succeeded."""
        return succeeded(self.board.wait(self.submit(steps, x, v, **fields).name))

    def endless(self, deadline: float = 0) -> pb.Job:
        """Makes a job of which the last seven units do not end; the first eight points, by which it is planned, do."""
        points = np.abs(X) + 1
        points[8:] = 0
        name = self.client.register(graphs.doubling(N))
        asked = spec(name, [points[0]], pb.JOB_VALUE, wrt=())
        if deadline:
            asked.deadline.FromMilliseconds(int(1000 * (time.time() + deadline)))
        return self.board.create(asked, [points])

    def cancel(self, name: str) -> pb.Job:
        return self.board.stub.Cancel(pb.CancelJobRequest(name=name), timeout=service.TIMEOUT)

    def retry(self, name: str) -> pb.Job:
        return self.board.stub.Retry(pb.RetryJobRequest(name=name), timeout=service.TIMEOUT)

    def verify(self, name: str) -> pb.VerifyJobReply:
        return self.board.stub.Verify(pb.VerifyJobRequest(name=name), timeout=service.TIMEOUT)

    def delete(self, name: str) -> None:
        self.board.stub.Delete(pb.DeleteJobRequest(name=name), timeout=service.TIMEOUT)

    def failures(self, name: str) -> list[pb.UnitFailure]:
        return list(self.board.stub.ListFailures(pb.ListFailuresRequest(name=name), timeout=service.TIMEOUT).failures)

    def only(self) -> pb.Job:
        """Returns the one job that there is."""
        (job,) = self.board.stub.List(pb.ListJobsRequest(), timeout=service.TIMEOUT).jobs
        return job

    def busy(self) -> list[psutil.Process]:
        """Returns the workers that are at a unit; Ray names processes by what they do."""
        return service.named(self.process.tree(), r"ray::Worker\.write")


@contextlib.contextmanager
def opened(running: Process) -> Iterator[Server]:
    with service.client(running) as client, grpc.insecure_channel(running.address, options=service.OPTIONS) as channel:
        yield Server(running, client, Jobs(channel))


def succeeded(job: pb.Job) -> pb.Job:
    """Returns a job, having checked that all of it is done and that its counts are exact."""
    counts = (job.points_done, job.points_failed, job.points_not_finite, job.units_done, job.units_failed)
    assert (job.state, *counts) == (pb.JOB_SUCCEEDED, job.points, 0, 0, job.units, 0), job
    return job


def files(job: pb.Job) -> dict[str, bytes]:
    """Returns every file of a job's results but for its description, in which times and the like may be."""
    store = Path(job.store)
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "zarr.json"}


def results(job: pb.Job) -> dict[str, bytes]:
    """Returns the chunks that units have written."""
    return {path: data for path, data in files(job).items() if path.startswith(("value/", "tangent/"))}


def status(job: pb.Job) -> list[int]:
    """Returns the status of each point as whoever opens the results sees it."""
    return list(zarr.open_group(job.store, mode="r")["status"][...].tolist())


def stamps(job: pb.Job) -> dict[str, tuple[int, int]]:
    """Returns inode and time of writing of each chunk that units have written."""
    store = Path(job.store)
    found = {}
    for array in ("value", "tangent"):
        for path in (store / array).glob("c.*"):
            status = path.stat()
            found[str(path.relative_to(store))] = (status.st_ino, status.st_mtime_ns)
    return found


def nothing_aside(place: Place) -> None:
    """Checks that nothing is left of what was being made."""
    service.wait_for(lambda: not [path for kind in ("aside", "incoming") for path in (place.hidden / kind).glob("*")], 10)
