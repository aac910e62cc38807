"""Servers in small that are killed again and again: each goes on with a job where the one before it was, until all units are settled.

``python committing.py`` reads a line for each, ``FOLDER <tab> SEED <tab> FAILPOINT <tab> LINGER``, forks it from itself, which has loaded everything
and opened nothing, and writes its process id, and when it has ended, its exit status. What a server does it says in ``FOLDER/log``, a line each:
before (computed) and after (tried, counted) the fact.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
import zlib
from pathlib import Path
from random import Random

import numpy as np

from jacloom_server.jobs import failpoints
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.publishing import Landing, Publisher
from jacloom_server.jobs.states import Counts, Entry, Landed, State, UnitState
from jacloom_worker.unit import Chunk

JOB = "0123456789abcdef0123"
UNITS = 200
MOST = 12
"""Units that are under way at once."""
ATTEMPTS = 3


def points(number: int) -> int:
    return 1 + number % 4


def finite(number: int) -> np.ndarray:
    """Of every seventh unit the first point is not."""
    flags = np.ones(points(number), bool)
    flags[0] = number % 7 != 3
    return flags


def fails(number: int) -> bool:
    return number % 37 == 5


def chunks(number: int) -> dict[str, bytes]:
    """Content by path: one to three chunks, in folders that units share and in some that are a unit's own."""
    paths = (f"value/c/{number}", f"jacobian/c/{number}/0/0", f"jacobian/c/{number}/0/1")
    return {path: Random(f"{number} {path}").randbytes(40 + number) for path in paths[: 1 + number % 3]}


def counts(new: list[Landed]) -> Counts:
    done = sum(len(landed.finite) for landed in new)
    return Counts(points_done=done, units_done=len(new), points_not_finite=done - sum(int(landed.finite.sum()) for landed in new))


class Server:
    def __init__(self, folder: Path, seed: str) -> None:
        self.folder = folder
        self.random = Random(seed)
        self.store = folder / "results" / "out"
        self.store.mkdir(parents=True, exist_ok=True)
        self.asides = folder / "results" / ".jacloom" / "aside" / JOB
        self.log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.ledger = Ledger(folder / "data")
        self.publisher = Publisher(self.ledger)

    def say(self, what: str, number: int) -> None:
        os.write(self.log, f"{what} {number}\n".encode())

    async def run(self) -> None:
        asked = Entry(id=JOB, request_id="once", digest="d", function="f", derivative="jacobian", points=0, out="out", created=1.0, spec=b"spec")
        assert self.ledger.create(asked).id == JOB
        if self.ledger.plan(JOB, b"record", UNITS, 2.0).state.ended:
            return
        # What attempts of the last server have left.
        await self.publisher.discard(self.asides)
        rows = {row.number: row for row in self.ledger.units(JOB)}
        todo = [number for number in range(UNITS) if number not in rows or rows[number].state is UnitState.PENDING]
        self.random.shuffle(todo)
        tried = {number: row.attempts for number, row in rows.items()}
        while todo:
            size = self.random.randint(1, MOST)
            now, todo = todo[:size], todo[size:]
            await asyncio.gather(*(self.settle(number, tried.get(number, 0)) for number in now))
            late = [number for number in now if not fails(number) and self.random.random() < 0.1]
            assert not any(await asyncio.gather(*(self.publisher.publish(self.compute(number, wrong=True)) for number in late)))
        await self.publisher.discard(self.asides)
        self.ledger.end(JOB, State.SUCCEEDED_WITH_FAILURES, "", 3.0)
        self.publisher.close()
        self.ledger.close()

    async def settle(self, number: int, tried: int) -> None:
        self.say("computed", number)
        if not fails(number):
            assert await self.publisher.publish(self.compute(number))
            self.say("counted", number)
            return
        while tried < ATTEMPTS:
            tried = self.ledger.attempt(JOB, number, "INTERNAL", f"attempt {tried + 1}")
            self.say("tried", number)
        assert self.ledger.fail(JOB, number, Counts(units_failed=1, points_failed=points(number)))
        self.say("counted", number)

    def compute(self, number: int, wrong: bool = False) -> Landing:
        """Writes a unit aside. Nothing is synced: the machine goes on when a process is killed."""
        attempt = f"{os.getpid()}-{number}-{wrong}"
        written = []
        for path, data in chunks(number).items():
            target = self.asides / attempt / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data[::-1] if wrong else data)
            written.append(Chunk(path, len(data), zlib.crc32(data)))
        return Landing(JOB, self.store, self.asides / attempt, Landed(number, attempt, tuple(written), finite(number)), counts)


def serve(folder: str, seed: str, failpoint: str, linger: str) -> None:
    os.environ[failpoints.VARIABLE] = failpoint
    importlib.reload(failpoints)
    asyncio.run(Server(Path(folder), seed).run())
    time.sleep(float(linger))


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            serve(*line.rstrip("\n").split("\t"))
            return
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
