"""Windows into arrays: what slices, gathers and scatters read or write, from the starts that their operands give."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jax.lax import GatherScatterMode
from numpy.typing import NDArray

from jacloom_worker.pattern.ranges import Range

MOST_TRIED = 64
"""Up to so many positions of an index are tried one by one; above, it counts as anywhere within its bounds."""


@dataclass(frozen=True, slots=True)
class Window:
    """Windows into an array: which entry of the array each entry of the windows is."""

    shape: tuple[int, ...]
    """Of the array."""
    starts: dict[int, Range]
    """Of each indexed axis the windows' starts: shape ``batch``."""
    sizes: tuple[int, ...]
    """Of a window, along each axis of the array."""
    batch: tuple[int, ...]
    axes: tuple[int | None, ...]
    """Of each axis of the windows' array: the axis of the array that it runs along, or None for the next axis of the batch."""
    batching: dict[int, int]
    """Axes of the array that go with axes of the batch."""
    clipped: bool
    """Whether windows beyond the edge are moved inside; otherwise they are left out."""

    def limited(self) -> Window:
        """Returns the same windows with their starts next to the array at most: inside it where they are clipped, else one step outside."""
        beyond = 0 if self.clipped else 1
        starts = {}
        for axis, found in self.starts.items():
            last = self.shape[axis] - self.sizes[axis]
            low, high = (np.clip(side, -beyond, last + beyond).astype(np.int64) for side in (found.low, found.high))
            starts[axis] = Range(low, low) if (low == high).all() else Range(low, high)
        return replace(self, starts=starts)

    @property
    def unsure(self) -> list[int]:
        """The axes along which the starts are not known."""
        return [axis for axis, found in self.starts.items() if not found.known]

    @property
    def few(self) -> bool:
        """Whether the starts have so few candidates that they are tried one by one."""
        return math.prod(self.spread(axis) for axis in self.unsure) <= MOST_TRIED

    def candidates(self) -> Iterator[dict[int, NDArray[np.int64]]]:
        """Yields all starts that are possible, as far as their bounds tell."""
        axes = self.unsure
        known = {axis: found.low for axis, found in self.starts.items() if found.known}
        for steps in itertools.product(*(range(self.spread(axis)) for axis in axes)):
            moved = {axis: np.minimum(self.starts[axis].low + step, self.starts[axis].high) for axis, step in zip(axes, steps, strict=True)}
            yield known | moved

    def spread(self, axis: int) -> int:
        """Returns how many positions a start along an axis has at most."""
        found = self.starts[axis]
        return int((found.high - found.low).max(initial=0)) + 1

    def settled(self, axis: int, length: int, size: int) -> Window:
        """Returns windows of another size that all start at zero along an axis, of an array of another length along it."""
        zero = np.zeros(self.batch, np.int64)
        lengths, sizes = list(self.shape), list(self.sizes)
        lengths[axis], sizes[axis] = length, size
        return replace(self, shape=tuple(lengths), sizes=tuple(sizes), starts=self.starts | {axis: Range(zero, zero)})

    def places(self, starts: dict[int, NDArray[np.int64]]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """Returns for each entry of the windows the flat place of its entry in the array, and whether there is one."""
        lengths = iter(self.batch)
        shape = tuple(next(lengths) if axis is None else self.sizes[axis] for axis in self.axes)
        batch_axes = [place for place, axis in enumerate(self.axes) if axis is None]
        flat = np.zeros(shape, np.intp)
        inside = np.ones(shape, bool)
        for axis, size in enumerate(self.shape):
            position = np.zeros((1,) * len(shape), np.int64)
            if axis in starts:
                start = _placed(starts[axis], batch_axes, len(shape))
                inside &= (start >= 0) & (start <= size - self.sizes[axis])
                position = position + start
            if axis in self.batching:
                line = np.arange(self.batch[self.batching[axis]])
                position = position + _placed(line, [batch_axes[self.batching[axis]]], len(shape))
            if axis in self.axes:
                position = position + _placed(np.arange(self.sizes[axis]), [self.axes.index(axis)], len(shape))
            flat = flat * size + position
        return np.where(inside, flat, 0), inside


def of_slice(shape: Sequence[int], starts: Sequence[Range], sizes: Sequence[int]) -> Window:
    """Returns the one window of a dynamic slice or of its update, given the start along each axis."""
    return Window(tuple(shape), dict(enumerate(starts)), tuple(sizes), (), tuple(range(len(shape))), {}, clipped=True)


def of_gather(params: Mapping[str, Any], shape: Sequence[int], indices: Range, rank: int) -> Window:
    """Returns what a gather reads: an array of ``shape``, at indices whose last axis holds the components, into an array of ``rank`` axes."""
    numbers = params["dimension_numbers"]
    windowed = iter(axis for axis in range(len(shape)) if axis not in (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims))
    axes = tuple(next(windowed) if axis in numbers.offset_dims else None for axis in range(rank))
    batching = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    starts = _components(indices, numbers.start_index_map)
    clipped = params["mode"] != GatherScatterMode.FILL_OR_DROP
    return Window(tuple(shape), starts, tuple(params["slice_sizes"]), indices.low.shape[:-1], axes, batching, clipped)


def of_scatter(params: Mapping[str, Any], shape: Sequence[int], indices: Range, updates: Sequence[int]) -> Window:
    """Returns what a scatter writes: into an array of ``shape``, updates whose shape is ``updates``."""
    numbers = params["dimension_numbers"]
    windowed = [axis for axis in range(len(shape)) if axis not in (*numbers.inserted_window_dims, *numbers.operand_batching_dims)]
    along_window = dict(zip(numbers.update_window_dims, windowed, strict=True))
    axes = tuple(along_window.get(axis) for axis in range(len(updates)))
    sizes = [1] * len(shape)
    for place, axis in along_window.items():
        sizes[axis] = updates[place]
    batching = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    starts = _components(indices, numbers.scatter_dims_to_operand_dims)
    return Window(tuple(shape), starts, tuple(sizes), indices.low.shape[:-1], axes, batching, clipped=params["mode"] == GatherScatterMode.CLIP)


def _components(indices: Range, axes: Sequence[int]) -> dict[int, Range]:
    """Returns the bounds of each component of an array of indices, by the axis that it indexes."""
    made = {}
    for place, axis in enumerate(axes):
        low, high = indices.low[..., place], indices.high[..., place]
        made[axis] = Range(low, low) if (low == high).all() else Range(low, high)
    return made


def _placed(array: NDArray[np.int64], axes: Sequence[int], rank: int) -> NDArray[np.int64]:
    """Returns an array with its axes at some places among ``rank``, in their order."""
    shape = [1] * rank
    for place, size in zip(axes, array.shape, strict=True):
        shape[place] = size
    return array.reshape(shape)
