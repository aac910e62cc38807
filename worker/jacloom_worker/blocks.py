"""The blocks of a job's arrays that a unit fills, put together from what its kernels give. Plain arrays, without JAX and without a store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import INEXACT
from jacloom_worker.protocol import Kind
from jacloom_worker.unit import Recipe, Sink, Step, Unit, stored


@dataclass(frozen=True, slots=True)
class Block:
    """A box of one array, with its elements."""

    sink: Sink
    selection: tuple[slice, ...]
    """Which box: one slice per axis, the first that of the points."""
    elements: np.ndarray
    """Of the store's dtype."""


@dataclass(frozen=True, slots=True)
class _Slot:
    """Where the results of one step go."""

    block: np.ndarray
    """View of a block: its points along the first axis; of tile kinds then rows, then columns."""
    result: int
    """Position among the step's results."""
    axis: Literal[-2, -1] | None = None
    """The axis of the seeds, of tile kinds."""
    first: int = 0
    """The seed of the block's first line along that axis."""

    def put(self, at: int, start: int, results: Sequence[np.ndarray], count: int) -> None:
        """Takes what there is for it in the results of a tile that begins with seed ``start``, for ``count`` points from ``at`` on."""
        given, block = results[self.result][:count], self.block[at : at + count]
        if self.axis is None:
            block[...] = given
            return
        begin = max(start, self.first)
        end = min(start + given.shape[self.axis], self.first + block.shape[self.axis])
        if begin < end:
            block[_along(self.axis, begin - self.first, end - self.first)] = given[_along(self.axis, begin - start, end - start)]


class Blocks:
    """The blocks of one unit, while they are filled."""

    def __init__(self, recipe: Recipe, unit: Unit, operands: Sequence[np.ndarray]) -> None:
        """Makes blocks whose elements are not set.

        Args:
            recipe: What units compute.
            unit: Which one.
            operands: Of a sparse derivative, the structure's ``sources`` and the arrays of its parts.

        Raises:
            Fault: INTERNAL for seeds that fill no box, or are only some of those that a sparse derivative takes.
        """
        if recipe.entries is not None and unit.seeds:
            raise Fault(Reason.INTERNAL, f"the entries of a sparse derivative take all passes, and this unit is {unit}")
        self._first, self._count = unit.first, unit.count
        self.finite = np.ones(unit.count, bool)
        """Of each point whether all that was put in is finite, shape ``(count,)``."""
        self.filled: list[Block] = []
        self._slots = [self._slots_of(recipe, step, unit) for step in recipe.steps]
        self._entries: _Entries | None = None
        if recipe.entries is not None:
            sink = recipe.sinks[recipe.entries]
            coloured = [position for position, step in enumerate(recipe.steps) if step.kernel.coloured]
            block = self._add(sink, _whole(sink))
            self._entries = _Entries(block, operands[0], dict(zip(coloured, operands[4::4], strict=True)), max(1, recipe.points))

    def put(self, at: int, step: int, start: int, results: Sequence[np.ndarray]) -> None:
        """Takes what a step gives for a group of points.

        Args:
            at: The first of the points, counted within the unit.
            step: Position of the step in the recipe.
            start: First seed.
            results: As ``protocol.Done.arrays`` of several points. More points than the unit has are padding.
        """
        count = min(self._count - at, len(results[0]) if results else 0)
        for result in results:
            if result.dtype.name in INEXACT:
                self.finite[at : at + count] &= np.isfinite(result[:count]).reshape(count, math.prod(result.shape[1:])).all(axis=1)
        if self._entries is not None and step in self._entries.bounds:
            self._entries.put(step, start, results[0][:count])
            return
        for slot in self._slots[step]:
            slot.put(at, start, results, count)

    def finish(self, at: int) -> None:
        """Says that the group of points that begins with ``at`` has all its results."""
        if self._entries is not None:
            self._entries.finish(at)

    def _slots_of(self, recipe: Recipe, step: Step, unit: Unit) -> list[_Slot]:
        sinks = [recipe.sinks[index] for index in step.sinks]
        if step.passes:
            return self._of_tiles(recipe, step, sinks, unit)
        if unit.start:
            return []
        return [_Slot(self._add(sink, _whole(sink)), result) for result, sink in enumerate(sinks)]

    def _of_tiles(self, recipe: Recipe, step: Step, sinks: Sequence[Sink], unit: Unit) -> list[_Slot]:
        """Returns where blocks of matrices go: sinks are [output, leaf], of second derivatives [output, leaf, leaf]."""
        leaves = [recipe.sources[index].type for index in step.kernel.wrt]
        reverse = step.kernel.kind is Kind.REVERSE
        pairs = [divmod(number, len(leaves)) for number in range(len(sinks))]
        # What the seeds number the entries of: shapes of outputs in reverse, else of leaves.
        if reverse:
            numbered = [_lead(sink, len(leaves[0].shape)) for sink in sinks[:: len(leaves)]] if sinks else []
        else:
            numbered = [leaf.shape for leaf in leaves]
        firsts = [sum(map(math.prod, numbered[:index])) for index in range(len(numbered))]
        low, high = (unit.start, unit.start + unit.seeds) if unit.seeds else (0, step.passes)
        slots = []
        for sink, (before, leaf) in zip(sinks, pairs, strict=True):
            seeded, result = (before, leaf) if reverse else (leaf, before)
            shape = numbered[seeded]
            begin, end = max(low, firsts[seeded]), min(high, firsts[seeded] + math.prod(shape))
            if begin >= end:
                continue
            inner = box(shape, begin - firsts[seeded], end - begin)
            rest = leaves[leaf].shape if reverse else _lead(sink, len(shape))
            others = tuple(slice(0, extent) for extent in rest)
            block = self._add(sink, (*inner, *others) if reverse else (*others, *inner))
            sizes = (end - begin, math.prod(rest)) if reverse else (math.prod(rest), end - begin)
            slots.append(_Slot(block.reshape(self._count, *sizes), result, -2 if reverse else -1, begin))
        return slots

    def _add(self, sink: Sink, within: tuple[slice, ...]) -> np.ndarray:
        """Returns the elements of a new block, of all points; ``within`` is its box in the array of one."""
        dtype, shape = stored(sink.type)
        within = (*within, *(slice(0, extent) for extent in shape[len(within) :]))  # raw data of keys
        elements = np.empty((self._count, *(part.stop - part.start for part in within)), dtype)
        self.filled.append(Block(sink, (slice(self._first, self._first + self._count), *within), elements))
        return elements


class _Entries:
    """The entries of a sparse derivative: put together for one group of points after the other."""

    def __init__(self, block: np.ndarray, sources: np.ndarray, bounds: dict[int, np.ndarray], points: int) -> None:
        """Makes it.

        Args:
            block: Where they go at last, shape ``(count, nonzeros)``.
            sources: Of each entry, its place among those that the passes yield.
            bounds: Of each coloured step, where the entries of each of its passes begin, and the end.
            points: Of a group.
        """
        self._block, self._sources, self.bounds = block, sources, bounds
        ends = np.cumsum([0, *(each[-1] for each in bounds.values())])
        self._firsts = dict(zip(bounds, ends, strict=False))
        self._found = np.empty((points, ends[-1]), block.dtype)

    def put(self, step: int, start: int, entries: np.ndarray) -> None:
        first = self._firsts[step] + self.bounds[step][start]
        self._found[: len(entries), first : first + entries.shape[1]] = entries

    def finish(self, at: int) -> None:
        block = self._block[at : at + len(self._found)]
        np.take(self._found[: len(block)], self._sources, axis=1, out=block, mode="clip")


def box(shape: Sequence[int], first: int, count: int) -> tuple[slice, ...]:
    """Returns the box of an array that some consecutive entries, in C order, fill.

    Args:
        shape: Of the array, without an extent of 0.
        first: The first entry.
        count: How many, at least 1.

    Raises:
        Fault: INTERNAL if they fill none.
    """
    found: list[slice] = []
    left = first
    for axis, extent in enumerate(shape):
        inner = math.prod(shape[axis + 1 :])
        if left % inner == 0 and count % inner == 0 and left // inner + count // inner <= extent:
            return (*found, slice(left // inner, (left + count) // inner), *(slice(0, rest) for rest in shape[axis + 1 :]))
        index = left // inner
        found.append(slice(index, index + 1))
        left -= index * inner
    if count != 1:
        raise Fault(Reason.INTERNAL, f"entries {first} to {first + count - 1} of an array of shape {tuple(shape)} are no box of it")
    return tuple(found)


def _along(axis: int, begin: int, end: int) -> tuple[slice, ...]:
    """Returns the selection of some lines along one of the last two axes."""
    lines = slice(begin, end)
    return (slice(None), lines, slice(None)) if axis == -2 else (slice(None), slice(None), lines)


def _lead(sink: Sink, axes: int) -> tuple[int, ...]:
    """Returns the shape of what one point gives, without its last axes."""
    shape = sink.type.shape
    return shape[: len(shape) - axes]


def _whole(sink: Sink) -> tuple[slice, ...]:
    return tuple(slice(0, extent) for extent in sink.type.shape)
