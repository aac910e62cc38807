"""Blocks land where they belong, in any order, and nothing incomplete is returned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from jacloom import ProtocolError
from jacloom._assemble import Assembly
from jacloom._query import query
from jacloom_graph.answer import Array, Derivative, Part
from jacloom_graph.types import Type

MATRIX = Type("float64", (2, 2, 3))
HEADER = [Array(Part.JACOBIAN, MATRIX, 4, 3), Array(Part.VALUE, Type("int32"), 1, 1, output=1)]
EXPECTED = {array.key: array for array in HEADER}
VALUES = np.arange(12.0).reshape(4, 3)


@dataclass
class Block:
    array: int
    row: int
    rows: int
    column: int
    columns: int
    data: bytes

    @staticmethod
    def of(row: slice, column: slice) -> Block:
        part = VALUES[row, column]
        return Block(0, row.start, part.shape[0], column.start, part.shape[1], part.tobytes())


SCALAR = Block(1, 0, 1, 0, 1, np.int32(7).tobytes())
COLUMNS = [Block.of(slice(0, 4), slice(1, 3)), Block.of(slice(0, 4), slice(0, 1))]
ROWS = [Block.of(slice(2, 4), slice(0, 3)), Block.of(slice(0, 2), slice(0, 3))]


@pytest.mark.parametrize("blocks", [COLUMNS, ROWS], ids=["columns", "rows"])
def test_blocks_in_any_order(blocks: list[Block]) -> None:
    assembly = Assembly(EXPECTED)
    assembly.begin(HEADER)
    for block in (SCALAR, *blocks):
        assembly.place(block)
    arrays = assembly.finish()
    matrix, scalar = arrays[Part.JACOBIAN, 0, 0, 0], arrays[Part.VALUE, 1, 0, 0]
    np.testing.assert_array_equal(matrix, VALUES.reshape(2, 2, 3))
    assert (scalar.shape, scalar.dtype, scalar[()]) == ((), np.int32, 7)
    assert all(array.flags.writeable and array.flags.owndata for array in arrays.values())


def test_keys_have_further_axes() -> None:
    keys = Array(Part.VALUE, Type("key<threefry2x32>", (3,)), 1, 3)
    assembly = Assembly({keys.key: keys})
    assembly.begin([keys])
    raw = np.arange(6, dtype=np.uint32)
    assembly.place(Block(0, 0, 1, 0, 2, raw[:4].tobytes()))
    assembly.place(Block(0, 0, 1, 2, 1, raw[4:].tobytes()))
    np.testing.assert_array_equal(assembly.finish()[Part.VALUE, 0, 0, 0], raw.reshape(3, 2))


def test_empty_arrays_need_no_blocks() -> None:
    empty = Array(Part.JACOBIAN, Type("float32", (2, 0)), 2, 0)
    assembly = Assembly({empty.key: empty})
    assembly.begin([empty])
    assert assembly.finish()[Part.JACOBIAN, 0, 0, 0].shape == (2, 0)


def test_missing_and_surplus_elements() -> None:
    for blocks in ([SCALAR, COLUMNS[0]], [SCALAR, *COLUMNS, COLUMNS[1]], [SCALAR, COLUMNS[1], COLUMNS[1], COLUMNS[1]], COLUMNS):
        assembly = Assembly(EXPECTED)
        assembly.begin(HEADER)
        for block in blocks:
            assembly.place(block)
        with pytest.raises(ProtocolError, match="missing or came twice"):
            assembly.finish()
    with pytest.raises(ProtocolError, match="without its header"):
        Assembly(EXPECTED).finish()


@pytest.mark.parametrize(
    "block",
    [
        Block(2, 0, 1, 0, 1, b""),
        Block(0, 3, 2, 0, 1, bytes(16)),
        Block(0, 0, 1, 2, 2, bytes(16)),
        Block(0, 0, 1, 0, 1, bytes(4)),
        Block(0, 0, 1, 0, 1, bytes(16)),
        Block(0, 0, 0, 0, 1, b""),
    ],
    ids=["array", "rows", "columns", "too short", "too long", "empty"],
)
def test_blocks_that_do_not_fit(block: Block) -> None:
    assembly = Assembly(EXPECTED)
    assembly.begin(HEADER)
    with pytest.raises(ProtocolError, match="block"):
        assembly.place(block)


@pytest.mark.parametrize(
    "header",
    [
        HEADER[:1],
        [*HEADER, HEADER[0]],
        [replace(HEADER[0], columns=4), HEADER[1]],
        [replace(HEADER[0], rows=3, columns=4), HEADER[1]],
        [replace(HEADER[0], type=Type("float32", (2, 2, 3))), HEADER[1]],
        [replace(HEADER[0], type=Type("float64", (2, 3, 2))), HEADER[1]],
        [replace(HEADER[0], part=Part.HESSIAN), HEADER[1]],
    ],
    ids=["too few", "twice", "size", "layout", "dtype", "shape", "another part"],
)
def test_headers_that_were_not_asked_for(header: list[Array]) -> None:
    with pytest.raises(ProtocolError, match="asked for"):
        Assembly(EXPECTED).begin(header)


def test_queries_say_what_to_expect() -> None:
    inputs, outputs = (Type("float32", (2,)), Type("float64", (0,)), Type("int8")), (Type("float32", (3, 1)), Type("bool"))
    asked = query(Derivative.JACOBIAN, inputs, outputs, wrt=(1, 0), outputs=(0,), values=(1,))
    assert {key: array.type for key, array in asked.expected.items()} == {
        (Part.VALUE, 1, 0, 0): Type("bool"),
        (Part.JACOBIAN, 0, 0, 0): Type("float64", (3, 1, 0)),
        (Part.JACOBIAN, 0, 1, 0): Type("float32", (3, 1, 2)),
    }
    hessian = query(Derivative.HESSIAN, inputs, outputs, wrt=(0, 1), outputs=(0,))
    assert hessian.expected[Part.HESSIAN, 0, 1, 0].type == Type("float64", (3, 1, 0, 2))
    assert len(hessian.expected) == 4


def test_an_answer_in_another_form_than_expected() -> None:
    entries = Array(Part.ENTRIES, Type("float64", (3,)), 1, 3)
    instead = {array.key: array for array in (entries, HEADER[1])}
    assembly = Assembly(EXPECTED)
    assembly.begin([HEADER[1], entries], instead)
    assembly.place(Block(0, 0, 1, 0, 1, SCALAR.data))
    assembly.place(Block(1, 0, 1, 2, 1, np.float64(3).tobytes()))
    with pytest.raises(ProtocolError, match="missing or came twice"):
        assembly.finish()
    assembly.place(Block(1, 0, 1, 0, 2, np.array([1.0, 2.0]).tobytes()))
    assert assembly.finish()[entries.key].tolist() == [1, 2, 3]
    with pytest.raises(ProtocolError, match="not asked for"):
        Assembly(EXPECTED).begin(HEADER, instead)
    with pytest.raises(ProtocolError, match="the answer has 1 arrays, 2 were asked for"):
        Assembly(EXPECTED).begin([entries], instead)
