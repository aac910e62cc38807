"""A concrete value together with what is known of it: its derivative along one direction, and where what is not finite in either comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from jacloom_worker.origins import Origins, is_key, merged, of_part


@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """A value with what is known of it."""

    value: Any
    tangent: Any = None
    """Derivative along the direction; None where it is zero by the structure of the function, which is not the same as a zero that was computed."""
    origins: Origins = field(default_factory=dict)
    """Of what is not finite in ``value``."""
    slopes: Origins = field(default_factory=dict)
    """Of what is not finite in ``tangent``."""


def local(array: Watched) -> Watched:
    """Returns an array where slices of it cost nothing."""
    if is_key(array.value):
        return array
    return replace(array, value=np.asarray(array.value), tangent=None if array.tangent is None else np.asarray(array.tangent))


def part(array: Watched, at: int) -> Watched:
    """Returns one slice along the first axis, with the origins of what is left in it."""
    value = array.value[at]
    tangent = None if array.tangent is None else array.tangent[at]
    return Watched(value, tangent, of_part(array.origins, value), of_part(array.slopes, tangent))


def stack(parts: Sequence[Watched]) -> Watched:
    """Returns slices, at least one, put together along a new first axis."""
    values = [each.value for each in parts]
    tangents: Any = None
    if any(each.tangent is not None for each in parts):
        tangents = np.stack([np.zeros_like(each.value) if each.tangent is None else np.asarray(each.tangent) for each in parts])
    stacked = jnp.stack(values) if is_key(values[0]) else np.stack([np.asarray(value) for value in values])
    return Watched(stacked, tangents, merged(each.origins for each in parts), merged(each.slopes for each in parts))
