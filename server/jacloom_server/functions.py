"""Registered functions. Their graphs are bytes here: the clerk reads them, the workers run them, the server only passes them on."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import ray

from jacloom_graph.errors import Fault, Reason
from jacloom_server import work
from jacloom_server.blobs import Blobs
from jacloom_server.detached import detached
from jacloom_server.function import Function
from jacloom_server.pool import Pool
from jacloom_server.shelf import Record, Shelf
from jacloom_worker.launch import INLINE_BYTES
from jacloom_worker.protocol import Description, Load, Validation

_LOG = logging.getLogger(__name__)

_NAME: Final = re.compile(r"(?:functions/)?([0-9a-f]{64})", re.ASCII)
_TOKEN: Final = re.compile(r"[0-9]{1,18}", re.ASCII)


class Functions:
    """The registry. What callers keep stays until it is deleted; what they lease, or send with a call, until others need the room."""

    def __init__(self, pool: Pool, blobs: Blobs, *, most: int, most_bytes: int, total_bytes: int, folder: Path | None = None) -> None:
        """Makes a registry that is empty at first; ``find`` and ``restore`` read what the folder holds.

        Args:
            pool: Where the clerk is.
            blobs: Where constants are. The registry makes room there, too, by forgetting leased functions.
            most: Functions to hold.
            most_bytes: Bytes of one serialized graph.
            total_bytes: Bytes of all graphs together, at least ``most_bytes``.
            folder: Where kept functions outlive the server; None for nowhere.
        """
        self._pool = pool
        self._blobs = blobs
        self._most = most
        self._most_bytes = most_bytes
        self._total_bytes = total_bytes
        self._shelf = Shelf(folder) if folder is not None else None
        self._files = asyncio.Lock()
        """Held while the folder changes, so that a function that is deleted while it is written does not come back."""
        self._functions: dict[str, Function] = {}
        """In order of their numbers."""
        self._leased: OrderedDict[str, None] = OrderedDict()
        """Ids of those that may be forgotten, the one used longest ago first."""
        self._nbytes = 0
        self._numbers = itertools.count(1)
        self._by_digest: dict[bytes, str] = {}
        """Ids by the digest of the bytes that came in: the same bytes need not be read twice. They need not be registered any more."""
        self._needed: Callable[[str], None] = lambda _: None
        self._adding: dict[tuple[bytes, bool], asyncio.Task[Function]] = {}
        blobs.when_full(self._give_up_blobs)

    def when_deleted(self, check: Callable[[str], None]) -> None:
        """Has ``check`` called with the id of a function that is to be deleted: it may raise a fault instead."""
        self._needed = check

    async def register(self, graph: bytes, display_name: str = "", field: str = "graph", *, leased: bool = True) -> Function:
        """Returns the function of a graph, new or known.

        Args:
            graph: Serialized.
            display_name: For people.
            field: Where the graph came from, for errors.
            leased: The function may be forgotten when its room is needed, unless it is kept already. Otherwise it is kept from now on.

        Raises:
            Fault: What the clerk finds wrong with the graph; TOO_LARGE; OVER_QUOTA; BLOB_NOT_FOUND if a constant was not uploaded.
        """
        self._check_size(graph, field)
        if len(display_name) > 128:
            raise Fault(Reason.ARGUMENT_MISMATCH, f"a display name has at most 128 characters, got {len(display_name)}", field="display_name")
        digest = hashlib.sha256(graph).digest()
        known = self._functions.get(self._by_digest.get(digest, ""))
        if known is not None and (leased or known.kept):
            return self._used(known)
        # Callers that bring the same graph at the same time share one reading of it.
        adding = self._adding.get((digest, leased))
        if adding is None:
            adding = self._adding[digest, leased] = detached(self._add(graph, display_name, digest, leased))
            adding.add_done_callback(lambda _: self._adding.pop((digest, leased), None))
        return await asyncio.shield(adding)

    async def validate(self, graph: bytes) -> Validation:
        """Returns the types of a graph's values; nothing is kept.

        Raises:
            Fault: What the clerk finds wrong with the graph; TOO_LARGE.
        """
        self._check_size(graph, "graph")
        answer = await self._pool.ask(work.validate(self._load(graph)))
        assert isinstance(answer, Validation)
        return answer

    async def find(self, name: str, field: str = "function") -> Function:
        """Returns a registered function by name or id.

        Raises:
            Fault: FUNCTION_NOT_FOUND.
        """
        match = _NAME.fullmatch(name)
        found = None if match is None else self._functions.get(match[1]) or await self._restore(match[1])
        if found is None:
            raise _unknown(name, field)
        return self._used(found)

    def page(self, size: int, token: str) -> tuple[list[Function], str]:
        """Returns some functions, newest first, and the token of the page after, empty if this is the last.

        Raises:
            Fault: INVALID_OPTION for a size or token that cannot be.
        """
        if not 0 <= size <= 1000:
            raise Fault(Reason.INVALID_OPTION, f"a page has 1 to 1000 functions (0 for 100), got {size}", field="page_size")
        if token and not _TOKEN.fullmatch(token):
            raise Fault(Reason.INVALID_OPTION, "the page token is none that this server gave; begin again without one", field="page_token")
        size = size or 100
        # A token is a number and not a function's id: the function may be forgotten before the next page is asked for.
        newest = (function for function in reversed(self._functions.values()) if not token or function.number <= int(token))
        found = list(itertools.islice(newest, size + 1))
        return found[:size], str(found[size].number) if len(found) > size else ""

    async def delete(self, name: str) -> None:
        """Forgets a function. Calls under way finish.

        Raises:
            Fault: FUNCTION_NOT_FOUND; FUNCTION_IN_USE.
        """
        match = _NAME.fullmatch(name)
        if match is None:
            raise _unknown(name, "name")
        self._needed(match[1])
        async with self._files:
            function = self._functions.get(match[1])
            removed = self._shelf is not None and self._shelf.remove(match[1])
            if function is not None:
                self._forget(function)
                self._erase(function.constants)
            elif not removed:
                raise _unknown(name, "name")

    async def restore(self) -> None:
        """Reads what an earlier server has kept, oldest first, so that it is listed. What cannot be used any more is logged and left alone."""
        for id_ in [] if self._shelf is None else await asyncio.to_thread(self._shelf.ids):
            if id_ in self._functions:
                continue
            try:
                await self._restore(id_)
            except Exception as error:
                if isinstance(error, Fault) and error.reason is Reason.DRAINING:
                    return
                _LOG.warning("the function kept as %s cannot be used: %s", id_, error, exc_info=None if isinstance(error, Fault) else error)

    async def _add(self, graph: bytes, display_name: str, digest: bytes, leased: bool) -> Function:
        function = self._functions.get(self._by_digest.get(digest, ""))
        if function is None:
            described = await self._describe(graph)
            function = self._functions.get(described.id)
            if function is None:
                # An earlier server may have kept it. If it cannot be had from there, it can from here.
                with suppress(Fault):
                    function = await self._restore(described.id)
            if function is None:
                constants = await self._blobs.pin(described.blobs)
                function = self._enter(Function(graph, described, display_name, datetime.now(UTC), constants))
            self._note(digest, described.id)
        if not leased:
            await self._keep(function, display_name)
        return self._used(function)

    async def _keep(self, function: Function, display_name: str) -> None:
        """Makes a leased function a kept one: written first, so that nobody is told it is kept when it is not."""
        # Nobody shall forget it while it is written.
        self._leased.pop(function.id, None)
        async with self._files:
            if function.kept or self._functions.get(function.id) is not function:
                # Kept by somebody else meanwhile, or deleted.
                return
            record = Record(function.graph, display_name or function.display_name, function.created)
            if self._shelf is not None:
                try:
                    await self._blobs.store(function.constants)
                    await asyncio.to_thread(self._shelf.write, function.id, record)
                except BaseException:
                    self._leased[function.id] = None
                    self._erase(function.constants)
                    raise
            function.display_name, function.kept = record.display_name, True

    async def _restore(self, id_: str) -> Function | None:
        """Returns a function that an earlier server has kept, read anew."""
        record = None if self._shelf is None else await asyncio.to_thread(self._shelf.read, id_)
        if self._shelf is None or record is None:
            return None
        described = await self._describe(record.graph)
        if described.id != id_:
            _LOG.warning("the function kept as %s has the id %s in this version and is left alone; register it again", id_, described.id)
            return None
        constants = await self._blobs.pin(described.blobs)
        try:
            # A constant whose file was lost, and that has been uploaded again.
            await self._blobs.store(constants)
            deleted = not self._shelf.holds(id_)
        except BaseException:
            self._blobs.unpin(constants)
            raise
        if deleted:
            self._blobs.unpin(constants)
            self._erase(constants)
            return None
        self._note(hashlib.sha256(record.graph).digest(), id_)
        return self._enter(Function(record.graph, described, record.display_name, record.created, constants, kept=True))

    def _enter(self, function: Function) -> Function:
        """Takes a function in and returns it, or the same function where that has come in meanwhile."""
        known = self._functions.get(function.id)
        try:
            if known is None:
                self._make_room(len(function.graph))
        except Fault:
            self._blobs.unpin(function.constants)
            raise
        if known is not None:
            self._blobs.unpin(function.constants)
            return known
        function.number = next(self._numbers)
        self._functions[function.id] = function
        self._nbytes += len(function.graph)
        if not function.kept:
            self._leased[function.id] = None
        return function

    def _make_room(self, nbytes: int) -> None:
        while len(self._functions) >= self._most or self._nbytes + nbytes > self._total_bytes:
            if not self._leased:
                raise Fault(
                    Reason.OVER_QUOTA,
                    f"{len(self._functions):,} functions with {self._nbytes:,} bytes of graphs are kept here, and there is room for {self._most:,} "
                    f"with {self._total_bytes:,} bytes; delete some",
                )
            self._forget(self._functions[next(iter(self._leased))])

    def _give_up_blobs(self, enough: Callable[[], bool]) -> None:
        """Forgets leased functions that have blobs until there is enough room for another blob, or none is left."""
        for function in [self._functions[id_] for id_ in self._leased]:
            if enough():
                return
            if function.constants:
                self._forget(function)
                for name in function.constants:
                    self._blobs.release(name)

    def _forget(self, function: Function) -> None:
        del self._functions[function.id]
        self._leased.pop(function.id, None)
        self._nbytes -= len(function.graph)
        self._blobs.unpin(function.constants)

    def _erase(self, constants: Iterable[str]) -> None:
        """Takes constants out of the folder, unless a kept function still needs them."""
        needed = {name for function in self._functions.values() if function.kept for name in function.constants}
        self._blobs.erase(name for name in constants if name not in needed)

    def _used(self, function: Function) -> Function:
        if function.id in self._leased:
            self._leased.move_to_end(function.id)
        return function

    def _note(self, digest: bytes, id_: str) -> None:
        if len(self._by_digest) > 4 * self._most:
            # The same function can come in any number of spellings.
            self._by_digest.clear()
        self._by_digest[digest] = id_

    def _check_size(self, graph: bytes, field: str) -> None:
        if len(graph) > self._most_bytes:
            message = f"a graph may have {self._most_bytes:,} bytes, this one has {len(graph):,}; upload its constants as blobs"
            raise Fault(Reason.TOO_LARGE, message, field=field)

    async def _describe(self, graph: bytes) -> Description:
        described = await self._pool.ask(work.describe(self._load(graph)))
        assert isinstance(described, Description)
        return described

    def _load(self, graph: bytes) -> Load:
        return Load(graph if len(graph) <= INLINE_BYTES else ray.put(graph))


def _unknown(name: str, field: str) -> Fault:
    return Fault(Reason.FUNCTION_NOT_FOUND, f"no function {name[:100]!r} is registered here; register its graph first", field=field)
