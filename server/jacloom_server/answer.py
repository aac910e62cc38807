"""What goes back: the arrays of an answer, and the rectangles that they are filled by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import Any

import numpy as np

from jacloom_graph.tensor import DTYPES, itemsize, nbytes, promote, raw
from jacloom_graph.types import Type
from jacloom_server.call import Derivative, Selection
from jacloom_server.strategy import Mode, Plan
from jacloom_server.tiling import Tile, rectangles, segments


class Part(Enum):
    """What an array of the answer is; the names are those of the wire."""

    VALUE = "VALUE"
    TANGENT = "TANGENT"
    COTANGENT = "COTANGENT"
    PRODUCT = "PRODUCT"
    GRADIENT = "GRADIENT"
    JACOBIAN = "JACOBIAN"
    HESSIAN = "HESSIAN"


@dataclass(frozen=True, slots=True)
class Array:
    """One array that the answer fills, seen as a matrix in C order."""

    part: Part
    type: Type
    rows: int
    columns: int
    output: int = 0
    """Output leaf."""
    input: int = 0
    """Position in the call's ``wrt``."""
    input2: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of an array."""

    array: int
    row: int
    rows: int
    column: int
    columns: int
    data: bytes | memoryview
    """Elements row by row, as on the wire; a view of shared memory where they lie so already."""


@dataclass(frozen=True, slots=True)
class Header:
    """Opens an answer."""

    function: str
    plan: Plan
    arrays: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call has come."""

    tiles_done: int
    tiles: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Closes an answer that is whole."""

    passes: int
    tiles: int
    retries: int
    workers: int
    seconds: dict[str, float]
    tile: int


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of the answer."""

    header: Header | None = None
    blocks: Sequence[Block] = ()
    progress: Progress | None = None
    summary: Summary | None = None


def arrays(derivative: Derivative, chosen: Selection) -> tuple[Array, ...]:
    """Returns the arrays of an answer, in the order in which ``protocol.Done`` lists them, values last (for Jacobians and Hessians: values first)."""
    values = [_row(Part.VALUE, type_, output=index) for index, type_ in zip(chosen.values, chosen.value_types, strict=True)]
    outputs = list(zip(chosen.outputs, chosen.output_types, strict=True))
    leaves = list(enumerate(chosen.wrt_types))
    match derivative:
        case Derivative.EVALUATE:
            return tuple(values)
        case Derivative.JVP:
            return (*(_row(Part.TANGENT, type_, output=index) for index, type_ in outputs), *values)
        case Derivative.VJP | Derivative.HVP | Derivative.GRADIENT:
            part = {Derivative.VJP: Part.COTANGENT, Derivative.HVP: Part.PRODUCT, Derivative.GRADIENT: Part.GRADIENT}[derivative]
            return (*(_row(part, type_, input=position) for position, type_ in leaves), *values)
        case Derivative.JACOBIAN:
            blocks = [
                Array(Part.JACOBIAN, Type(promote(out.dtype, leaf.dtype), out.shape + leaf.shape), out.size, leaf.size, output=index, input=position)
                for index, out in outputs
                for position, leaf in leaves
            ]
            return (*values, *blocks)
        case Derivative.HESSIAN:
            return (*values, *(_second(index, out, first, second) for (index, out), first, second in product(outputs, leaves, leaves)))


def total(found: Sequence[Array]) -> int:
    """Returns the bytes of an answer."""
    return sum(nbytes(array.type) for array in found)


def whole(number: int, array: Array, values: np.ndarray) -> Iterator[Block]:
    """Yields the blocks of an array that was computed in one piece. For keys, ``values`` is their raw data."""
    size = itemsize(array.type.dtype)
    data = raw(values)
    for cut in rectangles(array.rows, array.columns, size):
        yield Block(number, cut.row, cut.rows, cut.column, cut.columns, data[cut.column * size : (cut.column + cut.columns) * size])


def of_tile(found: Sequence[Array], first: int, mode: Mode | None, tile: Tile, chosen: Selection, results: Sequence[np.ndarray]) -> Iterator[Block]:
    """Yields the blocks that a tile contributes.

    Args:
        found: All arrays of the answer.
        first: Index of the first one that tiles fill.
        mode: How the Jacobian is computed; None for a Hessian.
        tile: The seeds.
        chosen: The call's leaves.
        results: As in ``protocol.Done``: [output], [leaf], or [output, leaf] for a Hessian.
    """
    leaves, outputs = [type_.size for type_ in chosen.wrt_types], [type_.size for type_ in chosen.output_types]
    if mode is Mode.REVERSE:
        for cut in segments(outputs, tile.start, tile.count):
            for position, rows in enumerate(results):  # rows: [count, leaf size]
                number = first + cut.leaf * len(leaves) + position
                yield from _matrix(number, found[number], rows[cut.at : cut.at + cut.count], row=cut.first, column=0)
        return
    for cut in segments(leaves, tile.start, tile.count):
        for position, columns in enumerate(results):  # columns: [rows, count], rows being an output's entries, or those of a whole Jacobian block
            number = first + position * len(leaves) + cut.leaf
            yield from _matrix(number, found[number], columns[:, cut.at : cut.at + cut.count], row=0, column=cut.first)


def _matrix(number: int, array: Array, values: np.ndarray, row: int, column: int) -> Iterator[Block]:
    """Yields a piece of an array's matrix, in its dtype, as blocks."""
    dtype = DTYPES[array.type.dtype]
    rows, columns = values.shape
    for cut in rectangles(rows, columns, dtype.itemsize):
        piece = values[cut.row : cut.row + cut.rows, cut.column : cut.column + cut.columns]
        yield Block(number, row + cut.row, cut.rows, column + cut.column, cut.columns, _bytes(piece, dtype))


def _bytes(piece: np.ndarray, dtype: np.dtype[Any]) -> bytes | memoryview:
    if piece.dtype != dtype:
        piece = piece.astype(dtype)
    # tobytes() walks a strided view as it copies; what lies in a row needs no copy at all.
    return raw(piece) if piece.flags.c_contiguous else piece.tobytes()


def _row(part: Part, type_: Type, output: int = 0, input: int = 0) -> Array:
    return Array(part, Type(type_.dtype, type_.shape), 1, type_.size, output=output, input=input)


def _second(index: int, out: Type, first: tuple[int, Type], second: tuple[int, Type]) -> Array:
    dtype = promote(out.dtype, first[1].dtype, second[1].dtype)
    shape = out.shape + first[1].shape + second[1].shape
    return Array(Part.HESSIAN, Type(dtype, shape), out.size * first[1].size, second[1].size, output=index, input=first[0], input2=second[0])
