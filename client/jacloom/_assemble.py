"""Blocks of an answer, put where they belong in arrays that are made once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np

from jacloom._errors import ProtocolError
from jacloom._query import ArrayKey
from jacloom_graph import tensor
from jacloom_graph.types import Type


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
    def rows(self) -> int: ...
    @property
    def columns(self) -> int: ...


class Rectangle(Protocol):
    """A block: a rectangle of one array's matrix, with its elements."""

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
    """The arrays of an answer while it arrives. What it returns in the end is complete: every element was received."""

    def __init__(self, expected: Mapping[ArrayKey, Type]) -> None:
        """Prepares for the arrays that the answer has to have."""
        self._expected = expected
        self._arrays: dict[ArrayKey, np.ndarray] = {}
        self._matrices: list[np.ndarray] = []
        self._missing: list[int] = []

    def begin(self, described: Iterable[Described]) -> None:
        """Allocates the arrays.

        Raises:
            ProtocolError: if they are not those expected.
        """
        for item in described:
            key = (item.part, item.output, item.input, item.input2)
            type_ = self._expected.get(key)
            if type_ is None or key in self._arrays or item.rows * item.columns != type_.size:
                raise ProtocolError(f"the answer has an array that was not asked for (part {key[0]}, output {key[1]}, inputs {key[2:]})")
            dtype, shape = tensor.storage(type_)
            array = np.empty(shape, dtype)
            self._arrays[key] = array
            # Random keys have further axes, which belong to one element.
            self._matrices.append(array.reshape(item.rows, item.columns, *shape[len(type_.shape) :]))
            self._missing.append(type_.size)
        if len(self._arrays) != len(self._expected):
            raise ProtocolError(f"the answer has {len(self._arrays)} arrays, {len(self._expected)} were asked for")

    def place(self, block: Rectangle) -> None:
        """Writes one block into its array.

        Raises:
            ProtocolError: if it does not fit there.
        """
        row, rows, column, columns = block.row, block.rows, block.column, block.columns
        if block.array >= len(self._matrices):
            raise ProtocolError("the answer has a block for an array that its header does not have")
        matrix = self._matrices[block.array]
        data = block.data
        count = rows * columns
        inside = row + rows <= matrix.shape[0] and column + columns <= matrix.shape[1]
        if not inside or (matrix.size and len(data) != count * (matrix.nbytes // (matrix.shape[0] * matrix.shape[1]))):
            raise ProtocolError("the answer has a block that lies outside its array, or not the bytes that its size needs")
        matrix[row : row + rows, column : column + columns] = np.frombuffer(data, matrix.dtype).reshape(rows, columns, *matrix.shape[2:])
        self._missing[block.array] -= count

    def finish(self) -> dict[ArrayKey, np.ndarray]:
        """Returns the arrays by their keys.

        Raises:
            ProtocolError: if elements are missing.
        """
        if len(self._arrays) != len(self._expected):
            raise ProtocolError("the answer ended without its header")
        if any(self._missing):
            lacking = sum(map(abs, self._missing))
            raise ProtocolError(f"the answer ended with {lacking:,} elements too few or too many; it is not used")
        return self._arrays
