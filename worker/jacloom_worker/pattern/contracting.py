"""Products of arrays: sums over pairs of entries, where known zeros of one factor cut what the other brings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jacloom_worker.pattern import sets as _sets
from jacloom_worker.pattern.detection import Footprint, Scope, rule
from jacloom_worker.pattern.ranges import Equation
from jacloom_worker.pattern.sets import Ids

_MOST_PAIRS = 1 << 25
"""Above so many pairs of entries the zeros of the other factor are not looked at."""


@rule("dot_general")
def _dot_general(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    (contracted, batch) = eqn.params["dimension_numbers"]
    parts = []
    for side in (0, 1):
        other = 1 - side
        ids = operands[side]
        if ids is None:
            continue
        value = scope.values.of(eqn.invars[other]) if operands[other] is None else None
        lines = _lines(ids, batch[side], contracted[side])
        mask = None if value is None else _lines(value != 0, batch[other], contracted[other])
        free = [eqn.invars[each].aval.shape[axis] for each in (side, other) for axis in _free(eqn, each)]
        count = math.prod(eqn.invars[other].aval.shape[axis] for axis in _free(eqn, other))
        found = contract(scope, lines, mask, count).reshape([*(ids.shape[axis] for axis in batch[side]), *free])
        if side == 1:  # outputs have the free axes of the left factor first
            ranks = len(batch[0]), len(_free(eqn, 1)), len(_free(eqn, 0))
            order = [*range(ranks[0]), *range(ranks[0] + ranks[1], sum(ranks)), *range(ranks[0], ranks[0] + ranks[1])]
            found = found.transpose(order)
        parts.append(found)
    return [scope.union(parts)]


@rule("conv_general_dilated")
def _convolution(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of a convolution, as that of a product of matrices: patches of the input by kernels."""
    params = eqn.params
    numbers = params["dimension_numbers"]
    out = eqn.outvars[0].aval
    if out.size == 0:
        return [None]
    parts = []
    for side in (0, 1):
        ids = operands[side]
        if ids is None:
            continue
        value = scope.values.of(eqn.invars[1 - side]) if operands[1 - side] is None else None
        other = np.ones(eqn.invars[1 - side].aval.shape, bool) if value is None else value != 0
        images, kernels = (ids, other) if side == 0 else (other, ids)
        # The kernel's shape is read off its array; the sizes of the output off the equation.
        spatial = [out.shape[axis] for axis in numbers.out_spec[2:]]
        patches = _patches(
            images.transpose(numbers.lhs_spec), kernels.transpose(numbers.rhs_spec).shape[2:], spatial, params
        )  # [N, C, taps, *spatial]
        grouped = _grouped(patches, kernels.transpose(numbers.rhs_spec), params)
        lines, mask = grouped if side == 0 else grouped[::-1]
        found = contract(scope, lines, None if mask.all() else mask, mask.shape[1])  # [groups, of this side, of the other side]
        if side == 1:
            found = found.transpose(0, 2, 1)
        # [groups, N x spatial, kernels of a group]
        images_each = found.shape[1] // math.prod(spatial)
        cube = found.reshape(found.shape[0], images_each, *spatial, found.shape[2])
        cube = np.moveaxis(cube, [0, -1], [1, 2])  # [N, groups, kernels of a group, *spatial]
        cube = cube.reshape(images_each, -1, *spatial)
        parts.append(cube.transpose(np.argsort(numbers.out_spec)))
    return [scope.union(parts)]


@rule("reduce_window_sum", "reduce_window_max", "reduce_window_min", "select_and_gather_add")
def _windows(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of what is made of windows of an array."""
    merged = scope.union(operands)
    assert merged is not None
    params = eqn.params
    rank = merged.ndim
    shifted = _taps(
        merged,
        params["window_dimensions"],
        eqn.outvars[0].aval.shape,
        params["window_strides"],
        params["padding"],
        params.get("base_dilation", (1,) * rank),
        params.get("window_dilation", (1,) * rank),
    )
    return [_sets.reduce(scope.sets, np.stack(shifted, axis=-1))]


@rule("select_and_scatter_add")
def _scattered_windows(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of entries each put somewhere in its window of the output."""
    source, params, out = operands[0], eqn.params, eqn.outvars[0].aval
    if source is None or operands[1] is not None:
        return [np.full(out.shape, scope.everything(operands))]
    numbers = np.arange(1, out.size + 1).reshape(out.shape)
    ones = (1,) * out.ndim
    places = np.stack(_taps(numbers, params["window_dimensions"], source.shape, params["window_strides"], params["padding"], ones, ones), axis=-1)
    inside = places > 0
    targets, members = places[inside] - 1, np.broadcast_to(source[..., None], places.shape)[inside]
    return [gathered(scope, out.size, targets, members).reshape(out.shape)]


def contract(scope: Scope, lines: Ids, mask: NDArray[np.bool_] | None, count: int) -> Ids:
    """Returns the footprint of a batch of products of matrices, ``out[b, i, j] = sum over k of left[b, i, k] * right[b, j, k]``.

    Args:
        scope: Of the equation.
        lines: Footprint of ``left``: shape ``(batch, rows, k)``.
        mask: Where ``right`` may differ from zero: shape ``(batch, count, k)``; None for everywhere.
        count: How many ``j`` there are.

    Returns:
        Shape ``(batch, rows, count)``.
    """
    batch, rows, _ = lines.shape
    if mask is None or mask.all() or lines.size == 0 or rows * np.count_nonzero(mask) > _MOST_PAIRS:
        return np.broadcast_to(_sets.reduce(scope.sets, lines)[..., None], (batch, rows, count))
    places, _, terms = np.nonzero(mask)
    members = lines[places, :, terms].T  # [rows, nonzeros of the mask]
    each = np.count_nonzero(mask, axis=-1).ravel()
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.tile(each, rows))])
    return scope.sets.unite(starts, members.ravel()).reshape(rows, batch, count).transpose(1, 0, 2)


def gathered(scope: Scope, size: int, targets: NDArray[np.intp], members: Ids) -> Ids:
    """Returns of each of ``size`` targets the union of the members that go there; the empty set where none does."""
    order = np.argsort(targets, kind="stable")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(targets, minlength=size))])
    return scope.sets.unite(starts, members[order])


def _lines(array: NDArray[Any], batch: Sequence[int], contracted: Sequence[int]) -> NDArray[Any]:
    """Returns an array as ``(batch, free, contracted)``."""
    free = [axis for axis in range(array.ndim) if axis not in (*batch, *contracted)]
    sizes = [math.prod(array.shape[axis] for axis in axes) for axes in (batch, free, contracted)]
    return array.transpose([*batch, *free, *contracted]).reshape(sizes)


def _free(eqn: Equation, side: int) -> list[int]:
    contracted, batch = eqn.params["dimension_numbers"]
    return [axis for axis in range(eqn.invars[side].aval.ndim) if axis not in (*contracted[side], *batch[side])]


def _patches(images: NDArray[Any], taps: Sequence[int], spatial: Sequence[int], params: dict[str, Any]) -> NDArray[Any]:
    """Returns the entries that meet each tap of a kernel: of images ``(N, C, *sizes)``, shape ``(N, C, number of taps, *spatial)``."""
    leading = images.shape[:2]
    shifted = _taps(
        images,
        (1, 1, *taps),
        (*leading, *spatial),
        (1, 1, *params["window_strides"]),
        ((0, 0), (0, 0), *params["padding"]),
        (1, 1, *params["lhs_dilation"]),
        (1, 1, *params["rhs_dilation"]),
    )
    return np.stack(shifted, axis=2)


def _grouped(patches: NDArray[Any], kernels: NDArray[Any], params: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns patches as ``(groups, N x spatial, terms)`` and kernels as ``(groups, kernels, terms)``: only those of one group meet."""
    features, batches = params["feature_group_count"], params["batch_group_count"]
    count, channels, taps, *spatial = patches.shape
    groups = max(features, batches)
    split = patches.reshape(batches, count // batches, features, channels // features, taps, *spatial)
    split = np.moveaxis(split, [3, 4], [-2, -1])  # [batch groups, N, feature groups, *spatial, C, taps]
    split = np.moveaxis(split, 2, 1)
    lines = split.reshape(groups, -1, channels // features * taps)
    return lines, kernels.reshape(groups, kernels.shape[0] // groups, -1)


def _taps(
    array: NDArray[Any],
    window: Sequence[int],
    shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> list[NDArray[Any]]:
    """Returns for each place in a window the entries that windows have there: arrays of ``shape``, zero where that is padding."""
    found = []
    for offset in itertools.product(*map(range, window)):
        part = array
        for axis, place in enumerate(offset):
            wanted = np.arange(shape[axis]) * strides[axis] + place * window_dilation[axis] - padding[axis][0]
            sources, rest = np.divmod(wanted, base_dilation[axis])
            inside = (rest == 0) & (sources >= 0) & (sources < array.shape[axis])
            part = part.take(np.where(inside, sources, 0), axis=axis)
            part = part * inside.reshape([-1 if each == axis else 1 for each in range(array.ndim)])
        found.append(part)
    return found
