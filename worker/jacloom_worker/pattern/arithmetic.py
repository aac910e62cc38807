"""What comes of an operation's operands if they are known, and which bounds if they are bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jacloom_worker.pattern import windows
from jacloom_worker.pattern.ranges import Array, Equation, Range, exactly


def compute(eqn: Equation, operands: Sequence[Array]) -> list[Array] | None:
    """Returns the outputs of an equation whose operands are known; None if it cannot be computed ahead."""
    name, params = eqn.primitive.name, eqn.params
    with np.errstate(all="ignore"):
        if name == "convert_element_type" and (operands[0].dtype.kind in "biu" or np.dtype(params["new_dtype"]).kind == operands[0].dtype.kind):
            return [operands[0].astype(params["new_dtype"])]  # floats that do not fit an integer JAX converts in its own way
        if name in _EXACT:
            return [np.asarray(_EXACT[name](params, *operands))]
    windowed = _WINDOWED[name](eqn, *operands) if name in _WINDOWED else None
    if windowed is not None:
        return [windowed]
    try:
        with jax.ensure_compile_time_eval():
            found = eqn.primitive.bind(*operands, **params)
    except NotImplementedError:  # a primitive that runs only as part of a larger program
        return None
    return [np.asarray(value) for value in (found if eqn.primitive.multiple_results else [found])]


def bound(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    """Returns what is known of the outputs of an equation, given bounds of its operands, or None for those without."""
    name, unknown = eqn.primitive.name, [None] * len(eqn.outvars)
    if name in _POSITIONS:
        return _POSITIONS[name](eqn, operands)
    ranges = [operand for operand in operands if operand is not None]
    if len(ranges) < len(operands):
        return list(unknown)
    if name in _BOUNDS:
        return [_BOUNDS[name](eqn, ranges)]
    if name in _MONOTONE:
        low, high = (compute(eqn, [getattr(each, side) for each in ranges]) for side in ("low", "high"))
        return [Range(*pair) for pair in zip(low or [], high or [], strict=True)] or list(unknown)
    return list(unknown)


def _argument(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    """Returns the bounds of a position along axes of an operand."""
    (axis,) = eqn.params["axes"]
    out = eqn.outvars[0].aval
    return [Range(np.zeros(out.shape, out.dtype), np.full(out.shape, eqn.invars[0].aval.shape[axis] - 1, out.dtype))]


def _top_k(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    values, positions = (out.aval for out in eqn.outvars)
    last = eqn.invars[0].aval.shape[eqn.params.get("axis", -1)] - 1
    return [None, Range(np.zeros(positions.shape, positions.dtype), np.full(values.shape, last, positions.dtype))]


def _sort(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    """Returns the bounds of arrays sorted together: what was somewhere along the axis is somewhere else."""
    axis = eqn.params["dimension"]

    def anywhere(found: Range) -> Range:
        low, high = found.low.min(axis, keepdims=True), found.high.max(axis, keepdims=True)
        return Range(np.broadcast_to(low, found.low.shape), np.broadcast_to(high, found.low.shape))

    return [anywhere(found) if found is not None and found.low.size else None for found in operands]


def _sum(eqn: Equation, operands: Sequence[Range]) -> Range | None:
    """Returns the bounds of a sum; none where it may turn round."""
    left, right = operands
    return _unturned(left.low, right.low, left.high, right.high)


def _unturned(low: Array, more_low: Array, high: Array, more_high: Array) -> Range | None:
    """Returns the bounds ``low + more_low`` and ``high + more_high``, element by element those of the dtype where either does not fit it."""
    if low.dtype.kind not in "iu":
        return None
    info = np.iinfo(low.dtype)
    lower, upper = low + more_low, high + more_high
    turned = ((more_low >= 0) != (lower >= low)) | ((more_high >= 0) != (upper >= high))
    return Range(np.where(turned, info.min, lower), np.where(turned, info.max, upper))


def _difference(eqn: Equation, operands: Sequence[Range]) -> Range | None:
    left, right = operands
    return _unturned(left.low, -right.high, left.high, -right.low) if left.low.dtype.kind == "i" else None


def _comparison(eqn: Equation, operands: Sequence[Range]) -> Range:
    """Returns the bounds of ``left < right`` and its like: known where the operands do not overlap."""
    left, right = operands
    if eqn.primitive.name in ("gt", "ge"):
        left, right = right, left
    strict = eqn.primitive.name in ("lt", "gt")
    surely = left.high < right.low if strict else left.high <= right.low
    maybe = left.low < right.high if strict else left.low <= right.high
    return exactly(surely) if (surely == maybe).all() else Range(surely, maybe)


def _choice(eqn: Equation, operands: Sequence[Range]) -> Range | None:
    """Returns the bounds of a choice among cases: of the case where the condition is known, of all cases where it is not."""
    which, cases = operands[0], operands[1:]
    if which.known:
        low, high = (np.choose(which.low.astype(np.intp), [getattr(case, side) for case in cases]) for side in ("low", "high"))
        return Range(low, high)
    return Range(np.minimum.reduce([case.low for case in cases]), np.maximum.reduce([case.high for case in cases]))


def _remainder(eqn: Equation, operands: Sequence[Range]) -> Range | None:
    number, divisor = operands
    if not divisor.known or not (divisor.low > 0).all() or not (number.low >= 0).all():
        return None
    return Range(np.zeros_like(number.low), np.minimum(number.high, divisor.low - 1))


def _converted(eqn: Equation, operands: Sequence[Range]) -> Range | None:
    """Returns the bounds of a conversion, unless numbers that do not fit make it turn round."""
    (operand,) = operands
    low, high = (side.astype(eqn.params["new_dtype"]) for side in (operand.low, operand.high))
    return Range(low, high) if (low == operand.low).all() and (high == operand.high).all() else None


def _broadcast(params: Mapping[str, Any], operand: Array) -> Array:
    dims, shape = params["broadcast_dimensions"], params["shape"]
    expanded = operand.reshape([operand.shape[dims.index(axis)] if axis in dims else 1 for axis in range(len(shape))])
    return np.broadcast_to(expanded, shape)


def _iota(params: Mapping[str, Any]) -> Array:
    shape, axis = params["shape"], params["dimension"]
    line = np.arange(shape[axis], dtype=params["dtype"])
    return np.broadcast_to(line.reshape([-1 if each == axis else 1 for each in range(len(shape))]), shape)


def _slice(params: Mapping[str, Any], operand: Array) -> Array:
    strides = params["strides"] or (1,) * operand.ndim
    return operand[tuple(slice(*each) for each in zip(params["start_indices"], params["limit_indices"], strides, strict=True))]


def _gather(eqn: Equation, operand: Array, indices: Array) -> Array | None:
    window = windows.of_gather(eqn.params, operand.shape, exactly(indices), eqn.outvars[0].aval.ndim).limited()
    places, inside = window.places(next(window.candidates()))
    return operand.ravel()[places] if inside.all() else None  # what JAX puts for places outside depends on more than can be said here


def _scatter(eqn: Equation, operand: Array, indices: Array, updates: Array) -> Array | None:
    window = windows.of_scatter(eqn.params, operand.shape, exactly(indices), updates.shape).limited()
    places, inside = window.places(next(window.candidates()))
    result = operand.ravel().copy()
    result[places[inside]] = updates[inside]
    return result.reshape(operand.shape) if len(np.unique(places[inside])) == np.count_nonzero(inside) else None


def _divide(_: Mapping[str, Any], left: Array, right: Array) -> Array:
    """Returns a quotient; of integers rounded towards zero, and minus one for a division by zero, as in XLA."""
    if left.dtype.kind in "fc":
        return left / right
    down = np.floor_divide(left, np.where(right == 0, 1, right))
    return np.where(right == 0, -1, down + ((down * right != left) & (down < 0))).astype(left.dtype)


def _remain(_: Mapping[str, Any], left: Array, right: Array) -> Array:
    return np.fmod(left, right) if left.dtype.kind == "f" else np.where(right == 0, left, np.fmod(left, np.where(right == 0, 1, right)))


_WINDOWED: dict[str, Callable[..., Array | None]] = {"gather": _gather, "scatter": _scatter}
"""What can be computed by the same arithmetic of windows as footprints."""

_EXACT: dict[str, Callable[..., Any]] = {
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "reshape": lambda params, operand: (operand if params["dimensions"] is None else operand.transpose(params["dimensions"])).reshape(
        params["new_sizes"]
    ),
    "squeeze": lambda params, operand: np.squeeze(operand, params["dimensions"]),
    "transpose": lambda params, operand: np.transpose(operand, params["permutation"]),
    "rev": lambda params, operand: np.flip(operand, params["dimensions"]),
    "slice": _slice,
    "concatenate": lambda params, *operands: np.concatenate(operands, params["dimension"]),
    "copy": lambda params, operand: operand,
    "add": lambda _, left, right: left + right,
    "sub": lambda _, left, right: left - right,
    "mul": lambda _, left, right: left * right,
    "neg": lambda _, operand: -operand,
    "div": _divide,
    "rem": _remain,
    "and": lambda _, left, right: left & right,
    "or": lambda _, left, right: left | right,
    "not": lambda _, operand: ~operand,
    "abs": lambda _, operand: np.abs(operand),
    "floor": lambda _, operand: np.floor(operand),
    "sign": lambda _, operand: np.sign(operand),
    "clamp": lambda _, low, operand, high: np.minimum(np.maximum(operand, low), high),
    "max": lambda _, left, right: np.maximum(left, right),
    "min": lambda _, left, right: np.minimum(left, right),
    "lt": lambda _, left, right: left < right,
    "le": lambda _, left, right: left <= right,
    "gt": lambda _, left, right: left > right,
    "ge": lambda _, left, right: left >= right,
    "eq": lambda _, left, right: left == right,
    "ne": lambda _, left, right: left != right,
    "select_n": lambda _, which, *cases: np.choose(which.astype(np.intp), cases) if cases[0].ndim == which.ndim else cases[int(which)],
}
"""What NumPy computes as JAX does, without JAX's dispatch: the arithmetic of masks and indices. Elementwise operands have one shape."""

_MONOTONE = frozenset(
    [
        "iota",
        "broadcast_in_dim",
        "reshape",
        "squeeze",
        "transpose",
        "rev",
        "slice",
        "concatenate",
        "copy",
        "max",
        "min",
        "clamp",
        "reduce_max",
        "reduce_min",
    ]
)
"""Operations that do not fall where an operand rises."""

_BOUNDS: dict[str, Callable[[Equation, Sequence[Range]], Range | None]] = {
    "convert_element_type": _converted,
    "add": _sum,
    "sub": _difference,
    "lt": _comparison,
    "le": _comparison,
    "gt": _comparison,
    "ge": _comparison,
    "select_n": _choice,
    "rem": _remainder,
}

_POSITIONS: dict[str, Callable[[Equation, Sequence[Range | None]], list[Range | None]]] = {
    "argmax": _argument,
    "argmin": _argument,
    "top_k": _top_k,
    "sort": _sort,
}
"""Operations some of whose outputs are positions, bounded whatever the other operands are."""
