"""What can be asked about a function, and the arrays that answer it: client and server work them out by the same rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, IntEnum
from itertools import product
from typing import assert_never

import numpy as np

from jacloom_graph.tensor import nbytes, promote
from jacloom_graph.types import Type


class Derivative(Enum):
    """What can be asked for; each value is the name of the remote method."""

    EVALUATE = "Evaluate"
    JVP = "Jvp"
    VJP = "Vjp"
    HVP = "Hvp"
    GRADIENT = "Gradient"
    JACOBIAN = "Jacobian"
    HESSIAN = "Hessian"


class Part(IntEnum):
    """What an array of an answer is; the values are those of the wire."""

    VALUE = 1
    TANGENT = 2
    COTANGENT = 3
    PRODUCT = 4
    GRADIENT = 5
    JACOBIAN = 6
    HESSIAN = 7
    ENTRIES = 8
    POINTERS = 9
    INDICES = 10
    SOURCES = 11
    BOUNDS = 12


@dataclass(frozen=True, slots=True)
class Selection:
    """The leaves that a question is about."""

    wrt: tuple[int, ...]
    """Input leaves that are differentiated."""
    outputs: tuple[int, ...]
    """Output leaves that are differentiated."""
    values: tuple[int, ...]
    """Output leaves whose values are wanted too."""
    wrt_types: tuple[Type, ...]
    output_types: tuple[Type, ...]
    value_types: tuple[Type, ...]
    summed: tuple[int, ...] = ()
    """Output leaves whose weighted sum is differentiated: it stands in ``outputs`` as the one leaf 0."""
    weight_types: tuple[Type, ...] = ()
    """Types of the weights, those of the leaves summed."""

    @property
    def named(self) -> tuple[int, ...]:
        """The function's own output leaves that are differentiated, or summed first."""
        return self.summed or self.outputs

    def weighted(self) -> Selection:
        """Returns the question about the weighted sum of these outputs in their place."""
        total = Type(promote(*(type_.dtype for type_ in self.output_types)))
        return replace(self, outputs=(0,), output_types=(total,), summed=self.outputs, weight_types=self.output_types)


ArrayKey = tuple[int, int, int, int]
"""Names an array of an answer: part, output leaf, and two positions in ``wrt``; a number without meaning for the part is 0."""


@dataclass(frozen=True, slots=True)
class Array:
    """One array that an answer fills, seen as a matrix in C order."""

    part: Part
    type: Type
    rows: int
    columns: int
    output: int = 0
    """Output leaf."""
    input: int = 0
    """Position in ``wrt``."""
    input2: int = 0

    @property
    def key(self) -> ArrayKey:
        """The array's name within its answer."""
        return self.part, self.output, self.input, self.input2


def arrays(derivative: Derivative, chosen: Selection, batch: int = 0) -> tuple[Array, ...]:
    """Returns the arrays of an answer, in order: values last, but first for what tiles fill (Jacobians, Hessians and batches of products).

    Args:
        derivative: What is asked for.
        chosen: The leaves it is about.
        batch: Of a product with the derivative, the number of seeds: its arrays then have a further first axis. 0: one seed, without that axis.
    """
    values = [_row(Part.VALUE, type_, output=leaf) for leaf, type_ in zip(chosen.values, chosen.value_types, strict=True)]
    outputs = list(zip(chosen.outputs, chosen.output_types, strict=True))
    inputs = list(enumerate(chosen.wrt_types))
    match derivative:
        case Derivative.EVALUATE:
            return tuple(values)
        case Derivative.JVP | Derivative.VJP | Derivative.HVP:
            if derivative is Derivative.JVP:
                single = [_row(Part.TANGENT, type_, output=leaf) for leaf, type_ in outputs]
            else:
                part = Part.COTANGENT if derivative is Derivative.VJP else Part.PRODUCT
                single = [_row(part, type_, input=at) for at, type_ in inputs]
            return (*values, *(_repeated(array, batch) for array in single)) if batch else (*single, *values)
        case Derivative.GRADIENT:
            return (*(_row(Part.GRADIENT, type_, input=at) for at, type_ in inputs), *values)
        case Derivative.JACOBIAN:
            blocks = (
                Array(Part.JACOBIAN, block(of, leaf), of.size, leaf.size, output=output, input=at)
                for (output, of), (at, leaf) in product(outputs, inputs)
            )
            return (*values, *blocks)
        case Derivative.HESSIAN:
            seconds = (
                Array(Part.HESSIAN, block(of, first, second), of.size * first.size, second.size, output=output, input=at, input2=to)
                for (output, of), (at, first), (to, second) in product(outputs, inputs, inputs)
            )
            return (*values, *seconds)
        case _:
            assert_never(derivative)


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of a sparse derivative: a matrix whose rows are the entries of all outputs, its columns those of all wrt leaves."""

    rows: int
    columns: int
    nonzeros: int
    """Entries that the pattern has."""
    computed: int
    """Entries that are computed and sent; fewer than ``nonzeros`` of a symmetric matrix."""
    passes: int


def sparse_arrays(derivative: Derivative, chosen: Selection, sizes: Sizes, *, structured: bool) -> tuple[Array, ...]:
    """Returns the arrays of a sparse answer: values, the structure if that is sent too, and the entries, which tiles fill.

    Args:
        derivative: A Jacobian or a Hessian.
        chosen: The leaves it is about.
        sizes: Of the matrix.
        structured: Whether the structure is sent.
    """
    values = [_row(Part.VALUE, type_, output=leaf) for leaf, type_ in zip(chosen.values, chosen.value_types, strict=True)]
    index = "int32" if max(sizes.rows, sizes.columns, sizes.nonzeros) < 1 << 31 else "int64"
    structure = [
        _row(Part.POINTERS, Type(index, (sizes.rows + 1,))),
        _row(Part.INDICES, Type(index, (sizes.nonzeros,))),
        _row(Part.SOURCES, Type(index, (sizes.nonzeros,))),
        _row(Part.BOUNDS, Type("int64", (sizes.passes + 1,))),
    ]
    entries = Type(entries_dtype(chosen), (sizes.computed,))
    return (*values, *(structure if structured else ()), _row(Part.ENTRIES, entries))


def entries_dtype(chosen: Selection) -> str:
    """Returns the dtype of a sparse derivative's entries: that which holds those of all its blocks."""
    return promote(*(type_.dtype for type_ in (*chosen.output_types, *chosen.wrt_types)))


def matrix_shape(derivative: Derivative, chosen: Selection) -> tuple[int, int]:
    """Returns rows and columns of a Jacobian as one matrix, or of the Hessian of a scalar."""
    columns = sum(type_.size for type_ in chosen.wrt_types)
    return (columns if derivative is Derivative.HESSIAN else sum(type_.size for type_ in chosen.output_types)), columns


def total_bytes(found: Sequence[Array]) -> int:
    """Returns the bytes of an answer."""
    return sum(nbytes(array.type) for array in found)


def block(*types: Type) -> Type:
    """Returns the type of a derivative of the first leaf by the others: their shapes one after the other, the dtype that holds all."""
    return Type(promote(*(type_.dtype for type_ in types)), tuple(extent for type_ in types for extent in type_.shape))


def _row(part: Part, type_: Type, output: int = 0, input: int = 0) -> Array:
    return Array(part, Type(type_.dtype, type_.shape), 1, type_.size, output=output, input=input)


def batched(type_: Type, batch: int) -> Type:
    """Returns the type of several arrays of one type along a further first axis; of one without that axis if ``batch`` is 0."""
    return Type(type_.dtype, (batch, *type_.shape)) if batch else type_


def _repeated(array: Array, batch: int) -> Array:
    return replace(array, type=batched(array.type, batch), rows=batch)


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Rows and columns of a matrix."""

    row: int
    rows: int
    column: int
    columns: int


def covered_once(rows: int, columns: int, rectangles: Sequence[Rectangle]) -> bool:
    """Returns whether rectangles within a matrix, none of them empty, cover each of its elements exactly once.

    Their edges cut the matrix into cells that lie in a rectangle as a whole or not at all, so it is enough to count in how many each cell lies.
    """
    if sum(one.rows * one.columns for one in rectangles) != rows * columns:
        return False
    if len(rectangles) <= 1:
        return True
    tops = np.unique([edge for one in rectangles for edge in (one.row, one.row + one.rows)])
    lefts = np.unique([edge for one in rectangles for edge in (one.column, one.column + one.columns)])
    counts = np.zeros((len(tops) - 1, len(lefts) - 1), np.int32)
    for one in rectangles:
        top, bottom = np.searchsorted(tops, (one.row, one.row + one.rows))
        left, right = np.searchsorted(lefts, (one.column, one.column + one.columns))
        counts[top:bottom, left:right] += 1
    # Of the right area and nowhere twice: then everywhere once.
    return bool((counts <= 1).all())
