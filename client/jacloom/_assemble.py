"""Blocks of an answer, put where they belong in arrays that are made once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from jacloom._errors import ProtocolError
from jacloom_graph import tensor
from jacloom_graph.answer import Array, ArrayKey, Rectangle, covered_once


class DescribedType(Protocol):
    """A type as the header of an answer describes it."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> Sequence[int]: ...


class Described(Protocol):
    """An array as the header of an answer describes it."""

    @property
    def part(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def input(self) -> int: ...
    @property
    def input2(self) -> int: ...
    @property
    def type(self) -> DescribedType: ...
    @property
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...


class Block(Protocol):
    """A rectangle of one array's matrix, with its elements."""

    @property
    def array(self) -> int: ...
    @property
    def row(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def column(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def data(self) -> bytes: ...


class Assembly:
    """The arrays of an answer while it arrives. What it returns in the end is complete: every element was received, and once."""

    def __init__(self, expected: Mapping[ArrayKey, Array]) -> None:
        """Prepares for the arrays that the answer has to have."""
        self._expected = expected
        self._arrays: dict[ArrayKey, np.ndarray] = {}
        self._matrices: list[np.ndarray] = []
        self._received: list[list[Rectangle]] = []

    def begin(self, described: Iterable[Described], instead: Mapping[ArrayKey, Array] | None = None) -> None:
        """Allocates the arrays.

        Args:
            described: The arrays that the answer has.
            instead: Those that it has to have, in place of what was expected: for an answer that the service chose to give in another form.

        Raises:
            ProtocolError: if they are not those expected.
            MemoryError: if this process cannot allocate them.
        """
        self._expected = self._expected if instead is None else instead
        for item in described:
            key = (item.part, item.output, item.input, item.input2)
            array = self._expected.get(key)
            if array is None or key in self._arrays or not _same(array, item):
                raise ProtocolError(f"the answer has an array that was not asked for (part {key[0]}, output {key[1]}, inputs {key[2:]})")
            dtype, shape = tensor.storage(array.type)
            made = np.empty(shape, dtype)
            self._arrays[key] = made
            # Random keys have further axes, which belong to one element.
            self._matrices.append(made.reshape(array.rows, array.columns, *shape[len(array.type.shape) :]))
            self._received.append([])
        if len(self._arrays) != len(self._expected):
            raise ProtocolError(f"the answer has {len(self._arrays)} arrays, {len(self._expected)} were asked for")

    def place(self, block: Block) -> None:
        """Writes one block into its array.

        Raises:
            ProtocolError: if it does not fit there.
        """
        row, rows, column, columns = block.row, block.rows, block.column, block.columns
        if block.array >= len(self._matrices):
            raise ProtocolError("the answer has a block for an array that its header does not have")
        matrix = self._matrices[block.array]
        data = block.data
        inside = rows and columns and row + rows <= matrix.shape[0] and column + columns <= matrix.shape[1]
        if not inside or len(data) != rows * columns * (matrix.nbytes // (matrix.shape[0] * matrix.shape[1])):
            raise ProtocolError("the answer has a block that lies outside its array, or not the bytes that its size needs")
        matrix[row : row + rows, column : column + columns] = np.frombuffer(data, matrix.dtype).reshape(rows, columns, *matrix.shape[2:])
        self._received[block.array].append(Rectangle(row, rows, column, columns))

    def finish(self) -> dict[ArrayKey, np.ndarray]:
        """Returns the arrays by their keys.

        Raises:
            ProtocolError: if elements are missing, or came twice.
        """
        if len(self._arrays) != len(self._expected):
            raise ProtocolError("the answer ended without its header")
        for matrix, received in zip(self._matrices, self._received, strict=True):
            if not covered_once(matrix.shape[0], matrix.shape[1], received):
                raise ProtocolError("the answer ended with elements that are missing or came twice; it is not used")
        return self._arrays


def _same(array: Array, described: Described) -> bool:
    type_ = described.type
    return (array.type.dtype, array.type.shape, array.rows, array.columns) == (type_.dtype, tuple(type_.shape), described.rows, described.columns)
