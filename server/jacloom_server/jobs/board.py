"""All jobs of a server: made, run one beside the other, looked at, stopped, read and forgotten."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from jacloom_graph.errors import Fault, Reason
from jacloom_server.detached import detached, to_its_end
from jacloom_server.jobs import order, preparing, store
from jacloom_server.jobs.database import Superseded
from jacloom_server.jobs.intake import Intake
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.order import Order
from jacloom_server.jobs.places import Places
from jacloom_server.jobs.publishing import Publisher
from jacloom_server.jobs.recipe import Wanted
from jacloom_server.jobs.record import Record, decoded
from jacloom_server.jobs.running import Running
from jacloom_server.jobs.scheduler import Scheduler
from jacloom_server.jobs.states import Entry, State, UnitRow
from jacloom_server.jobs.tally import Tally
from jacloom_server.jobs.verifying import verify
from jacloom_server.planning import Service
from jacloom_server.status import to_fault

_LOG = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 0.5
_STATUS_SECONDS: Final = 5.0
"""How often the status of points is written while a job runs."""
_EXPIRE_SECONDS: Final = 600.0
_WAIT_SECONDS: Final = 5.0
"""How long a job that cannot be planned yet waits before it tries again."""
_PASSING: Final = frozenset({Reason.NO_WORKERS, Reason.STORE_UNAVAILABLE})
_MOST_TALLIES: Final = 16


@dataclass(frozen=True, slots=True)
class View:
    """A job as it is now."""

    entry: Entry
    store: Path
    record: Record | None
    rate: float = 0.0
    """Points per second."""
    workers: int = 0
    message: str = ""

    @property
    def eta(self) -> float | None:
        """Seconds until its end; None where that is not known."""
        if self.entry.state is not State.RUNNING or not self.rate or not self.entry.units:
            return None
        counts = self.entry.counts
        left = 1 - (counts.units_done + counts.units_failed) / self.entry.units
        return left * self.entry.points / self.rate


class Board:
    """The jobs of one data folder. Lives on one event loop; what blocks is done in threads."""

    def __init__(self, service: Service, places: Places, decode: Callable[[bytes], Order]) -> None:
        """Opens the ledger.

        Args:
            service: Who computes.
            places: Where jobs keep things.
            decode: Returns the order in the bytes of a spec.

        Raises:
            ConfigError: The folders cannot be used, or another server has them.
        """
        self._service = service
        self._places = places
        self._decode = decode
        self._ledger = Ledger(places.data)
        self._publisher = Publisher(self._ledger)
        self._scheduler = Scheduler(service.pool)
        self._lives: dict[str, asyncio.Task[None]] = {}
        """What becomes of each job that has not ended."""
        self._running: dict[str, Running] = {}
        self._stopping: dict[str, tuple[State, str]] = {}
        """Jobs that are to end in another way than by being done."""
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._tallies: OrderedDict[str, Tally] = OrderedDict()
        self._creating: dict[str, asyncio.Lock] = {}
        self._reserved: set[Path] = set()
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Goes on with the jobs that an earlier server has left."""
        unfinished = await asyncio.to_thread(self._ledger.unfinished)
        await asyncio.to_thread(self._places.tidy, {entry.id for entry in unfinished})
        for entry in unfinished:
            _LOG.info("the job %s goes on: %d of %d units are done", entry.id, entry.counts.units_done, entry.units)
            self._begin(entry.id)
        self._upkeep = asyncio.create_task(self._keep_up())

    async def stop(self) -> None:
        """Leaves all jobs as they are, for the next server to go on with."""
        tasks = [*self._lives.values(), *([self._upkeep] if self._upkeep else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._publisher.close)
        await asyncio.to_thread(self._ledger.close)

    async def create(self, asked: Order, points: AsyncIterable[tuple[int, Sequence[bytes]]]) -> View:
        """Makes a job, or returns the one that the same request has made before.

        Args:
            asked: What it is.
            points: Messages of points: how many, and for each leaf and seed their elements.

        Raises:
            Fault: What is wrong with the order or its points; REQUEST_CONFLICT; STORE_UNAVAILABLE. There is no job then, and nothing is left of it.
        """
        order.check(asked)
        if not asked.request_id:
            return await self._create(asked, points)
        lock = self._creating.setdefault(asked.request_id, asyncio.Lock())
        try:
            async with lock:
                return await self._create(asked, points)
        finally:
            if not lock.locked():
                self._creating.pop(asked.request_id, None)

    async def get(self, name: str) -> View:
        """Returns a job by name or id.

        Raises:
            Fault: JOB_NOT_FOUND.
        """
        return await self._view(await asyncio.to_thread(self._ledger.get, _id(name)))

    async def page(self, size: int, token: str, states: Collection[State], function: str) -> tuple[list[View], str]:
        """Returns some jobs, newest first, and the token of the page after; see ``Ledger.page``."""
        entries, after = await asyncio.to_thread(self._ledger.page, size, token, states, function.removeprefix("functions/"))
        return [await self._view(entry) for entry in entries], after

    async def watch(self, name: str) -> AsyncGenerator[View]:
        """Yields a job now, whenever it has come further, and at its end."""
        last: View | None = None
        while True:
            view = await self.get(name)
            if last is None or view.entry != last.entry or (view.message, view.workers) != (last.message, last.workers):
                yield view
                last = view
            if view.entry.state.ended:
                return
            life = self._lives.get(view.entry.id)
            # Its end is told at once.
            await asyncio.wait([life] if life is not None else [asyncio.create_task(asyncio.sleep(_WATCH_SECONDS))], timeout=_WATCH_SECONDS)

    async def cancel(self, name: str) -> View:
        """Stops a job; has no effect on one that has ended."""
        view = await self.get(name)
        await self._stop(view.entry.id, State.CANCELLED, "cancelled by a call")
        return await self.get(name)

    async def retry(self, name: str) -> View:
        """Has what a job that has ended did not compute tried again."""
        view = await self.get(name)
        if view.entry.state.ended and view.entry.state is not State.SUCCEEDED:
            await self._reopen(view.entry.id)
        return await self.get(name)

    async def verify(self, name: str) -> tuple[int, int]:
        """Returns how many chunks of a job were compared with their checksums, and how many units are computed again for what was found."""
        view = await self.get(name)
        if view.record is None:
            return 0, 0
        rows = self._ledger.units(view.entry.id)
        found = await asyncio.to_thread(verify, view.store, rows)
        await self._lose(view, list(found.damaged))
        return found.chunks, len(found.damaged)

    async def delete(self, name: str) -> None:
        """Forgets a job that has ended, and removes its results.

        Raises:
            Fault: JOB_NOT_FOUND; JOB_NOT_ENDED.
        """
        entry = (await self.get(name)).entry
        await asyncio.to_thread(self._ledger.delete, entry.id)
        self._records.pop(entry.id, None)
        self._tallies.pop(entry.id, None)
        for folder in (self._places.store(entry.out), self._places.own(entry.id), self._places.aside(entry.id), self._places.incoming(entry.id)):
            await self._publisher.discard(folder)

    async def expire(self, *, dry: bool) -> list[View]:
        """Deletes the jobs whose time is over and returns them as they were; only returns them where it is ``dry``."""
        found = [await self._view(entry) for entry in await asyncio.to_thread(self._ledger.expired, time.time())]
        for view in [] if dry else found:
            await self.delete(view.entry.id)
        return found

    async def failures(self, name: str, size: int, token: str) -> tuple[Record | None, list[UnitRow], str]:
        """Returns some failed units of a job, in order, with the record that says what they are, and the token of the page after.

        Raises:
            Fault: JOB_NOT_FOUND; INVALID_OPTION.
        """
        view = await self.get(name)
        if not 0 <= size <= 1000 or (token and not token.isdecimal()):
            raise Fault(Reason.INVALID_OPTION, "a page has 1 to 1000 failures (0 for 100), and a token is from the page before", field="page_size")
        size = size or 100
        rows = await asyncio.to_thread(self._ledger.failures, view.entry.id, size + 1, int(token) if token else -1)
        return view.record, rows[:size], str(rows[size - 1].number) if len(rows) > size else ""

    async def tally(self, view: View) -> Tally:
        """Returns which points of a planned job are done."""
        running = self._running.get(view.entry.id)
        if running is not None:
            return running.tally
        assert view.record is not None
        known = self._tallies.get(view.entry.id)
        if known is None:
            known = self._tallies[view.entry.id] = await asyncio.to_thread(Tally, view.record.division, self._ledger.units(view.entry.id))
            while len(self._tallies) > _MOST_TALLIES:
                self._tallies.popitem(last=False)
        return known

    async def damaged(self, view: View, first: int, count: int) -> None:
        """Looks at the chunks of some points that could not be read, and has those computed again that are not as they were."""
        assert view.record is not None
        numbers = view.record.division.units_of(first, count)
        rows = [row for row in await asyncio.to_thread(list, self._ledger.units(view.entry.id)) if row.number in numbers]
        found = await asyncio.to_thread(verify, view.store, rows)
        await self._lose(view, list(found.damaged))

    def require_unused(self, function: str) -> None:
        """Checks that no job that has not ended needs a function.

        Raises:
            Fault: JOB_NOT_ENDED.
        """
        for id_ in self._lives:
            if self._ledger.get(id_).function == function:
                text = f"the job {id_} computes derivatives of this function; cancel it first, or wait for its end"
                raise Fault(Reason.JOB_NOT_ENDED, text, field="name")

    async def _create(self, asked: Order, points: AsyncIterable[tuple[int, Sequence[bytes]]]) -> View:
        id_ = secrets.token_hex(10)
        known = await asyncio.to_thread(self._ledger.of_request, asked.request_id) if asked.request_id else None
        if known is None:
            order.check_deadline(asked, time.time())
        function = await self._service.functions.find(asked.call.function, "spec.call.function")
        made = order.wanted(asked, function)
        folder = None if known is not None else self._places.new(asked.out or f"jobs/{id_}")
        if folder is not None and folder in self._reserved:
            raise Fault(Reason.INVALID_OPTION, f"{asked.out[:100]!r} is being made for another job; choose another path", field="spec.out")
        incoming = self._places.incoming(id_)
        with _reserved(self._reserved, folder):
            try:
                values = await to_its_end(order.shared, asked, made.sources(), self._service.blobs)
                intake = await to_its_end(Intake, incoming, made.sources(), values, asked.spec)
                async for count, leaves in points:
                    await to_its_end(intake.add, count, leaves)
                digest = await to_its_end(intake.finish)
                # Kept, so that the job finds it after a restart.
                await self._service.functions.register(function.graph, leased=False)
                entry = _entry(id_, asked, made.function.id, intake.points, digest)
                entry = await to_its_end(self._ledger.create, entry)
                if entry.id == id_:
                    # From here on there is a job: it ends in this or a later server, whoever waits for it.
                    self._begin(id_)
            finally:
                if id_ not in self._lives:
                    await detached(self._publisher.discard(incoming))
        return await self._view(entry)

    def _begin(self, id_: str) -> None:
        life = self._lives[id_] = asyncio.create_task(self._live(id_))
        life.add_done_callback(lambda _: self._lives.pop(id_, None))

    async def _live(self, id_: str) -> None:
        """Carries a job from wherever it is to its end."""
        entry = await asyncio.to_thread(self._ledger.get, id_)
        try:
            if entry.deadline is not None:
                async with asyncio.timeout(max(0.0, entry.deadline - time.time())):
                    state, message = await self._computed(entry)
            else:
                state, message = await self._computed(entry)
        except TimeoutError:
            state, message = State.DEADLINE_EXCEEDED, "its deadline came before its end"
        except asyncio.CancelledError:
            if id_ not in self._stopping:
                raise
            state, message = self._stopping.pop(id_)
        except Superseded:
            _LOG.error("another server has taken over the jobs of this one")
            return
        except Exception as error:
            fault = to_fault(error)
            if fault.reason is Reason.DRAINING:
                return
            state, message = State.FAILED, str(fault)
        await asyncio.shield(self._ended(id_, state, message))

    async def _computed(self, entry: Entry) -> tuple[State, str]:
        folder = self._places.store(entry.out)
        await asyncio.to_thread(_install, self._places.incoming(entry.id), folder)
        wanted = await self._wanted(entry)
        if not entry.record:
            entry = await self._planned(entry, wanted, folder)
        record, operands = await asyncio.to_thread(preparing.loaded, self._places, entry.id, entry.record)
        tally = await asyncio.to_thread(Tally, record.division, self._ledger.units(entry.id))
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
                    await self._write_status(folder, tally)
                running.finished.result()
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
        """Returns a job with its record, once that can be had."""
        while True:
            try:
                made = await preparing.prepare(self._service, self._places, entry.id, wanted, folder)
            except Fault as fault:
                if fault.reason not in _PASSING:
                    raise
                await asyncio.to_thread(self._ledger.note, entry.id, str(fault))
                await asyncio.sleep(_WAIT_SECONDS)
                continue
            _LOG.info("the job %s is planned: %s, %d points in %d units", entry.id, made.plan.strategy, entry.points, made.division.units)
            await asyncio.to_thread(self._ledger.note, entry.id, "")
            return await asyncio.to_thread(self._ledger.plan, entry.id, made.encoded(), made.division.units, time.time())

    async def _ended(self, id_: str, state: State, message: str) -> None:
        entry = await asyncio.to_thread(self._ledger.end, id_, state, message, time.time())
        _LOG.info("the job %s has ended: %s%s", id_, state.value, f" ({message})" if message else "")
        tally = self._tallies.get(id_)
        if tally is not None:
            await self._write_status(self._places.store(entry.out), tally)
        await self._publisher.discard(self._places.aside(id_))

    async def _write_status(self, folder: Path, tally: Tally) -> None:
        first, status = tally.take_changed()
        if len(status):
            try:
                await asyncio.to_thread(store.write_status, folder, first, status)
            except OSError as error:
                # It is written again with the next change, or at the end: the ledger has the truth.
                _LOG.warning("the status of points cannot be written: %s", error)
                tally.give_back(first, len(status))

    async def _stop(self, id_: str, state: State, message: str) -> None:
        life = self._lives.get(id_)
        if life is None:
            return
        self._stopping[id_] = (state, message)
        life.cancel()
        await asyncio.wait([life])
        self._stopping.pop(id_, None)

    async def _reopen(self, id_: str) -> None:
        await asyncio.to_thread(self._ledger.reopen, id_)
        self._tallies.pop(id_, None)
        if id_ not in self._lives:
            self._begin(id_)

    async def _lose(self, view: View, numbers: list[int]) -> None:
        """Has committed units computed again."""
        if not numbers:
            return
        _LOG.warning("%d units of the job %s have damaged chunks", len(numbers), view.entry.id)
        again = view.entry.state in (State.SUCCEEDED, State.SUCCEEDED_WITH_FAILURES)
        tally = await self.tally(view)
        if again:
            # First, so that the job goes on even if this server ends before the units are lost, and finds them damaged once more.
            await asyncio.to_thread(self._ledger.reopen, view.entry.id)
        await asyncio.to_thread(lambda: self._ledger.lose(view.entry.id, numbers, tally.lost(numbers)))
        running = self._running.get(view.entry.id)
        if running is not None:
            running.lose(numbers)
        elif again:
            self._tallies.pop(view.entry.id, None)
            self._begin(view.entry.id)

    async def _view(self, entry: Entry) -> View:
        running = self._running.get(entry.id)
        record = running.record if running is not None else self._record(entry)
        message = (running.message if running is not None else "") or entry.message
        # Units beyond that wait in the pool, to be there when a worker has done.
        workers = 0 if running is None else min(running.under_way, self._service.pool.workers_for_tiles())
        return View(entry, self._places.store(entry.out), record, running.meter.rate if running is not None else 0.0, workers, message)

    def _record(self, entry: Entry) -> Record | None:
        if not entry.record:
            return None
        known = self._records.get(entry.id)
        if known is None:
            try:
                known = self._records[entry.id] = decoded(entry.record)
            except msgspec.ValidationError:
                return None  # another version wrote it
            while len(self._records) > 256:
                self._records.popitem(last=False)
        return known

    async def _keep_up(self) -> None:
        while True:
            try:
                for view in await self.expire(dry=False):
                    _LOG.info("the job %s has expired", view.entry.id)
            except (Fault, Superseded) as error:
                _LOG.warning("jobs that have expired cannot be deleted: %s", error)
            await asyncio.sleep(_EXPIRE_SECONDS)


@contextmanager
def _reserved(reserved: set[Path], folder: Path | None) -> Iterator[None]:
    """Keeps a path for one job while its points come in."""
    if folder is None:
        yield
        return
    reserved.add(folder)
    try:
        yield
    finally:
        reserved.discard(folder)


def _entry(id_: str, asked: Order, function: str, points: int, digest: str) -> Entry:
    return Entry(
        id=id_,
        request_id=asked.request_id,
        digest=digest,
        display_name=asked.display_name,
        function=function,
        derivative=asked.call.derivative.value,
        points=points,
        priority=asked.priority,
        out=asked.out or f"jobs/{id_}",
        created=time.time(),
        deadline=asked.deadline,
        ttl=asked.ttl,
        spec=asked.spec,
    )


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


def _id(name: str) -> str:
    return name.removeprefix("jobs/")
