"""Units of a job: computed, and written aside. What a unit takes is its own results and the buffers of one kernel."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import zarr

from jacloom_graph.errors import Fault, Reason
from jacloom_worker.aside import Aside, unavailable
from jacloom_worker.blocks import Block, Blocks
from jacloom_worker.calling import Caller, NotHeld
from jacloom_worker.engine import Engine
from jacloom_worker.faults import explain
from jacloom_worker.pacing import pace
from jacloom_worker.protocol import Missing
from jacloom_worker.sources import Reader
from jacloom_worker.unit import Order, Pace, Recipe, Unit, Written


class Writer:
    """Computes units with an engine, and writes them. One at a time; not thread-safe. Nothing here raises: a failure comes back as a ``Fault``."""

    def __init__(self, engine: Engine, memory_limit: int | None = None) -> None:
        """Makes one.

        Args:
            engine: Computes.
            memory_limit: Bytes that the worker may use; None for no bound.
        """
        self._engine = engine
        self._memory_limit = memory_limit
        self._reader = Reader(memory_limit)

    def write(self, order: Order, *operands: np.ndarray) -> Written | Missing | Fault:
        """Computes a unit and writes its chunks aside.

        Args:
            order: The unit, with the function where the worker may not hold it.
            *operands: Of a sparse derivative, see ``Recipe.entries``.

        Returns:
            What was written; ``Missing`` if the function is neither held nor there; else the fault. It is STORE_UNAVAILABLE where the fault is that
            of the system that the store is on; what was written before that is of no use.
        """
        try:
            return self._write(order, operands)
        except NotHeld:
            return Missing()
        except Exception as error:
            return explain(error)

    def pace(self, order: Order, *operands: np.ndarray) -> Pace | Missing | Fault:
        """Returns how many points are best computed at once; see ``pacing.pace``.

        Args:
            order: The recipe for one point after the other, tile by tile; the unit has the points to try, all of the job if it likes.
            *operands: As for ``write``.
        """

        def arguments(count: int) -> list[np.ndarray]:
            return self._reader.read(order.site, order.recipe.sources, order.unit.first, count)

        def caller() -> Caller:
            return Caller(self._engine, order.load, operands)

        try:
            return pace(self._engine, caller, order.recipe, order.unit.count, arguments, self._memory_limit)
        except NotHeld:
            return Missing()
        except Exception as error:
            return explain(error)

    def _write(self, order: Order, operands: Sequence[np.ndarray]) -> Written:
        recipe, unit, site = order.recipe, order.unit, order.site
        started = time.perf_counter()
        caller = Caller(self._engine, order.load, operands)
        store = Aside(site.store, site.aside)
        blocks = Blocks(recipe, unit, operands)
        targets = [_opened(store, block) for block in blocks.filled]
        computed = _computed(unit)
        if len(computed):
            arguments = self._reader.read(site, recipe.sources, unit.first, unit.count)
            _compute(order, caller, _chosen(recipe, arguments, computed), blocks)
        skipped = [point - unit.first for point in unit.skip]
        blocks.finite[skipped] = False
        middle = time.perf_counter()
        while targets:
            _store(targets.pop(), blocks.filled.pop(), skipped)
        ended = time.perf_counter()
        return Written(store.chunks, blocks.finite, middle - started - caller.compile_seconds, caller.compile_seconds, ended - middle)


def _compute(order: Order, caller: Caller, arguments: Sequence[np.ndarray], blocks: Blocks) -> None:
    recipe, unit = order.recipe, order.unit
    seeds = (unit.start, unit.seeds) if unit.seeds else None
    for at in range(0, unit.count, max(1, recipe.points)):
        # Of one point the worker may keep the arguments on its device from tile to tile, and from unit to unit.
        name = "" if recipe.points else f"{order.site.job}, point {unit.first + at}"
        for step, start, results in caller.results(recipe, group(recipe, arguments, at), seeds, name):
            blocks.put(at, step, start, results)
        blocks.finish(at)


def group(recipe: Recipe, arguments: Sequence[np.ndarray], at: int) -> list[np.ndarray]:
    """Returns the arguments of one call: of one point, or of as many as the recipe computes at once, where the last is repeated if there are fewer.

    Args:
        recipe: Says which of them vary.
        arguments: Of some points.
        at: The first of the points.
    """

    def part(array: np.ndarray) -> np.ndarray:
        if not recipe.points:
            one: np.ndarray = np.asarray(array[at])
            return one
        mine = array[at : at + recipe.points]
        return mine if len(mine) == recipe.points else np.concatenate([mine, np.repeat(mine[-1:], recipe.points - len(mine), axis=0)])

    return [part(array) if source.varies else array for source, array in zip(recipe.sources, arguments, strict=True)]


def _computed(unit: Unit) -> np.ndarray:
    """Returns for each of a unit's points, counted within it, the point that is computed in its place: itself, or the nearest that is not skipped."""
    points = np.arange(unit.first, unit.first + unit.count)
    left = np.setdiff1d(points, unit.skip) - unit.first
    if not len(left):
        return left
    at = np.arange(unit.count)
    nearest: np.ndarray = left[np.abs(at[:, None] - left[None, :]).argmin(axis=1)] if unit.skip else at
    return nearest


def _chosen(recipe: Recipe, arguments: list[np.ndarray], points: np.ndarray) -> list[np.ndarray]:
    if (points == np.arange(len(points))).all():
        return arguments
    return [array[points] if source.varies else array for source, array in zip(recipe.sources, arguments, strict=True)]


def _opened(store: Aside, block: Block) -> Any:
    """Returns the array that a block belongs to.

    Raises:
        Fault: STORE_UNAVAILABLE if it cannot be had; INTERNAL if the block is not whole chunks of it: others would have written to the rest.
    """
    path = block.sink.path
    try:
        array = zarr.open_array(store, path=path, mode="r+")
    except OSError as error:
        raise unavailable(path, "opened", error) from error
    for part, chunk, extent in zip(block.selection, array.chunks, array.shape, strict=True):
        if part.start % chunk or (part.stop % chunk and part.stop != extent) or part.stop > extent:
            text = f"{path} has chunks of shape {array.chunks}, of which {_words(block.selection)} is not a whole number"
            raise Fault(Reason.INTERNAL, f"{text}; units consist of whole chunks")
    # Chunks that happen to be all NaN, or all zero, are written like others: the ledger counts on them.
    return array.with_config({"write_empty_chunks": True})


def _store(array: Any, block: Block, skipped: Sequence[int]) -> None:
    if not math.prod(block.elements.shape):
        return
    block.elements[skipped] = array.fill_value
    array[block.selection] = block.elements


def _words(selection: Sequence[slice]) -> str:
    return ", ".join(f"{part.start}:{part.stop}" for part in selection)
