"""A job whose units are computed: which one is next, what becomes of it, and when there are no more."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_server import work
from jacloom_server.function import Function
from jacloom_server.jobs.database import Superseded
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.meter import Meter
from jacloom_server.jobs.publishing import Landing, Publisher
from jacloom_server.jobs.record import Record
from jacloom_server.jobs.states import Landed
from jacloom_server.jobs.tally import Tally
from jacloom_server.pool import Pool
from jacloom_server.work import Lane
from jacloom_worker.launch import Operand
from jacloom_worker.unit import Site, Unit, Written

_LOG = logging.getLogger(__name__)

MOST_ATTEMPTS: Final = 3
"""Attempts at one unit before it is given up."""
_PAUSES: Final = (1.0, 5.0, 20.0, 60.0)
"""Seconds to wait, each time longer, where a job cannot go on and that is not for its own sake."""
_WAITING: Final = frozenset({Reason.STORE_UNAVAILABLE, Reason.NO_WORKERS})
"""Faults that are no fault of a unit: the job waits, and tries again."""


class Running:
    """A planned job, and its units on their way. Lives on one event loop."""

    def __init__(
        self,
        id_: str,
        priority: int,
        record: Record,
        operands: tuple[Operand, ...],
        function: Function,
        *,
        store: Path,
        aside: Path,
        tally: Tally,
        pool: Pool,
        lane: Lane,
        ledger: Ledger,
        publisher: Publisher,
    ) -> None:
        self.id = id_
        self.priority = priority
        self.record = record
        self.tally = tally
        self.meter = Meter()
        self.message = ""
        """What it waits for; empty where it does not."""
        self.turn = 0
        """When it was given a unit's turn last."""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._operands = operands
        self._function = function
        self._store = store
        self._aside = aside
        self._pool = pool
        self._ledger = ledger
        self._publisher = publisher
        self._lane = lane
        self._next: Iterator[int] = tally.pending()
        self._again: deque[int] = deque()
        """Units that were tried, and are to be tried again."""
        self._sites: dict[int, Site] = {}
        """Where the attempt writes that a unit's answer is expected from."""
        self._under_way = 0
        self._pauses = 0
        self._resume_at = 0.0

    @property
    def under_way(self) -> int:
        """Units that have been sent out and are not settled."""
        return self._under_way

    def take(self) -> Unit | None:
        """Returns the next unit to compute; None if there is none now."""
        loop = asyncio.get_running_loop()
        if self._lane.closed or self.finished.done() or loop.time() < self._resume_at:
            return None
        number = self._again.popleft() if self._again else next(self._next, None)
        if number is None:
            self._perhaps_finish()
            return None
        self._under_way += 1
        return self.record.division.unit(number)

    async def compute(self, unit: Unit) -> None:
        """Has a unit computed, put in place and counted; or tried again another time, or given up."""
        try:
            await self._compute(unit)
        except Superseded:
            _LOG.error("another server has taken over the jobs of this one")
            self._fail(Fault(Reason.DRAINING, "another server has taken over"))
        except Exception as error:
            # Whatever it is, the job does not hang for it.
            _LOG.error("%s of the job %s", unit, self.id, exc_info=error)
            await self._failed(unit, Fault(Reason.INTERNAL, f"the service failed in a way that it did not foresee ({type(error).__name__})"))
        finally:
            self._sites.pop(unit.number, None)
            self._under_way -= 1
            self._perhaps_finish()

    def lose(self, numbers: list[int]) -> None:
        """Has units computed again that were committed."""
        self._again.extend(numbers)

    async def _compute(self, unit: Unit) -> None:
        assignment = work.write(self.record.recipe, unit, lambda: self._site(unit), self._operands, self._function.load)
        future = self._pool.submit(self._lane, assignment)
        try:
            result = await future
        except asyncio.CancelledError:
            return  # the job was stopped
        if self._lane.closed:
            return
        if isinstance(result, Fault):
            await self._failed(unit, result)
            return
        assert isinstance(result, Written)
        site = self._sites[unit.number]
        landed = Landed(unit.number, Path(site.aside).name, result.chunks, result.finite)
        try:
            await self._publisher.publish(Landing(self.id, self._store, Path(site.aside), landed, self.tally.committed))
        except Fault as fault:
            await self._failed(unit, fault)
            return
        self.message, self._pauses = "", 0
        self.meter.add(unit.count / max(1, len(self.record.division.slabs)))

    def _site(self, unit: Unit) -> Site:
        """Returns a place for another attempt at a unit: what an earlier one still writes is never put in place."""
        site = Site(self.id, str(self._store), str(self._aside / f"{unit.number}-{secrets.token_hex(6)}"))
        self._sites[unit.number] = site
        return site

    async def _failed(self, unit: Unit, fault: Fault) -> None:
        if fault.reason is Reason.DRAINING:
            self._fail(fault)
            return
        if fault.reason in _WAITING:
            self._wait(fault)
            self._again.append(unit.number)
            return
        attempts = await asyncio.to_thread(self._ledger.attempt, self.id, unit.number, fault.reason.value, str(fault))
        _LOG.warning("%s of the job %s failed (attempt %d): %s", unit, self.id, attempts, fault)
        if attempts < MOST_ATTEMPTS:
            self._again.append(unit.number)
        else:
            await asyncio.to_thread(lambda: self._ledger.fail(self.id, unit.number, self.tally.failed(unit.number)))

    def _wait(self, fault: Fault) -> None:
        pause = _PAUSES[min(self._pauses, len(_PAUSES) - 1)]
        self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + pause)
        if self.message != str(fault):
            self.message = str(fault)
            _LOG.warning("the job %s waits: %s", self.id, fault)
        self._pauses += 1

    def _fail(self, fault: Fault) -> None:
        if not self.finished.done():
            self.finished.set_exception(fault)

    def _perhaps_finish(self) -> None:
        if self._under_way or self._again or self.finished.done():
            return
        number = next(self._next, None)
        if number is None:
            self.finished.set_result(None)
        else:
            self._again.appendleft(number)
