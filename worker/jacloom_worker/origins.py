"""Where numbers that are not finite come from: each value carries the origins of what it holds, and a node's results inherit those of its operands.

So what a ``where`` or an ``exp`` made harmless is forgotten by itself, and what reaches an output is known there together with its origin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

import jax
import numpy as np

from jacloom_worker.protocol import NonFinite


class Sort(Enum):
    """Numbers that are not finite. The two infinities are told apart, so that a mask of -inf is not blamed for an overflow."""

    NAN = "nan"
    PLUS = "inf"
    MINUS = "-inf"

    @property
    def kind(self) -> Literal["nan", "inf"]:
        """The name in answers."""
        return "nan" if self is Sort.NAN else "inf"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one sort of number first came up."""

    order: int
    """Nodes that had been evaluated before it came in; inputs come before all nodes."""
    finding: NonFinite


Origins = Mapping[Sort, Origin]
"""The origin of each sort of number that an array has."""

NONE: Origins = MappingProxyType({})
_OPPOSITE = {Sort.PLUS: Sort.MINUS, Sort.MINUS: Sort.PLUS}


def is_key(value: Any) -> bool:
    """Returns whether a value is an array of random keys, which NumPy cannot read."""
    return bool(jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key))


def census(value: Any) -> dict[Sort, int]:
    """Returns how many entries of an array are not finite, by sort, without the sorts that it has not. Complex entries count by their parts."""
    array = _numbers(value)
    if array is None or np.isfinite(array).all():
        return {}
    nan = np.isnan(array)
    if np.iscomplexobj(array):
        plus, minus = (np.isposinf(array.real) | np.isposinf(array.imag)) & ~nan, (np.isneginf(array.real) | np.isneginf(array.imag)) & ~nan
    else:
        plus, minus = np.isposinf(array), np.isneginf(array)
    counts = {Sort.NAN: int(nan.sum()), Sort.PLUS: int(plus.sum()), Sort.MINUS: int(minus.sum())}
    return {sort: count for sort, count in counts.items() if count}


def amount(found: Mapping[Sort, int], sort: Sort) -> int:
    """Returns how many entries of a census are NaN, or are infinite, whichever a sort is."""
    return sum(count for other, count in found.items() if other.kind == sort.kind)


def extent(value: Any) -> tuple[float, float] | None:
    """Returns the least and the greatest finite entry of an array, of complex numbers by absolute value; None if it has none."""
    if is_key(value) or value.dtype == np.bool_:
        return None
    array = _numbers(value)
    if array is None:
        array = np.asarray(value).astype(np.float64)
    array = np.abs(array) if np.iscomplexobj(array) else array
    finite = array[np.isfinite(array)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def inherited(found: Mapping[Sort, int], sources: Iterable[Origins], begun: Callable[[Sort, NonFinite | None], Origin]) -> Origins:
    """Returns the origins of what a result holds: those of what it was made of, else the node itself.

    A NaN comes from a NaN, and an Inf from an Inf. A NaN made of an Inf begins at the node, with the Inf's origin as its cause.

    Args:
        found: What the result holds, from ``census``.
        sources: The origins of what the node's operands hold.
        begun: Makes the origin of what begins at the node, given its sort and its cause.
    """
    if not found:
        return NONE
    known = list(sources)

    def earliest(*sorts: Sort) -> Origin | None:
        for sort in sorts:
            origins = [source[sort] for source in known if sort in source]
            if origins:
                return min(origins, key=lambda origin: origin.order)
        return None

    result = {}
    for sort in found:
        origin = earliest(sort)
        opposite = _OPPOSITE.get(sort)
        if origin is None and opposite is not None and opposite not in found:
            # An infinity changes its sign easily. One that is still there has not, so this one is another.
            origin = earliest(opposite)
        if origin is None:
            cause = earliest(Sort.PLUS, Sort.MINUS) if sort is Sort.NAN else None
            origin = begun(sort, cause.finding if cause is not None else None)
        result[sort] = origin
    return result


def merged(parts: Iterable[Origins]) -> Origins:
    """Returns the origins of an array put together of parts."""
    found: dict[Sort, Origin] = {}
    for part in parts:
        for sort, origin in part.items():
            if sort not in found or origin.order < found[sort].order:
                found[sort] = origin
    return found


def of_part(origins: Origins, part: Any) -> Origins:
    """Returns those origins of an array that concern a part of it."""
    return {sort: origins[sort] for sort in census(part) if sort in origins} if origins else NONE


def chosen(outputs: Iterable[Origins]) -> NonFinite | None:
    """Returns the origin to report for some outputs: the earliest NaN, else the earliest Inf, None if all are finite."""
    found = merged(outputs)
    for sorts in ((Sort.NAN,), (Sort.PLUS, Sort.MINUS)):
        origins = [found[sort] for sort in sorts if sort in found]
        if origins:
            return min(origins, key=lambda origin: origin.order).finding
    return None


def _numbers(value: Any) -> np.ndarray | None:
    """Returns an array of inexact numbers in a dtype that NumPy knows all about; None for other arrays."""
    if is_key(value) or not jax.dtypes.issubdtype(value.dtype, np.inexact):
        return None
    array = np.asarray(value)
    # bfloat16 and the float8 types are extensions, and not all of NumPy's functions take them.
    return array if array.dtype.kind in "fc" else array.astype(np.float32)
