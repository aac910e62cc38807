"""Jobs on their way: each carried from wherever it is to its end, beside the others, whatever comes in between."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_server.detached import to_its_end
from jacloom_server.jobs import order, preparing, store
from jacloom_server.jobs.database import Superseded
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.order import Order
from jacloom_server.jobs.places import Places
from jacloom_server.jobs.publishing import Publisher
from jacloom_server.jobs.recipe import Wanted
from jacloom_server.jobs.record import Record
from jacloom_server.jobs.running import Running
from jacloom_server.jobs.scheduler import Scheduler
from jacloom_server.jobs.states import Entry, State
from jacloom_server.jobs.tally import Tally
from jacloom_server.planning import Service
from jacloom_server.status import to_fault

_LOG = logging.getLogger(__name__)

_STATUS_SECONDS: Final = 5.0
"""How often the status of points is written while a job runs."""
_WAIT_SECONDS: Final = 5.0
"""How long a job that cannot go on waits before it tries again."""
_PASSING: Final = frozenset({Reason.NO_WORKERS, Reason.STORE_UNAVAILABLE})
_SUCCESS: Final = frozenset({State.SUCCEEDED, State.SUCCEEDED_WITH_FAILURES})
_MOST_TALLIES: Final = 16


class Carrier:
    """Carries jobs to their ends. Lives on one event loop; what blocks is done in threads."""

    def __init__(self, service: Service, places: Places, decode: Callable[[bytes], Order], ledger: Ledger, publisher: Publisher) -> None:
        """Makes one without jobs.

        Args:
            service: Who computes.
            places: Where jobs keep things.
            decode: Returns the order in the bytes of a spec.
            ledger: What is known of jobs.
            publisher: Puts their results in place.
        """
        self._service = service
        self._places = places
        self._decode = decode
        self._ledger = ledger
        self._publisher = publisher
        self._scheduler = Scheduler(service.pool)
        self._lives: dict[str, asyncio.Task[None]] = {}
        """What becomes of each job that has not ended."""
        self._running: dict[str, Running] = {}
        self._settling = asyncio.Lock()
        """Held while a job ends, or is opened again: what is lost meanwhile must not be taken for done."""
        self._tallies: OrderedDict[str, Tally] = OrderedDict()

    def running(self, id_: str) -> Running | None:
        """Returns a job while its units are computed."""
        return self._running.get(id_)

    async def wait(self, id_: str, seconds: float) -> None:
        """Returns when a job has ended, or after some seconds."""
        life = self._lives.get(id_)
        if life is None:
            await asyncio.sleep(seconds)
        else:
            await asyncio.wait([life], timeout=seconds)

    def holds(self, id_: str) -> bool:
        """Returns whether a job is on its way."""
        return id_ in self._lives

    def forget(self, id_: str) -> None:
        """Forgets what is known of a job that has ended."""
        self._tallies.pop(id_, None)

    async def close(self) -> None:
        """Leaves all jobs as they are, for the next server to go on with."""
        lives = list(self._lives.values())
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)

    async def tally(self, id_: str, record: Record) -> Tally:
        """Returns which points of a planned job are done."""
        running = self._running.get(id_)
        if running is not None:
            return running.tally
        known = self._tallies.get(id_)
        if known is None:
            known = self._tallies[id_] = await asyncio.to_thread(Tally, record.division, self._ledger.units(id_))
            while len(self._tallies) > _MOST_TALLIES:
                self._tallies.popitem(last=False)
        return known

    def begin(self, id_: str) -> None:
        """Has a job carried to its end; after what is still done for an end that it had before."""
        life = self._lives[id_] = asyncio.create_task(self._live(id_, self._lives.get(id_)))
        life.add_done_callback(lambda _: self._lives.pop(id_) if self._lives.get(id_) is life else None)

    async def _live(self, id_: str, before: asyncio.Task[None] | None) -> None:
        """Carries a job from wherever it is to its end. What keeps it from that and passes, it waits for."""
        if before is not None:
            await asyncio.wait([before])
        while True:
            try:
                entry = await asyncio.to_thread(self._ledger.get, id_)
                if entry.state.ended:
                    return
                await self._end(id_, *await self._outcome(entry))
            except Superseded:
                _LOG.error("another server has taken over the jobs of this one")
                return
            except Fault as fault:
                if fault.reason not in _PASSING:
                    return  # this server ends
                _LOG.warning("the job %s waits: %s", id_, fault)
                with suppress(Fault):
                    await asyncio.to_thread(self._ledger.note, id_, str(fault))
                await asyncio.sleep(_WAIT_SECONDS)

    async def _outcome(self, entry: Entry) -> tuple[State, str]:
        """Has a job computed, and returns how that ended.

        Raises:
            Fault: One that passes, or DRAINING.
            Superseded: Another server has the ledger.
        """
        left = None if entry.deadline is None else max(0.0, entry.deadline - time.time())
        timeout = asyncio.timeout(left)
        try:
            async with timeout:
                return await self._computed(entry)
        except Superseded:
            raise
        except Exception as error:
            if timeout.expired():
                return State.DEADLINE_EXCEEDED, "its deadline came before its end"
            fault = to_fault(error)
            if fault.reason in _PASSING or fault.reason is Reason.DRAINING:
                raise fault from error
            return State.FAILED, str(fault)

    async def _computed(self, entry: Entry) -> tuple[State, str]:
        folder = self._places.store(entry.out)
        await to_its_end(_install, self._places.incoming(entry.id), folder)
        wanted = await self._wanted(entry)
        if not entry.record:
            entry = await self._planned(entry, wanted, folder)
        record, operands = await asyncio.to_thread(preparing.loaded, self._places, entry.id, entry.record)
        tally = await asyncio.to_thread(Tally, record.division, self._ledger.units(entry.id))
        await asyncio.to_thread(self._places.aside(entry.id).mkdir, parents=True, exist_ok=True)
        if entry.message:
            await asyncio.to_thread(self._ledger.note, entry.id, "")
        with self._service.pool.lane() as lane:
            running = Running(
                entry.id,
                entry.priority,
                record,
                operands,
                wanted.function,
                store=folder,
                aside=self._places.aside(entry.id),
                tally=tally,
                pool=self._service.pool,
                lane=lane,
                ledger=self._ledger,
                publisher=self._publisher,
            )
            self._running[entry.id] = running
            self._tallies.pop(entry.id, None)
            self._scheduler.add(running)
            try:
                while not running.finished.done():
                    await asyncio.wait([running.finished], timeout=_STATUS_SECONDS)
                    with suppress(Fault):
                        await self._write_status(folder, tally)
                running.finished.result()
                await self._write_status(folder, tally)
            finally:
                self._scheduler.remove(running)
                del self._running[entry.id]
                self._tallies[entry.id] = tally
        counts = (await asyncio.to_thread(self._ledger.get, entry.id)).counts
        if not counts.units_failed:
            return State.SUCCEEDED, ""
        if not counts.units_done:
            return State.FAILED, "no unit could be computed; see its failures"
        return State.SUCCEEDED_WITH_FAILURES, f"{counts.points_failed:,} points could not be computed; see its failures"

    async def _wanted(self, entry: Entry) -> Wanted:
        asked = self._decode(entry.spec)
        function = await self._service.functions.find(entry.function)
        return order.wanted(asked, function, entry.points)

    async def _planned(self, entry: Entry, wanted: Wanted, folder: Path) -> Entry:
        """Returns a job with its record."""
        made = await preparing.prepare(self._service, self._places, entry.id, wanted, folder)
        _LOG.info("the job %s is planned: %s, %d points in %d units", entry.id, made.plan.strategy, entry.points, made.division.units)
        return await asyncio.to_thread(self._ledger.plan, entry.id, made.encoded(), made.division.units, time.time())

    async def _end(self, id_: str, state: State, message: str) -> None:
        """Ends a job; but for one that would succeed, and of which units were lost meanwhile."""
        tally = self._tallies.get(id_)
        if tally is not None:
            # Of a job that was stopped, as far as it came. There may be no place for it any more.
            with suppress(Fault):
                await self._write_status(self._places.store((await asyncio.to_thread(self._ledger.get, id_)).out), tally)
        async with self._settling:
            entry = await asyncio.to_thread(self._ledger.get, id_)
            settled = entry.counts.units_done + entry.counts.units_failed
            if entry.state.ended or (state in _SUCCESS and settled < entry.units):
                return
            await asyncio.to_thread(self._ledger.end, id_, state, message, time.time())
        _LOG.info("the job %s has ended: %s%s", id_, state.value, f" ({message})" if message else "")
        await self._publisher.discard(self._places.aside(id_))

    async def _write_status(self, folder: Path, tally: Tally) -> None:
        """Writes the status of points, as far as it has changed.

        Raises:
            Fault: STORE_UNAVAILABLE. It is written another time, then: the ledger has the truth.
        """
        first, status = tally.take_changed(store.STATUS_POINTS)
        if not len(status):
            return
        try:
            await to_its_end(store.write_status, folder, first, status)
        except BaseException as error:
            tally.give_back(first, len(status))
            if isinstance(error, OSError):
                raise store.unavailable(error) from error
            if isinstance(error, KeyError):
                text = f"the status of points should be in {folder}, and its array is not there; see what became of it"
                raise Fault(Reason.STORE_UNAVAILABLE, text) from error
            raise

    async def stop(self, id_: str, state: State, message: str) -> None:
        """Ends a job in another way than by being done."""
        life = self._lives.get(id_)
        if life is not None:
            life.cancel()
            await asyncio.wait([life])
        await self._end(id_, state, message)

    async def reopen(self, id_: str) -> None:
        """Has what a job that has ended did not compute tried again."""
        async with self._settling:
            if (await asyncio.to_thread(self._ledger.get, id_)).state.ended:
                await asyncio.to_thread(self._ledger.reopen, id_)
                self._tallies.pop(id_, None)
                self.begin(id_)

    async def lose(self, id_: str, record: Record, numbers: list[int]) -> None:
        """Has committed units computed again."""
        if not numbers:
            return
        _LOG.warning("%d units of the job %s have damaged chunks", len(numbers), id_)
        async with self._settling:
            again = (await asyncio.to_thread(self._ledger.get, id_)).state in _SUCCESS
            tally = await self.tally(id_, record)
            if again:
                # First, so that the job goes on even if this server ends before the units are lost, and finds them damaged once more.
                await asyncio.to_thread(self._ledger.reopen, id_)
            lost = await asyncio.to_thread(self._ledger.lose, id_, numbers, tally.lost)
            running = self._running.get(id_)
            if running is not None:
                running.lose(lost)
            elif again:
                self._tallies.pop(id_, None)
                self.begin(id_)


def _install(incoming: Path, folder: Path) -> None:
    """Puts the store of a job in its place, unless it is there already. Blocks.

    Raises:
        Fault: STORE_UNAVAILABLE.
    """
    if folder.exists() or not incoming.exists():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        os.rename(incoming, folder)
        store.sync_folder(folder.parent)
    except OSError as error:
        raise store.unavailable(error) from error
