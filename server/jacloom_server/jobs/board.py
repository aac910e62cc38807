"""All jobs of a server: made, run one beside the other, looked at, stopped, read and forgotten."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Sequence
from typing import Final

import msgspec

from jacloom_graph.errors import Fault, Reason
from jacloom_server.detached import detached
from jacloom_server.jobs import order
from jacloom_server.jobs.accepting import Reception
from jacloom_server.jobs.carrying import Carrier
from jacloom_server.jobs.database import Superseded
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.order import Order
from jacloom_server.jobs.places import Places
from jacloom_server.jobs.publishing import Publisher
from jacloom_server.jobs.record import Record, decoded
from jacloom_server.jobs.states import Entry, State, UnitRow
from jacloom_server.jobs.tally import Tally
from jacloom_server.jobs.verifying import verify
from jacloom_server.jobs.view import View
from jacloom_server.planning import Service

_LOG = logging.getLogger(__name__)

_WATCH_SECONDS: Final = 0.5
_EXPIRE_SECONDS: Final = 600.0


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
        self._ledger = Ledger(places.data)
        self._publisher = Publisher(self._ledger)
        self._carrier = Carrier(service, places, decode, self._ledger, self._publisher)
        self._reception = Reception(service, places, self._ledger, self._publisher, self._carrier)
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._upkeep: asyncio.Task[None] | None = None
        self._draining = False

    async def start(self) -> None:
        """Goes on with the jobs that an earlier server has left."""
        unfinished = await asyncio.to_thread(self._ledger.unfinished)
        await asyncio.to_thread(self._places.tidy, {entry.id for entry in unfinished})
        for entry in unfinished:
            _LOG.info("the job %s goes on: %d of %d units are done", entry.id, entry.counts.units_done, entry.units)
            self._carrier.begin(entry.id)
        self._upkeep = asyncio.create_task(self._keep_up())

    def drain(self) -> None:
        """Sends those away who watch jobs: they would watch until the end."""
        self._draining = True

    async def stop(self) -> None:
        """Leaves all jobs as they are, for the next server to go on with."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
        await self._carrier.close()
        await asyncio.to_thread(self._publisher.close)
        await asyncio.to_thread(self._ledger.close)

    async def create(self, asked: Order, points: AsyncIterable[tuple[int, Sequence[bytes]]]) -> View:
        """Makes a job, or returns the one that the same request has made before; see ``Reception.create``."""
        return await self._view(await self._reception.create(asked, points))

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
        """Yields a job now, whenever it has come further, and at its end.

        Raises:
            Fault: JOB_NOT_FOUND; DRAINING.
        """
        last: View | None = None
        while True:
            view = await self.get(name)
            if self._draining:
                raise Fault(Reason.DRAINING, "the service is shutting down; the job goes on with the next one")
            if last is None or view.entry != last.entry or (view.message, view.workers) != (last.message, last.workers):
                yield view
                last = view
            if view.entry.state.ended:
                return
            # Its end is told at once.
            await self._carrier.wait(view.entry.id, _WATCH_SECONDS)

    async def cancel(self, name: str) -> View:
        """Stops a job; has no effect on one that has ended."""
        view = await self.get(name)
        if not view.entry.state.ended:
            # To its end, whoever waits for it.
            await asyncio.shield(detached(self._carrier.stop(view.entry.id, State.CANCELLED, "cancelled by a call")))
        return await self.get(name)

    async def retry(self, name: str) -> View:
        """Has what a job that has ended did not compute tried again."""
        view = await self.get(name)
        if view.entry.state.ended and view.entry.state is not State.SUCCEEDED:
            await self._carrier.reopen(view.entry.id)
        return await self.get(name)

    async def verify(self, name: str) -> tuple[int, int]:
        """Returns how many chunks of a job were compared with their checksums, and how many units are computed again for what was found."""
        view = await self.get(name)
        if view.record is None:
            return 0, 0
        rows = self._ledger.units(view.entry.id)
        found = await asyncio.to_thread(verify, view.store, rows)
        await self._carrier.lose(view.entry.id, view.record, list(found.damaged))
        return found.chunks, len(found.damaged)

    async def delete(self, name: str) -> None:
        """Forgets a job that has ended, and removes its results.

        Raises:
            Fault: JOB_NOT_FOUND; JOB_NOT_ENDED.
        """
        entry = (await self.get(name)).entry
        await asyncio.to_thread(self._ledger.delete, entry.id)
        self._records.pop(entry.id, None)
        self._carrier.forget(entry.id)
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
        assert view.record is not None
        return await self._carrier.tally(view.entry.id, view.record)

    async def damaged(self, view: View, first: int, count: int) -> None:
        """Looks at the chunks of some points that could not be read, and has those computed again that are not as they were."""
        assert view.record is not None
        numbers = view.record.division.units_of(first, count)
        rows = [row for row in await asyncio.to_thread(list, self._ledger.units(view.entry.id)) if row.number in numbers]
        found = await asyncio.to_thread(verify, view.store, rows)
        await self._carrier.lose(view.entry.id, view.record, list(found.damaged))

    def require_unused(self, function: str) -> None:
        """Checks that there is no job of a function: one that has ended needs it to say what its results are, and to be tried again.

        Raises:
            Fault: FUNCTION_IN_USE.
        """
        found, _ = self._ledger.page(1, "", (), function)
        if found:
            text = f"the job {found[0].id} has derivatives of this function; delete the job first"
            raise Fault(Reason.FUNCTION_IN_USE, text, field="name")

    def fetch(self, blob: str, offset: int, size: int, field: str) -> bytes:
        """Returns bytes of a blob. Blocks.

        Raises:
            Fault: BLOB_NOT_FOUND; ARGUMENT_MISMATCH if it does not have so many.
        """
        return order.fetched(self._service.blobs, blob, offset, size, field)

    async def _view(self, entry: Entry) -> View:
        running = self._carrier.running(entry.id)
        record = running.record if running is not None else self._record(entry)
        message = (running.message if running is not None else "") or entry.message
        rate, under_way = (running.meter.rate, running.under_way) if running is not None else (0.0, 0)
        # One more unit each is with the pool, so that nobody has to wait for the next.
        workers = min(under_way, self._service.pool.workers_for_tiles())
        return View(entry, self._places.store(entry.out), record, rate, workers, message)

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


def _id(name: str) -> str:
    return name.removeprefix("jobs/")
