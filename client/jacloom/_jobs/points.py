"""What the points of a job can be: arrays with a first axis, in a pytree, or an iterator of single points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from jacloom import _leaves
from jacloom._errors import ArgumentError
from jacloom._jobs.columns import ArrayColumn, Column
from jacloom._jobs.sources import opened, zarr_column
from jacloom._outline import described
from jacloom._structure import Structure, flatten_with_jax, require_match
from jacloom_graph import tensor
from jacloom_graph.types import Type


class Points(ABC):
    """Points, or the seeds that belong to them, in order."""

    what: str
    """``"points"`` or ``"seeds"``, for errors."""
    count: int | None
    """How many there are, where that is known before they are read."""
    again: bool
    """Whether they can be read more than once."""
    first: Any
    """The first one, in the containers of a call."""

    @abstractmethod
    def check(self, structure: Structure, types: Sequence[Type]) -> None:
        """Raises ArgumentError if what is known before they are read does not fit.

        Args:
            structure: Containers of one of them.
            types: Types of its leaves.
        """

    @abstractmethod
    def blocks(self, structure: Structure, types: Sequence[Type], rows: int) -> Iterator[list[np.ndarray]]:
        """Yields for so many at a time, but for the last ones, one array per leaf with a further first axis.

        A block is valid until the next is asked for.

        Raises:
            ArgumentError: if one of them has not the structure or the types, naming the first one.
        """


def read(what: str, given: Any, structure: Structure | None) -> Points:
    """Returns the points that a user passes.

    Args:
        what: ``"points"`` or ``"seeds"``.
        given: An array, a pytree of arrays, an iterator of single points, the path of a ``.npy`` or ``.npz`` file or of a Zarr store, a Zarr array or
            group. Files and groups with names are dicts.
        structure: Containers of one point, where they are known; otherwise JAX says what containers are.

    Raises:
        ArgumentError: if there are none, or they have no first axis or axes of different lengths.
        MissingExtraError: if Zarr is needed and not installed.
    """
    given = opened(what, given)
    return Stream(what, given) if isinstance(given, Iterator) else Table(what, given, structure)


class Table(Points):
    """Arrays whose first axis is that of the points."""

    again = True

    def __init__(self, what: str, given: Any, structure: Structure | None) -> None:
        self.what = what
        if structure is None:
            leaves, structure = flatten_with_jax(given)
        else:
            leaves = require_match(structure, given, f"{what} must have the containers of one of them, with arrays that have a further first axis")
        self._paths = structure.paths(what)
        if not leaves:
            raise ArgumentError(f"{what} must have an array at least, whose first axis says how many there are; got {described(given)}")
        self._columns = [_column(path, leaf) for path, leaf in zip(self._paths, leaves, strict=True)]
        self.count = _length(self._paths, self._columns)
        self.first = structure.unflatten([column.first for column in self._columns])

    def check(self, structure: Structure, types: Sequence[Type]) -> None:
        for path, column, type_ in zip(self._paths, self._columns, types, strict=True):
            if (column.type.dtype, column.type.shape) != (type_.dtype, type_.shape):
                raise ArgumentError(f"{path} must have one {type_} for each point, got {column.type}")

    def blocks(self, structure: Structure, types: Sequence[Type], rows: int) -> Iterator[list[np.ndarray]]:
        for block in zip(*(column.blocks(rows) for column in self._columns), strict=True):
            yield list(block)


class Stream(Points):
    """Single points that an iterator makes."""

    count = None
    again = False

    def __init__(self, what: str, points: Iterator[Any]) -> None:
        self.what = what
        self._rest = points
        try:
            self.first = next(points)
        except StopIteration:
            raise ArgumentError(f"{what}: the iterator is empty; a job needs at least one point") from None

    def check(self, structure: Structure, types: Sequence[Type]) -> None:
        """The first one is looked at with all others."""

    def blocks(self, structure: Structure, types: Sequence[Type], rows: int) -> Iterator[list[np.ndarray]]:
        paths = structure.paths("x" if self.what == "points" else "seed")
        stored = [tensor.storage(type_) for type_ in types]
        block = [np.empty((rows, *shape), dtype) for dtype, shape in stored]
        number = filled = 0
        for number, point in enumerate(chain((self.first,), self._rest)):
            leaves = require_match(structure, point, f"point {number}: {self.what} must all have the containers of the first one")
            for array, leaf, path, type_ in zip(block, leaves, paths, types, strict=True):
                _require(number, path, leaf, type_)
                array[filled] = _leaves.to_array(leaf)
            filled += 1
            if filled == rows:
                yield block
                filled = 0
        if filled:
            yield [array[:filled] for array in block]


def _column(path: str, leaf: Any) -> Column:
    column = leaf if isinstance(leaf, Column) else zarr_column(leaf)
    if column is None:
        unfit = _unfit(leaf)
        if unfit:
            raise ArgumentError(
                f"{path} must be an array whose first axis is that of the points, got {unfit}. "
                "Pass np.asarray(points) for a list of points of one array each, iter(points) for a list of points that are pytrees."
            )
        column = ArrayColumn(leaf)
    try:
        column.type  # noqa: B018  # refuses dtypes that graphs do not have
    except ArgumentError as error:
        raise ArgumentError(f"{path}: {error.message}") from None
    return column


def _unfit(leaf: Any) -> str:
    """Returns what a leaf is that has no rows; empty for one that has some."""
    if not _leaves.is_array(leaf):
        return described(leaf)
    if _leaves.is_shape(leaf):
        return "a shape without elements"
    return "" if getattr(leaf, "shape", ()) else "an array without axes" if hasattr(leaf, "shape") else described(leaf)


def _length(paths: Sequence[str], columns: Sequence[Column]) -> int:
    counts = [column.count for column in columns]
    other = next((at for at, count in enumerate(counts) if count != counts[0]), None)
    if other is not None:
        raise ArgumentError(f"all leaves must have as many points: {paths[0]} has {counts[0]:,}, {paths[other]} has {counts[other]:,}")
    if not counts[0]:
        raise ArgumentError(f"{paths[0]} has 0 points; a job needs at least one")
    return counts[0]


def _require(number: int, path: str, leaf: Any, type_: Type) -> None:
    if not _leaves.is_array(leaf):
        raise ArgumentError(f"point {number}: {path} is {described(leaf)}, expected {type_}; pass np.asarray(..., {type_.dtype!r})")
    try:
        found = _leaves.type_of(leaf)
    except ArgumentError as error:
        raise ArgumentError(f"point {number}: {path}: {error.message}") from None
    if found.shape != type_.shape:
        raise ArgumentError(f"point {number}: {path} has shape {found.shape}, expected {type_.shape}")
    if found.dtype != type_.dtype:
        raise ArgumentError(f"point {number}: {path} has dtype {found.dtype}, expected {type_.dtype}")
