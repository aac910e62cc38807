"""Whose unit is next: jobs share the workers by priority and in turn, and interactive calls have their own turn in the pool."""

from __future__ import annotations

import asyncio
from typing import Final

from jacloom_server.jobs.running import Running
from jacloom_server.pool import Pool

_TICK: Final = 0.5
"""Seconds after which jobs that waited are looked at again."""


class Scheduler:
    """Keeps as many units under way as keep all workers busy. Lives on one event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._jobs: list[Running] = []
        self._units: set[asyncio.Task[None]] = set()
        self._turns = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, job: Running) -> None:
        """Has a job's units computed."""
        self._jobs.append(job)
        self._fill()

    def remove(self, job: Running) -> None:
        """Sends out no more units of a job."""
        if job in self._jobs:
            self._jobs.remove(job)
        self._fill()

    def _fill(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # One for each worker, and one more each that is there when it has done: the pool gives it to whoever is free.
        while len(self._units) < 2 * max(1, self._pool.workers_for_tiles()):
            if not self._send():
                break
        if self._jobs:
            self._timer = asyncio.get_running_loop().call_later(_TICK, self._fill)

    def _send(self) -> bool:
        """Sends out one unit, and returns whether there was one."""
        for job in sorted(self._jobs, key=lambda job: (-job.priority, job.turn)):
            unit = job.take()
            if unit is not None:
                self._turns += 1
                job.turn = self._turns
                task = asyncio.create_task(job.compute(unit))
                self._units.add(task)
                task.add_done_callback(self._done)
                return True
        return False

    def _done(self, task: asyncio.Task[None]) -> None:
        self._units.discard(task)
        self._fill()
