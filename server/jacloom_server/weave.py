"""The tiles of one call: cut and sent out while there is room, received in order of arrival, turned into blocks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from jacloom_graph.answer import Array, Derivative, Part, Selection
from jacloom_graph.errors import Fault, Reason
from jacloom_server import blocks, work
from jacloom_server.call import Call
from jacloom_server.function import Function
from jacloom_server.pool import Pool
from jacloom_server.reply import Block, Progress, Summary
from jacloom_server.slot import CREDITS
from jacloom_server.strategy import Mode, Plan
from jacloom_server.tiling import Cutter, Tile
from jacloom_server.tuning import Tuner
from jacloom_server.work import Desk, Lane
from jacloom_worker.launch import Operand, Result, Role
from jacloom_worker.protocol import Done, Inner, Kernel, Kind, Task

_WINDOW_BYTES: Final = 256 << 20
"""Most bytes of one call's tiles between their workers and the reader. They lie in shared memory, outside the server's own."""
_AHEAD: Final = 2
"""Tiles under way beyond those that fill every worker's credit: computed, and waiting for the reader."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a call's tiles have in common."""

    call: Call
    function: Function
    chosen: Selection
    plan: Plan
    arrays: tuple[Array, ...]
    operands: tuple[Operand, ...]


def kernel_of(call: Call, function: Function, chosen: Selection, plan: Plan) -> Kernel:
    """Returns the kernel of a call's tiles, with its width left open."""
    if call.derivative is Derivative.HESSIAN:
        inner: Inner = "forward" if plan.inner is Mode.FORWARD else "reverse"
        return Kernel(function.id, Kind.HESSIAN, chosen.wrt, chosen.outputs, holomorphic=call.holomorphic, inner=inner)
    kind = Kind.REVERSE if plan.mode is Mode.REVERSE else Kind.FORWARD
    return Kernel(function.id, kind, chosen.wrt, chosen.outputs, holomorphic=call.holomorphic)


def platform_of(pool: Pool) -> str:
    """Returns what tiles are computed on; the best width differs by it."""
    return "gpu" if pool.ready(Role.GPU) else "cpu"


class Weaver:
    """Keeps a window of tiles under way: enough for every worker, no more than the reader keeps up with."""

    def __init__(self, pool: Pool, lane: Lane, request: Request, started: float) -> None:
        """Sends out the first tiles.

        Args:
            pool: The workers.
            lane: The call's queue; closing it cancels what is under way.
            request: The call.
            started: ``time.perf_counter()`` when the call began.
        """
        call, plan = request.call, request.plan
        self._pool = pool
        self._lane = lane
        self._request = request
        self._started = started
        self._planned = time.perf_counter()
        self._kernel = kernel_of(call, request.function, request.chosen, plan)
        self._point = secrets.token_hex(8)
        self._first = sum(array.part is Part.VALUE for array in request.arrays)
        self._cutter = Cutter(plan.passes)
        own = bool(call.tile) or not plan.passes
        self._tuner = Tuner(plan.tile, fixed=True) if own else request.function.tuner(self._kernel, platform_of(pool), plan)
        self._arrivals: asyncio.Queue[tuple[Tile | None, asyncio.Future[Result]]] = asyncio.Queue()
        self._under_way = 0
        self._tiles = self._passes = 0
        self._seconds = self._compile_seconds = 0.0
        if request.chosen.values:
            self._submit_values()
        self.fill()

    @property
    def busy(self) -> bool:
        """Whether anything is still to come."""
        return self._under_way > 0

    def fill(self) -> None:
        """Sends out tiles until the window is full or none are left."""
        while self._cutter.left and self._under_way < self._window():
            tile = self._cutter.take(self._tuner.next(self._cutter.left, self._request.plan.workers))
            task = Task(replace(self._kernel, width=tile.width), point=self._point, start=tile.start, count=tile.count)
            self._submit(tile, work.compute(Desk.TILES, task, self._request.operands, self._request.function.load, str(tile)))

    async def arrived(self, seconds: float) -> Iterable[Block]:
        """Returns the blocks of the next tile that arrives; none if none does within some seconds.

        Raises:
            Fault: What the tile ended with instead.
        """
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                tile, future = await self._arrivals.get()
        except TimeoutError:
            return ()
        self._under_way -= 1
        result = future.result()
        if isinstance(result, Fault):
            if tile is None or not self._smaller(tile, result):
                raise result
            return ()
        assert isinstance(result, Done)
        self._seconds += result.seconds
        self._compile_seconds += result.compile_seconds
        request = self._request
        if tile is None:
            values = enumerate(zip(request.arrays, result.arrays, strict=False))
            return (block for number, (array, leaf) in values for block in blocks.whole(number, array, leaf))
        self._tiles += 1
        self._passes += tile.count
        return blocks.of_tile(request.arrays, self._first, request.plan.mode, tile, request.chosen, result.arrays)

    def progress(self) -> Progress:
        """Returns how far the call has come."""
        left = -(-self._cutter.left // max(1, self._tuner.best))
        return Progress(self._tiles, self._tiles + self._under_way + left, time.perf_counter() - self._started)

    def summary(self) -> Summary:
        """Returns what the call took."""
        seconds = {"plan": self._planned - self._started, "compile": self._compile_seconds, "compute": self._seconds}
        width = self._tuner.best if self._tiles else 0
        return Summary(self._passes, self._tiles, self._lane.retries, len(self._lane.seats), seconds, width)

    def _submit_values(self) -> None:
        kernel = Kernel(self._request.function.id, Kind.VALUE, (), (), self._request.chosen.values)
        self._submit(None, work.compute(Desk.PASSES, Task(kernel), self._request.operands, self._request.function.load, "the value"))

    def _submit(self, tile: Tile | None, assignment: work.Assignment) -> None:
        self._under_way += 1
        future = self._pool.submit(self._lane, assignment)
        future.add_done_callback(lambda done: self._landed(tile, done))

    def _landed(self, tile: Tile | None, done: asyncio.Future[Result]) -> None:
        """Learns from a tile that has ended, whether or not the call is still there to receive it: the tuner waits for the end of a trial."""
        if tile is not None:
            result = None if done.cancelled() else done.result()
            if isinstance(result, Done):
                self._tuner.record(tile.width, tile.count, result.seconds, result.compile_seconds)
            elif isinstance(result, Fault) and result.reason is Reason.OUT_OF_MEMORY and tile.width > 1:
                self._tuner.limit(tile.width // 2)
            else:
                self._tuner.forget(tile.width)
        self._arrivals.put_nowait((tile, done))

    def _window(self) -> int:
        """Returns how many tiles may be under way: the workers' credits and a few more, as far as their answers fit."""
        plan = self._request.plan
        a_tile = plan.nbytes * self._tuner.best // max(1, plan.passes)
        return max(2, min(CREDITS * self._pool.workers_for_tiles() + _AHEAD, _WINDOW_BYTES // max(1, a_tile)))

    def _smaller(self, tile: Tile, fault: Fault) -> bool:
        """Returns whether a tile that did not fit into memory can be tried in smaller pieces, and if so has that done."""
        if fault.reason is not Reason.OUT_OF_MEMORY or tile.width == 1 or self._request.call.tile:
            return False
        self._cutter.give_back(tile)
        return True
