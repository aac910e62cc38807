"""Operations that read or write where an index says. An index may be known, or bounded, or anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jacloom_worker.pattern import sets as _sets
from jacloom_worker.pattern import windows
from jacloom_worker.pattern.contracting import gathered
from jacloom_worker.pattern.detection import Footprint, Scope, mixing, rule
from jacloom_worker.pattern.elementwise import filled
from jacloom_worker.pattern.ranges import Equation, Range, anything
from jacloom_worker.pattern.reducing import along
from jacloom_worker.pattern.sets import Ids
from jacloom_worker.pattern.windows import Window


@rule("dynamic_slice")
def _dynamic_slice(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    if operands[0] is None or any(start is not None for start in operands[1:]):
        return mixing(scope, eqn, operands)
    starts = [_bounds(scope, atom) for atom in eqn.invars[1:]]
    return [_read(scope, operands[0], windows.of_slice(operands[0].shape, starts, eqn.params["slice_sizes"]))]


@rule("dynamic_update_slice")
def _dynamic_update_slice(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    if any(start is not None for start in operands[2:]):
        return mixing(scope, eqn, operands)
    array, update = (filled(operand, atom.aval.shape) for operand, atom in zip(operands[:2], eqn.invars[:2], strict=True))
    window = windows.of_slice(array.shape, [_bounds(scope, atom) for atom in eqn.invars[2:]], update.shape)
    return [_write(scope, array, update, window, overwrites=True)]


@rule("gather")
def _gather(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    if operands[0] is None or operands[1] is not None:
        return mixing(scope, eqn, operands)
    window = windows.of_gather(eqn.params, operands[0].shape, _bounds(scope, eqn.invars[1]), eqn.outvars[0].aval.ndim)
    return [_read(scope, operands[0], window)]


@rule("scatter", "scatter-add", "scatter_add", "scatter-sub", "scatter_sub", "scatter-mul", "scatter_mul", "scatter-min", "scatter-max")
def _scatter(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    if operands[1] is not None:
        return mixing(scope, eqn, operands)
    array, update = (filled(operands[place], eqn.invars[place].aval.shape) for place in (0, 2))
    window = windows.of_scatter(eqn.params, array.shape, _bounds(scope, eqn.invars[1]), update.shape)
    return [_write(scope, array, update, window, overwrites=eqn.primitive.name == "scatter")]


def _read(scope: Scope, array: Ids, window: Window) -> Ids:
    """Returns the footprint of an array's windows."""
    window = window.limited()
    for axis in window.unsure:
        if not window.few:  # a window that may lie anywhere reads anything along the axis
            merged = np.expand_dims(along(scope, array, (axis,)), axis)
            size = window.sizes[axis]
            array = np.broadcast_to(merged, [size if each == axis else length for each, length in enumerate(array.shape)])
            window = window.settled(axis, size, size)
    found: Ids | None = None
    for starts in window.candidates():
        places, inside = window.places(starts)
        part = np.where(inside, array.ravel()[places] if array.size else 0, 0)
        found = part if found is None else _sets.union(scope.sets, [found, part])
    assert found is not None
    return found


def _write(scope: Scope, array: Ids, update: Ids, window: Window, overwrites: bool) -> Ids:
    """Returns the footprint of an array after windows of it were written."""
    window = window.limited()
    sure = not window.unsure
    for axis in window.unsure:
        if not window.few:  # a window that may lie anywhere writes everywhere along the axis
            update, window = _everywhere(scope, update, window, axis)
    targets, members = [np.zeros(0, np.intp)], [np.zeros(0, np.int64)]
    for starts in window.candidates():
        places, inside = window.places(starts)
        targets.append(places[inside])
        members.append(update[inside])
    target, member = np.concatenate(targets), np.concatenate(members)
    written = gathered(scope, array.size, target, member).reshape(array.shape)
    if overwrites and sure:
        kept = array.ravel().copy()
        kept[target] = 0
        array = kept.reshape(array.shape)
    return _sets.union(scope.sets, [array, written])


def _everywhere(scope: Scope, update: Ids, window: Window, axis: int) -> tuple[Ids, Window]:
    """Returns updates and windows that write all along an axis what they would have written somewhere on it."""
    if axis in window.axes:
        place = window.axes.index(axis)
        update = np.expand_dims(along(scope, update, (place,)), place)
    else:
        place = update.ndim
        update = update[..., None]
        window = replace(window, axes=(*window.axes, axis))
    size = window.shape[axis]
    update = np.broadcast_to(update, [size if each == place else length for each, length in enumerate(update.shape)])
    return update, window.settled(axis, size, size)


def _bounds(scope: Scope, atom: Any) -> Range:
    """Returns bounds of an array of integers: those of its dtype if nothing is known."""
    found = scope.values.range(atom)
    return anything(atom.aval) if found is None else found
