"""How a job comes to be: its order is checked, its points are taken in, and only then is it there."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jacloom_graph.errors import Fault, Reason
from jacloom_server.detached import detached, to_its_end
from jacloom_server.jobs import order, preparing
from jacloom_server.jobs.carrying import Carrier
from jacloom_server.jobs.intake import Intake
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.order import Order
from jacloom_server.jobs.places import Places
from jacloom_server.jobs.publishing import Publisher
from jacloom_server.jobs.states import Entry
from jacloom_server.planning import Service


class Reception:
    """Makes jobs. Lives on one event loop; what blocks is done in threads."""

    def __init__(self, service: Service, places: Places, ledger: Ledger, publisher: Publisher, carrier: Carrier) -> None:
        self._service = service
        self._places = places
        self._ledger = ledger
        self._publisher = publisher
        self._carrier = carrier
        self._creating: dict[str, asyncio.Lock] = {}
        """By request id: what asks for the same at the same time is made once."""
        self._reserved: set[Path] = set()

    async def create(self, asked: Order, points: AsyncIterable[tuple[int, Sequence[bytes]]]) -> Entry:
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

    async def _create(self, asked: Order, points: AsyncIterable[tuple[int, Sequence[bytes]]]) -> Entry:
        id_ = secrets.token_hex(10)
        known = await asyncio.to_thread(self._ledger.of_request, asked.request_id) if asked.request_id else None
        if known is None:
            order.check_deadline(asked, time.time())
        function = await self._service.functions.find(asked.call.function, "spec.call.function")
        made = order.wanted(asked, function)
        await preparing.check(self._service, made)
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
                    self._carrier.begin(id_)
            finally:
                if not self._carrier.holds(id_):
                    await detached(self._publisher.discard(incoming))
        return entry


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
