"""What workers return becomes blocks that fill the arrays of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from jacloom_graph import answer
from jacloom_graph.answer import Array, Derivative, Part, Selection
from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Type
from jacloom_server.blocks import of_tile, whole
from jacloom_server.plan import Mode
from jacloom_server.reply import Block
from jacloom_server.tiling import Tile

F64, F32 = "float64", "float32"
CHOSEN = Selection(
    wrt=(4, 1),
    outputs=(2, 0),
    values=(1,),
    wrt_types=(Type(F64, (2, 3)), Type(F32)),
    output_types=(Type(F32, (4,)), Type(F64, (1, 2))),
    value_types=(Type("int32", (2,)),),
)


def fill(arrays: Sequence[Array], blocks: Iterable[Block]) -> list[np.ndarray]:
    made = [np.full((array.rows, array.columns), 99, DTYPES[array.type.dtype]) for array in arrays]
    for block in blocks:
        values = np.frombuffer(block.data, made[block.array].dtype).reshape(block.rows, block.columns)
        made[block.array][block.row : block.row + block.rows, block.column : block.column + block.columns] = values
    return made


@pytest.mark.parametrize("width", [1, 2, 3, 7, 20])
def test_columns_and_rows_fill_the_same_arrays(width: int) -> None:
    arrays = answer.arrays(Derivative.JACOBIAN, CHOSEN)
    rng = np.random.default_rng(0)
    # float32 throughout, so that both modes can carry it: [output][leaf]
    matrix = rng.standard_normal((6, 7)).astype(F32)
    columns, rows = [], []
    for start in range(0, 7, width):
        tile = Tile(start, min(width, 7 - start), width)
        part = matrix[:, start : start + tile.count]
        results = [np.ascontiguousarray(part[:4]), part[4:].astype(F64)]
        columns += of_tile(arrays, 1, Mode.FORWARD, tile, CHOSEN, results)
    for start in range(0, 6, width):
        tile = Tile(start, min(width, 6 - start), width)
        part = matrix[start : start + tile.count]
        results = [part[:, :6].astype(F64), np.ascontiguousarray(part[:, 6:])]
        rows += of_tile(arrays, 1, Mode.REVERSE, tile, CHOSEN, results)
    expected = [matrix[:4, :6], matrix[:4, 6:], matrix[4:, :6], matrix[4:, 6:]]
    for made in (fill(arrays, columns), fill(arrays, rows)):
        for got, wanted in zip(made[1:], expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_large_array_comes_in_pieces_that_are_views() -> None:
    array = Array(Part.TANGENT, Type(F64, (300_000,)), 1, 300_000)
    values = np.arange(300_000.0)
    blocks = list(whole(0, array, values))
    assert [block.columns for block in blocks] == [131_072, 131_072, 37_856]
    assert all(isinstance(block.data, memoryview) for block in blocks)
    np.testing.assert_array_equal(fill([array], blocks)[0][0], values)


def test_keys_are_cut_by_whole_keys() -> None:
    array = Array(Part.VALUE, Type("key<threefry2x32>", (2,)), 1, 2)
    (block,) = whole(0, array, np.array([[1, 2], [3, 4]], np.uint32))
    assert (block.columns, bytes(block.data)) == (2, np.array([1, 2, 3, 4], np.uint32).tobytes())
