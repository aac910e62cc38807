"""Leaves one after the other as one vector, as the rows and columns of a Jacobian count them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise

import ml_dtypes
import numpy as np

from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Type


@dataclass(frozen=True, eq=False)
class Layout:
    """Leaves with derivatives, their entries numbered through in C order. Vectors of them are float64, or complex128 where a leaf is complex."""

    types: tuple[Type, ...]
    paths: tuple[str, ...]
    """How each leaf is reached, such as ``args[0]['w']``."""

    @cached_property
    def size(self) -> int:
        """Entries of all leaves."""
        return sum(type_.size for type_ in self.types)

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """For each leaf its entries."""
        ends = np.cumsum([0, *(type_.size for type_ in self.types)]).tolist()
        return tuple(slice(start, stop) for start, stop in pairwise(ends))

    @cached_property
    def dtype(self) -> np.dtype:
        """Of vectors."""
        return np.dtype(np.complex128 if any(type_.dtype.startswith("complex") for type_ in self.types) else np.float64)

    @cached_property
    def real(self) -> np.ndarray:
        """Which entries belong to real leaves: bool, shape ``(size,)``."""
        return self.spread([not type_.dtype.startswith("complex") for type_ in self.types], bool)

    @cached_property
    def epsilon(self) -> float:
        """Distance from 1 to the next number, of the coarsest dtype; 0 without leaves."""
        return max((_epsilon(type_.dtype) for type_ in self.types), default=0.0)

    def spread(self, values: Sequence[float], dtype: type = float) -> np.ndarray:
        """Returns a vector that has for every entry the value of its leaf."""
        return np.repeat(np.asarray(values, dtype), [type_.size for type_ in self.types])

    def join(self, leaves: Sequence[np.ndarray]) -> np.ndarray:
        """Returns leaves as one vector, shape ``(size,)``."""
        found = np.zeros(self.size, self.dtype)
        for span, leaf in zip(self.spans, leaves, strict=True):
            found[span] = np.asarray(leaf).reshape(-1)
        return found

    def split(self, vector: np.ndarray) -> list[np.ndarray]:
        """Returns the leaves that a vector has, in their own dtypes. Real leaves take real parts."""
        leaves = []
        for span, type_ in zip(self.spans, self.types, strict=True):
            part = vector[span] if type_.dtype.startswith("complex") else vector[span].real
            leaves.append(part.astype(DTYPES[type_.dtype]).reshape(type_.shape))
        return leaves

    def rounded(self, vector: np.ndarray) -> np.ndarray:
        """Returns the vector that arrives where this one is sent: rounded to the leaves' dtypes, without imaginary parts of real ones."""
        return self.join(self.split(vector))

    def place(self, entry: int) -> str:
        """Returns an entry in the user's words, such as ``args[0]['w'][1, 2]``."""
        for span, type_, path in zip(self.spans, self.types, self.paths, strict=True):
            if span.start <= entry < span.stop:
                index = np.unravel_index(entry - span.start, type_.shape)
                return f"{path}[{', '.join(map(str, index))}]" if type_.shape else path
        raise IndexError(entry)

    def magnitudes(self, vector: np.ndarray) -> np.ndarray:
        """Returns for every entry the root mean square of its leaf, over what is finite in it."""
        found = []
        for span in self.spans:
            part = np.abs(vector[span])
            part = part[np.isfinite(part)]
            most = part.max(initial=0.0)
            found.append(most * float(np.sqrt(np.mean((part / most) ** 2))) if most > 0 else 0.0)
        return self.spread(found)


@cache
def _epsilon(dtype: str) -> float:
    return float(ml_dtypes.finfo(DTYPES[dtype]).eps)  # type: ignore[no-untyped-call]
