"""Operations in which the entries along some axes meet."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np

from jacloom_worker.pattern import sets as _sets
from jacloom_worker.pattern.detection import Footprint, Scope, mixing, rule
from jacloom_worker.pattern.elementwise import filled
from jacloom_worker.pattern.ranges import Equation
from jacloom_worker.pattern.sets import Ids, Sets

_STEPS = 16
"""Running totals of up to so many entries are formed one after the other; longer ones in blocks."""


@rule(*["reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "reduce_and", "reduce_or", "reduce_xor", "argmax", "argmin"])
def _reduce(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    (operand,) = operands
    assert operand is not None
    return [along(scope, operand, eqn.params["axes"])]


@rule("reduce")
def _reduce_by_function(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprints of a reduction by a function of its own, which takes several arrays at once, and their initial values."""
    arrays, initial = operands[: len(operands) // 2], operands[len(operands) // 2 :]
    if any(each is not None for each in initial):
        return mixing(scope, eqn, operands)
    merged = scope.union(arrays)
    assert merged is not None
    return [along(scope, merged, eqn.params["dimensions"])] * len(eqn.outvars)


@rule("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
def _accumulate(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of running totals: each depends on what comes before it."""
    (operand,) = operands
    assert operand is not None
    lines = np.moveaxis(operand, eqn.params["axis"], 0)
    ordered = lines[::-1] if eqn.params["reverse"] else lines
    result = running(scope.sets, ordered)
    return [np.moveaxis(result[::-1] if eqn.params["reverse"] else result, 0, eqn.params["axis"])]


@rule("sort")
def _sort(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprints of arrays sorted together: an entry comes from anywhere in its line, and which one depends on the keys."""
    merged, axis = scope.union(operands), eqn.params["dimension"]
    assert merged is not None
    line = np.expand_dims(along(scope, merged, (axis,)), axis)
    return [np.broadcast_to(line, out.aval.shape) for out in eqn.outvars]


@rule("top_k")
def _top_k(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    (operand,) = operands
    assert operand is not None
    axis = eqn.params.get("axis", operand.ndim - 1) % operand.ndim
    line = np.expand_dims(along(scope, operand, (axis,)), axis)
    return [np.broadcast_to(line, out.aval.shape) for out in eqn.outvars]


@rule("fft")
def _transform(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of a Fourier transform: dense along the axes that it transforms."""
    (operand,) = operands
    assert operand is not None
    axes = tuple(range(operand.ndim - len(eqn.params["fft_lengths"]), operand.ndim))
    return [np.broadcast_to(np.expand_dims(along(scope, operand, axes), axes), eqn.outvars[0].aval.shape)]


@rule("triangular_solve")
def _triangular_solve(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of a solution with many right-hand sides: dense along each of them."""
    matrix, sides = operands
    if matrix is not None:
        return [batchwise(scope, eqn, operands)]
    axis = eqn.outvars[0].aval.ndim - (2 if eqn.params["left_side"] else 1)
    assert sides is not None
    return [np.broadcast_to(np.expand_dims(along(scope, sides, (axis,)), axis), sides.shape)]


@rule("tridiagonal_solve", "cholesky", "cholesky_update", "householder_product")
def _batchwise_only(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    return [batchwise(scope, eqn, operands)]


def batchwise(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> Ids:
    """Returns the footprint of an operation on matrices, dense within each; batch axes may be in front, the same in all operands."""
    shape = eqn.outvars[0].aval.shape
    rank = len(shape) - 2
    parts = [filled(operand, atom.aval.shape) for operand, atom in zip(operands, eqn.invars, strict=True)]
    each = scope.union([along(scope, part, tuple(range(rank, part.ndim))) for part in parts])
    assert each is not None
    return np.broadcast_to(np.expand_dims(each, (rank, rank + 1)), shape)


def along(scope: Scope, operand: Ids, axes: Sequence[int]) -> Ids:
    """Returns the union of a footprint along some axes, which are gone from it."""
    kept = [axis for axis in range(operand.ndim) if axis not in axes]
    lines = operand.transpose([*kept, *axes]).reshape([*(operand.shape[axis] for axis in kept), -1])
    return _sets.reduce(scope.sets, lines)


def running(sets: Sets, lines: Ids) -> Ids:
    """Returns the union of each entry with all before it along the first axis.

    Blocks of about the root of its length have their totals formed side by side, then the totals of the blocks before join: a few large unions
    instead of many small ones.
    """
    count, rest = len(lines), lines.shape[1:]
    if count <= _STEPS:
        totals = list(lines[:1])
        for entries in lines[1:]:
            totals.append(_sets.union(sets, [totals[-1], entries]))
        return np.stack(totals) if totals else lines
    length = isqrt(count - 1) + 1
    blocks = -(-count // length)
    padded = np.concatenate([lines, np.zeros((blocks * length - count, *rest), np.int64)])
    within = running(sets, padded.reshape(blocks, length, *rest).swapaxes(0, 1))
    before = np.concatenate([np.zeros((1, *rest), np.int64), running(sets, within[-1])[:-1]])
    whole = _sets.union(sets, [within, np.broadcast_to(before, within.shape)])
    return whole.swapaxes(0, 1).reshape(padded.shape)[:count]
