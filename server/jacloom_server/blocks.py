"""Blocks: what workers return, cut into rectangles of an answer's arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jacloom_graph.answer import Array, Selection
from jacloom_graph.tensor import DTYPES, itemsize, raw
from jacloom_server.plan import Mode
from jacloom_server.reply import Block
from jacloom_server.tiling import Tile, rectangles, segments


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


def of_passes(number: int, array: Array, first: int, entries: np.ndarray) -> Iterator[Block]:
    """Yields the blocks of a sparse derivative's entries that some passes yield, ``first`` being the place of the first of them."""
    yield from _matrix(number, array, entries[None, :], row=0, column=first)


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
