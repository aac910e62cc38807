"""Servers that are killed while they commit: what was counted stays counted, is never computed again, and has the right bytes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pytest
from faults import committing

from jacloom_server.jobs import failpoints
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.states import Counts, State, UnitState
from jacloom_server.jobs.verifying import Verified, verify

SEEDS = 15
"""For each failpoint: 105 in all."""
REACHED = {
    "before-rename": 300,
    "between-renames": 150,
    "before-directory-sync": 15,
    "before-transaction": 40,
    "within-transaction": 40,
    "after-transaction": 40,
    "before-removal": 190,
}
"""How often a server that does the whole job comes there at the least."""
FAILED = {number for number in range(committing.UNITS) if committing.fails(number)}
DONE = sorted(set(range(committing.UNITS)) - FAILED)


class Nursery:
    """Starts servers, one at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, folder: Path, seed: str, failpoint: str = "", linger: float = 0, then: Callable[[int], None] = lambda pid: None) -> int:
        """Returns the exit status of a server, whose process id ``then`` is told as soon as it has begun."""
        assert self.process.stdin is not None
        print(folder, seed, failpoint, linger, sep="\t", file=self.process.stdin, flush=True)
        then(self._number())
        return self._number()

    def _number(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nurseries() -> Iterator[list[Nursery]]:
    """As many as there are likely to be cores for."""
    with ExitStack() as running:
        program = [sys.executable, committing.__file__]
        started = [subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        yield [Nursery(running.enter_context(process)) for process in started]


@contextmanager
def place() -> Iterator[Path]:
    """A folder in memory, if there is one: what a process has written outlives it there as on a disk, and no seed waits for a disk to sync."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


class History:
    """What is known of a job from outside: the log of its servers, and the ledger's file as SQLite itself reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settled: set[int] = set()
        self.lines = 0

    def check(self) -> None:
        """Asserts what must be so after each server, however it ended."""
        lines = [(what, int(number)) for what, number in (line.split() for line in self._log())]
        # No unit that the ledger had when this server began was computed by it.
        assert self.settled.isdisjoint(number for what, number in lines[self.lines :] if what == "computed")
        settled = self._settled()
        # What somebody was told is so.
        assert {number for what, number in lines if what == "counted"} <= settled
        assert self.settled <= settled
        self.settled, self.lines = settled, len(lines)

    def counted(self) -> list[int]:
        return [int(number) for what, number in (line.split() for line in self._log()) if what == "counted"]

    def quiet(self) -> bool:
        """Whether nothing was said since the last check."""
        return len(self._log()) == self.lines

    def _settled(self) -> set[int]:
        path = self.folder / "data" / "jobs.sqlite3"
        if not path.exists():
            return set()
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'units'").fetchone():
                return set()
            return {number for (number,) in connection.execute("SELECT number FROM units WHERE state IN ('committed', 'failed')")}

    def _log(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().splitlines() if log.exists() else []


def check_result(folder: Path) -> None:
    """Asserts that the job is done, once and wholly."""
    ledger = Ledger(folder / "data")
    job = ledger.get(committing.JOB)
    rows = {row.number: row for row in ledger.units(committing.JOB)}
    ledger.close()
    assert job.state is State.SUCCEEDED_WITH_FAILURES
    assert job.counts == Counts(
        points_done=sum(map(committing.points, DONE)),
        points_failed=sum(map(committing.points, FAILED)),
        points_not_finite=sum(number % 7 == 3 for number in DONE),
        units_done=len(DONE),
        units_failed=len(FAILED),
        retries=committing.ATTEMPTS * len(FAILED),
    )
    assert {number for number, row in rows.items() if row.state is UnitState.FAILED and row.attempts == committing.ATTEMPTS} == FAILED
    expected = {path: data for number in DONE for path, data in committing.chunks(number).items()}
    store = folder / "results" / "out"
    assert {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()} == expected
    for number in DONE:
        assert rows[number].state is UnitState.COMMITTED
        assert {chunk.path: chunk.checksum for chunk in rows[number].chunks} == {
            path: zlib.crc32(data) for path, data in committing.chunks(number).items()
        }
        flags = rows[number].finite
        assert flags is not None
        np.testing.assert_array_equal(flags, committing.finite(number))
    assert verify(store, rows.values()) == Verified(len(expected), ())
    # Nothing that attempts have written aside is left.
    assert not list(folder.glob("results/.jacloom/aside/*/*"))


def for_each(seeds: range, nurseries: list[Nursery], work: Callable[[Nursery, int], None]) -> None:
    def share(first: int) -> None:
        for seed in seeds[first :: len(nurseries)]:
            work(nurseries[first], seed)

    with ThreadPoolExecutor(len(nurseries)) as threads:
        list(threads.map(share, range(len(nurseries))))


def test_every_failpoint_is_tried() -> None:
    assert tuple(REACHED) == failpoints.NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", failpoints.NAMES)
def test_servers_that_are_killed_in_the_middle_of_a_commit(nurseries: list[Nursery], name: str) -> None:
    def killed(started: Nursery, seed: int) -> None:
        chance = Random(f"{name} {seed}")
        with place() as folder:
            history = History(folder)
            assert started.run(folder, f"{seed} first", f"{name}:{chance.randint(1, REACHED[name])}") == -signal.SIGKILL
            history.check()
            assert len(history.settled) < committing.UNITS or name in ("after-transaction", "before-removal")
            if seed % 2:
                # Once more, soon after the restart; there may not be as much left to do.
                again = f"{chance.choice(failpoints.NAMES)}:{chance.randint(1, 20)}"
                assert started.run(folder, f"{seed} second", again) in (-signal.SIGKILL, 0)
                history.check()
            assert started.run(folder, f"{seed} last") == 0
            history.check()
            assert len(history.counted()) == len(set(history.counted()))
            check_result(folder)

    for_each(range(SEEDS), nurseries, killed)


@pytest.mark.slow
def test_servers_that_are_killed_at_any_time(nurseries: list[Nursery]) -> None:
    interrupted = []

    def killed(started: Nursery, seed: int) -> None:
        chance = Random(seed)
        with place() as folder:
            history = History(folder)

            def kill(pid: int) -> None:
                # Every other time not before it is at work, which on a busy machine may take long.
                while seed % 2 and len(history.settled) < committing.UNITS and history.quiet():
                    time.sleep(0.001)
                time.sleep(chance.uniform(0, 0.2))
                os.kill(pid, signal.SIGKILL)

            for attempt in range(4):
                # It lingers when it is done, so that the signal always meets it.
                assert started.run(folder, f"{seed} {attempt}", linger=60, then=kill) == -signal.SIGKILL
                history.check()
                interrupted.append(0 < len(history.settled) < committing.UNITS)
            assert started.run(folder, f"{seed} last") == 0
            history.check()
            check_result(folder)

    for_each(range(12), nurseries, killed)
    assert sum(interrupted) >= 3
