"""A derivative that has arrived, as a matrix to compare with products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from jacloom._layout import Layout
from jacloom._prepared import Arrays
from jacloom_graph.answer import Derivative, Part, Selection

_CHUNK = 1 << 22
"""Elements of a block that are converted at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Products:
    """A matrix times a vector, and what was added up for it."""

    values: np.ndarray
    sizes: np.ndarray
    """The sum of absolute values behind each entry: what it is rounded relative to."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix ``(m, n)`` in the pieces that it came in: blocks of leaves, or one sparse matrix."""

    rows: Layout
    columns: Layout
    pieces: tuple[tuple[slice, slice, Any], ...]
    """Rows, columns, and the two-dimensional array, dense or sparse, that is there."""

    def times(self, vector: np.ndarray) -> Products:
        """Returns ``D v``, shape ``(m,)``."""
        found, sizes = np.zeros(self.rows.size, np.result_type(self.rows.dtype, self.columns.dtype)), np.zeros(self.rows.size)
        for rows, columns, part in self._parts():
            found[rows] += part @ vector[columns]
            sizes[rows] += abs(part) @ np.abs(vector[columns])
        return Products(_real_where(self.rows, found), sizes)

    def times_from_left(self, covector: np.ndarray) -> Products:
        """Returns ``u D``, shape ``(n,)``."""
        found, sizes = np.zeros(self.columns.size, np.result_type(self.rows.dtype, self.columns.dtype)), np.zeros(self.columns.size)
        for rows, columns, part in self._parts():
            found[columns] += covector[rows] @ part
            sizes[columns] += np.abs(covector[rows]) @ abs(part)
        return Products(_real_where(self.columns, found), sizes)

    def _parts(self) -> Iterator[tuple[slice, slice, Any]]:
        """Yields the pieces, dense ones a few rows at a time and in the vectors' precision."""
        for rows, columns, piece in self.pieces:
            if not isinstance(piece, np.ndarray):
                yield rows, columns, piece
                continue
            height = max(1, _CHUNK // max(1, piece.shape[1]))
            for start in range(0, piece.shape[0], height):
                part = piece[start : start + height]
                wide = part.astype(np.complex128 if part.dtype.kind == "c" else np.float64, copy=False)
                yield slice(rows.start + start, rows.start + start + len(part)), columns, wide


def blocks(arrays: Arrays, derivative: Derivative, chosen: Selection, rows: Layout, columns: Layout, weights: np.ndarray | None = None) -> Blocks:
    """Returns the matrix that an answer is: a Jacobian or a gradient, or the Hessian of a scalar.

    Args:
        arrays: The answer.
        derivative: What it is of.
        chosen: The leaves that it is about.
        rows: Of the outputs, of a Hessian of the differentiated inputs.
        columns: Of the differentiated inputs.
        weights: Of the outputs, shape ``(m,)``, where a Hessian is of more than one scalar: of their sum, then.
    """
    if (Part.ENTRIES, 0, 0, 0) in arrays:
        return Blocks(rows, columns, ((slice(0, rows.size), slice(0, columns.size), arrays[Part.ENTRIES, 0, 0, 0]),))
    pieces = []
    for (at, above), (to, beside) in product(enumerate(rows.spans), enumerate(columns.spans)):
        match derivative:
            case Derivative.HESSIAN:
                array = _weighted([arrays[Part.HESSIAN, out, at, to] for out in chosen.outputs], chosen, weights)
            case Derivative.GRADIENT:
                array = arrays[Part.GRADIENT, 0, to, 0]
            case _:
                array = arrays[Part.JACOBIAN, chosen.outputs[at], to, 0]
        pieces.append((above, beside, array.reshape(above.stop - above.start, beside.stop - beside.start)))
    return Blocks(rows, columns, tuple(pieces))


def _weighted(found: list[np.ndarray], chosen: Selection, weights: np.ndarray | None) -> np.ndarray:
    if weights is None:
        return found[0]
    parts = np.split(weights, np.cumsum([type_.size for type_ in chosen.output_types])[:-1])
    return sum((part @ array.reshape(part.size, -1) for part, array in zip(parts, found, strict=True)), np.zeros(()))


def _real_where(layout: Layout, vector: np.ndarray) -> np.ndarray:
    """Returns a product as a pass gives it: real functions of complex inputs have real tangents, and the other way round."""
    return np.where(layout.real, vector.real, vector) if np.iscomplexobj(vector) else vector
