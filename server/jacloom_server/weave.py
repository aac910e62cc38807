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
from jacloom_server.plan import Leg, Plan
from jacloom_server.planning import kernel_of
from jacloom_server.pool import Pool
from jacloom_server.probing import platform_of
from jacloom_server.reply import Block, Progress, Summary
from jacloom_server.slot import CREDITS
from jacloom_server.tiling import Cutter, Tile
from jacloom_server.tuning import Tuner
from jacloom_server.work import Desk, Lane
from jacloom_worker.launch import Operand, Result
from jacloom_worker.protocol import Done, Kernel, Kind, Task

_WINDOW_BYTES: Final = 256 << 20
"""Most bytes of one call's tiles between their workers and the reader. They lie in shared memory, outside the server's own."""
_TILED: Final = frozenset({Part.JACOBIAN, Part.HESSIAN, Part.ENTRIES, Part.TANGENT, Part.COTANGENT, Part.PRODUCT})
"""The arrays that tiles fill."""
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
    """The point, then weights if there are any."""
    seeds: tuple[Operand, ...] = ()
    """Those of a batch, all of them along the first axis."""
    parts: tuple[tuple[Operand, ...], ...] = ()
    """What coloured tiles take besides, by leg of the plan."""
    point: str = ""
    """Name of the point, where calls to come are about it, too."""


@dataclass(frozen=True, slots=True)
class _Strand:
    """A leg of the plan while it is woven."""

    number: int
    leg: Leg
    kernel: Kernel
    point: str
    """Name of its arguments: those of another leg may be others."""
    first: int
    """Place of its first entry among those of all legs, where it is coloured."""
    cutter: Cutter
    tuner: Tuner


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
        self._pool = pool
        self._lane = lane
        self._request = request
        self._started = started
        self._planned = time.perf_counter()
        self._first = next((number for number, array in enumerate(request.arrays) if array.part in _TILED), len(request.arrays))
        self._strands = self._begun()
        self._arrivals: asyncio.Queue[tuple[tuple[_Strand, Tile] | None, asyncio.Future[Result]]] = asyncio.Queue()
        self._under_way = 0
        self._tiles = self._passes = 0
        self._seconds = self._compile_seconds = 0.0
        self._repairs = self._doubtful = 0
        if request.chosen.values:
            self._submit_values()
        self.fill()

    @property
    def busy(self) -> bool:
        """Whether anything is still to come."""
        return self._under_way > 0

    def fill(self) -> None:
        """Sends out tiles until the window is full or none are left."""
        for strand in self._strands:
            while strand.cutter.left and self._under_way < self._window(strand):
                tile = strand.cutter.take(strand.tuner.next(strand.cutter.left, self._request.plan.workers))
                task = Task(
                    replace(strand.kernel, width=tile.width),
                    point=strand.point,
                    linearize=self._request.call.linearize,
                    start=tile.start,
                    count=tile.count,
                )
                operands = (*self._request.operands, *self._besides(strand, tile))
                self._submit((strand, tile), work.compute(Desk.TILES, task, operands, self._request.function.load, str(tile)))

    async def arrived(self, seconds: float) -> Iterable[Block]:
        """Returns the blocks of the next tile that arrives; none if none does within some seconds.

        Raises:
            Fault: What the tile ended with instead.
        """
        try:
            async with asyncio.timeout(max(seconds, 0.001)):
                sent, future = await self._arrivals.get()
        except TimeoutError:
            return ()
        self._under_way -= 1
        result = future.result()
        if isinstance(result, Fault):
            if sent is None or not self._smaller(*sent, result):
                raise result
            return ()
        assert isinstance(result, Done)
        self._seconds += result.seconds
        self._compile_seconds += result.compile_seconds
        request = self._request
        if sent is None:
            values = enumerate(zip(request.arrays, result.arrays, strict=False))
            return (block for number, (array, leaf) in values for block in blocks.whole(number, array, leaf))
        strand, tile = sent
        self._tiles += 1
        self._passes += tile.count
        self._repairs += result.repairs
        self._doubtful += result.doubtful
        structure = request.plan.structure
        if structure is not None:
            place = strand.first + int(structure.parts[strand.number].bounds[tile.start])
            return blocks.of_passes(self._first, request.arrays[self._first], place, result.arrays[0])
        if request.call.batch:
            return blocks.of_batch(request.arrays, self._first, tile, result.arrays)
        mode = None if request.call.derivative is Derivative.HESSIAN else strand.leg.mode
        return blocks.of_tile(request.arrays, self._first, mode, tile, request.chosen, result.arrays)

    def progress(self) -> Progress:
        """Returns how far the call has come."""
        left = sum(-(-strand.cutter.left // max(1, strand.tuner.best)) for strand in self._strands)
        return Progress(self._tiles, self._tiles + self._under_way + left, time.perf_counter() - self._started)

    def summary(self) -> Summary:
        """Returns what the call took."""
        seconds = {"plan": self._planned - self._started, "compile": self._compile_seconds, "compute": self._seconds}
        width = max((strand.tuner.best for strand in self._strands), default=0) if self._tiles else 0
        return Summary(
            self._passes, self._tiles, self._lane.retries, len(self._lane.seats), seconds, width, repairs=self._repairs, doubtful=self._doubtful
        )

    def _besides(self, strand: _Strand, tile: Tile) -> tuple[Operand, ...]:
        """Returns what a tile takes besides the point: its part of the structure, or its seeds; where these have numbers, nothing."""
        if strand.kernel.coloured:
            return self._request.parts[strand.number]
        return tuple(seeds.rows(tile.start, tile.count) for seeds in self._request.seeds)

    def _submit_values(self) -> None:
        kernel = Kernel(self._request.function.id, Kind.VALUE, (), (), self._request.chosen.values)
        point = self._request.operands[: len(self._request.function.description.inputs)]  # without weights
        self._submit(None, work.compute(Desk.PASSES, Task(kernel), point, self._request.function.load, "the value"))

    def _begun(self) -> list[_Strand]:
        """Returns the legs of the plan, nothing of them sent out yet."""
        request, found, first = self._request, [], 0
        for number, leg in enumerate(request.plan.legs):
            kernel = kernel_of(request.call, request.function, request.chosen, request.plan, leg)
            # Batches differ in size from call to call, so a width that was found for one of them says little of the next.
            fixed = bool(request.call.tile or request.call.batch)
            tuner = Tuner(leg.tile, fixed=True) if fixed else request.function.tuner(kernel, platform_of(self._pool), leg)
            found.append(_Strand(number, leg, kernel, request.point or secrets.token_hex(8), first, Cutter(leg.passes), tuner))
            if request.plan.structure is not None:
                first += len(request.plan.structure.parts[number].lines)
        return found

    def _submit(self, sent: tuple[_Strand, Tile] | None, assignment: work.Assignment) -> None:
        self._under_way += 1
        future = self._pool.submit(self._lane, assignment)
        future.add_done_callback(lambda done: self._landed(sent, done))

    def _landed(self, sent: tuple[_Strand, Tile] | None, done: asyncio.Future[Result]) -> None:
        """Learns from a tile that has ended, whether or not the call is still there to receive it: the tuner waits for the end of a trial."""
        if sent is not None:
            strand, tile = sent
            result = None if done.cancelled() else done.result()
            if isinstance(result, Done):
                strand.tuner.record(tile.width, tile.count, result.seconds, result.compile_seconds)
            elif isinstance(result, Fault) and result.reason is Reason.OUT_OF_MEMORY and tile.width > 1:
                strand.tuner.limit(tile.width // 2)
            else:
                strand.tuner.forget(tile.width)
        self._arrivals.put_nowait((sent, done))

    def _window(self, strand: _Strand) -> int:
        """Returns how many tiles may be under way: the workers' credits and a few more, as far as their answers fit."""
        plan = self._request.plan
        a_tile = plan.nbytes * strand.tuner.best // max(1, plan.passes)
        return max(2, min(CREDITS * self._pool.workers_for_tiles() + _AHEAD, _WINDOW_BYTES // max(1, a_tile)))

    def _smaller(self, strand: _Strand, tile: Tile, fault: Fault) -> bool:
        """Returns whether a tile that did not fit into memory can be tried in smaller pieces, and if so has that done."""
        if fault.reason is not Reason.OUT_OF_MEMORY or tile.width == 1 or self._request.call.tile:
            return False
        strand.cutter.give_back(tile)
        return True
