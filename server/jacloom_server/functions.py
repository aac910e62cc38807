"""Registered functions. Their graphs are bytes here: the clerk reads them, the workers run them, the server only passes them on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import ray

from jacloom_graph.errors import Fault, Reason
from jacloom_server import work
from jacloom_server.blobs import Blobs, write_whole
from jacloom_server.pool import Pool
from jacloom_server.strategy import Plan
from jacloom_server.tuning import Tuner
from jacloom_worker.launch import INLINE_BYTES
from jacloom_worker.protocol import Description, Kernel, Load, Survey, Validation

_LOG = logging.getLogger(__name__)

_NAME: Final = re.compile(r"(?:functions/)?([0-9a-f]{64})", re.ASCII)
_T = TypeVar("_T")
_MOST_KNOWN: Final = 256
"""Surveys, and kernels' widths, remembered for one function."""


@dataclass(eq=False, slots=True)
class Function:
    """A registered function."""

    graph: bytes
    description: Description
    display_name: str
    created: datetime
    blobs: Blobs
    surveys: OrderedDict[tuple[object, ...], Survey | asyncio.Task[Survey]] = field(default_factory=OrderedDict)
    tuners: OrderedDict[tuple[Kernel, str], Tuner] = field(default_factory=OrderedDict)
    """What measurements found, by kernel (with width 0) and platform."""
    _stored: Any = None

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self.description.id

    @property
    def name(self) -> str:
        """``"functions/<id>"``."""
        return f"functions/{self.id}"

    def load(self) -> Load:
        """Returns the function for a process that does not hold it.

        Raises:
            Fault: BLOB_NOT_FOUND if a constant is gone.
        """
        if self._stored is None:
            self._stored = self.graph if len(self.graph) <= INLINE_BYTES else ray.put(self.graph)
        return Load(self._stored, {name: self.blobs.find(name).ref for name in self.description.blobs})

    def tuner(self, kernel: Kernel, platform: str, plan: Plan) -> Tuner:
        """Returns what is known of a kernel's widths; at first, what the plan says."""
        tuner = self.tuners.get((kernel, platform))
        if tuner is None:
            tuner = self.tuners[kernel, platform] = Tuner(plan.tile, plan.widest)
            while len(self.tuners) > _MOST_KNOWN:
                self.tuners.popitem(last=False)
        return tuner


class Functions:
    """The registry: in memory, and in a folder if there is one, so that a restarted server still knows them."""

    def __init__(self, pool: Pool, blobs: Blobs, *, most: int, most_bytes: int, folder: Path | None = None) -> None:
        """Makes a registry with what the folder holds.

        Args:
            pool: Where the clerk is.
            blobs: Where constants are.
            most: Functions to keep.
            most_bytes: Bytes of one serialized graph.
            folder: Where graphs are kept over restarts; None for nowhere.
        """
        self._pool = pool
        self._blobs = blobs
        self._most = most
        self._most_bytes = most_bytes
        self._folder = folder
        self._functions: OrderedDict[str, Function] = OrderedDict()
        self._by_digest: dict[bytes, str] = {}
        """Ids by the digest of the bytes that came in: the same bytes need not be read twice."""
        self._reading: dict[bytes, asyncio.Task[Function]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    async def register(self, graph: bytes, display_name: str = "", field: str = "graph") -> Function:
        """Returns the function of a graph, new or known.

        Raises:
            Fault: What the clerk finds wrong with the graph; TOO_LARGE; OVER_QUOTA; BLOB_NOT_FOUND if a constant was not uploaded.
        """
        digest = hashlib.sha256(graph).digest()
        known = self._functions.get(self._by_digest.get(digest, ""))
        if known is not None:
            return known
        self._check_size(graph, field)
        if len(display_name) > 128:
            raise Fault(Reason.ARGUMENT_MISMATCH, f"a display name has at most 128 characters, got {len(display_name)}", field="display_name")
        # Callers that bring the same graph at the same time share one reading of it.
        reading = self._reading.get(digest)
        if reading is None:
            reading = self._reading[digest] = _kept(self._read(graph, display_name, digest))
            reading.add_done_callback(lambda _: self._reading.pop(digest, None))
        return await asyncio.shield(reading)

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
        found = self._functions.get(match[1]) if match else None
        if found is None and match is not None:
            found = await self._restore(match[1])
        if found is None:
            raise Fault(Reason.FUNCTION_NOT_FOUND, f"no function {name[:100]!r} is registered here; register its graph first", field=field)
        return found

    def page(self, size: int, token: str) -> tuple[list[Function], str]:
        """Returns some functions, newest first, and the token of the page after, empty if this is the last.

        Raises:
            Fault: INVALID_OPTION for a size or token that cannot be.
        """
        if not 0 <= size <= 1000:
            raise Fault(Reason.INVALID_OPTION, f"a page has 1 to 1000 functions (0 for 100), got {size}", field="page_size")
        ids = list(reversed(self._functions))
        first = 0
        if token:
            if token not in self._functions:
                raise Fault(Reason.INVALID_OPTION, "the page token is none that this server gave; begin again without one", field="page_token")
            first = ids.index(token)
        last = first + (size or 100)
        return [self._functions[id_] for id_ in ids[first:last]], ids[last] if last < len(ids) else ""

    async def delete(self, name: str) -> None:
        """Forgets a function. Calls under way finish.

        Raises:
            Fault: FUNCTION_NOT_FOUND.
        """
        function = await self.find(name, "name")
        del self._functions[function.id]
        self._by_digest = {digest: id_ for digest, id_ in self._by_digest.items() if id_ != function.id}
        self._blobs.unpin(function.description.blobs)
        for path in self._paths(function.id):
            path.unlink(missing_ok=True)

    async def restore(self) -> None:
        """Reads what an earlier server has kept, oldest first, so that it is listed. What cannot be read any more is left alone."""
        if self._folder is None:
            return
        for about in sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
            if about.stem not in self._functions:
                try:
                    await self._restore(about.stem)
                except Fault as fault:
                    _LOG.warning("the function kept in %s cannot be used: %s", about.with_suffix(".graph"), fault)

    async def survey(self, function: Function, wrt: tuple[int, ...], outputs: tuple[int, ...], holomorphic: bool) -> Survey:
        """Returns which derivatives a function has with respect to some leaves, and their price; asked once and remembered."""
        key = (wrt, outputs, holomorphic)
        known = function.surveys.get(key)
        if isinstance(known, Survey):
            return known
        if known is None:
            known = function.surveys[key] = _kept(self._survey(function, key))
        return await asyncio.shield(known)

    async def _survey(self, function: Function, key: tuple[tuple[int, ...], tuple[int, ...], bool]) -> Survey:
        try:
            answer = await self._pool.ask(work.survey(function.load(), *key))
        except BaseException:
            function.surveys.pop(key, None)
            raise
        assert isinstance(answer, Survey)
        function.surveys[key] = answer
        while len(function.surveys) > _MOST_KNOWN:
            function.surveys.popitem(last=False)
        return answer

    async def _read(self, graph: bytes, display_name: str, digest: bytes, created: datetime | None = None) -> Function:
        described = await self._pool.ask(work.describe(self._load(graph)))
        assert isinstance(described, Description)
        known = self._functions.get(described.id)
        if known is None:
            if len(self._functions) >= self._most:
                raise Fault(Reason.OVER_QUOTA, f"{self._most:,} functions are registered here, which is the limit; delete some")
            self._blobs.pin(described.blobs)
            known = Function(graph, described, display_name, created or datetime.now(UTC), self._blobs)
            self._functions[described.id] = known
            if self._folder is not None and created is None:
                await asyncio.to_thread(self._write, known)
        if len(self._by_digest) > 4 * self._most:
            # The same function can come in any number of spellings.
            self._by_digest.clear()
        self._by_digest[digest] = described.id
        return known

    def _check_size(self, graph: bytes, field: str) -> None:
        if len(graph) > self._most_bytes:
            message = f"a graph may have {self._most_bytes:,} bytes, this one has {len(graph):,}; upload its constants as blobs"
            raise Fault(Reason.TOO_LARGE, message, field=field)

    def _load(self, graph: bytes) -> Load:
        return Load(graph if len(graph) <= INLINE_BYTES else ray.put(graph))

    def _paths(self, id_: str) -> list[Path]:
        return [] if self._folder is None else [self._folder / f"{id_}.graph", self._folder / f"{id_}.json"]

    def _write(self, function: Function) -> None:
        graph, about = self._paths(function.id)
        write_whole(graph, function.graph)
        # Last, because a function counts as kept once this is there.
        write_whole(about, json.dumps({"display_name": function.display_name, "created": function.created.isoformat()}).encode())

    async def _restore(self, id_: str) -> Function | None:
        """Returns a function that an earlier server has kept, read anew: what it was found to be then may have been another version's opinion."""
        if self._folder is None:
            return None
        graph, about = self._paths(id_)
        try:
            facts, data = json.loads(about.read_text()), graph.read_bytes()
        except (OSError, ValueError):
            return None
        return await self._read(data, facts["display_name"], hashlib.sha256(data).digest(), datetime.fromisoformat(facts["created"]))


def _kept(work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
    """Returns work as a task whose failure is not reported when everybody who waited for it has gone."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
