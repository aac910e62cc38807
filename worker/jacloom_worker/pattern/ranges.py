"""Bounds of values that are not known before the program runs, or only in part: of indices, counters, masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Equation: TypeAlias = Any
"""A ``JaxprEqn`` on arrays; the types of JAX do not say that these have shapes."""


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of an array's elements, both included, each of the array's shape. Of a value that is known both are one and the same array."""

    low: Array
    high: Array

    @property
    def known(self) -> bool:
        """Whether the value is known."""
        return self.low is self.high


Finder: TypeAlias = Callable[[], Range | None]
"""Finds what is known of a value, when somebody asks."""


def exactly(value: Any) -> Range:
    """Returns the bounds of a value that is known: an array of NumPy or JAX."""
    array = np.asarray(value)
    return Range(array, array)


def unknown() -> None:
    """Finds nothing."""


def anything(aval: Any) -> Range:
    """Returns the bounds that integers or booleans of some shape and dtype have by their dtype."""
    low, high = (0, 1) if aval.dtype == bool else (np.iinfo(aval.dtype).min, np.iinfo(aval.dtype).max)
    return Range(np.full(aval.shape, low, aval.dtype), np.full(aval.shape, high, aval.dtype))
