"""Arrays whose first axis is that of points, wherever they lie: each is read once from the first row to the last, some rows at a time."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from jacloom import _leaves
from jacloom._errors import ArgumentError
from jacloom_graph import tensor
from jacloom_graph.types import Type

if TYPE_CHECKING:
    import zarr


class Column(ABC):
    """What one leaf is at each of the points."""

    @property
    @abstractmethod
    def count(self) -> int:
        """Rows."""

    @property
    @abstractmethod
    def type(self) -> Type:
        """Of one row.

        Raises:
            ArgumentError: if graphs have no such dtype.
        """

    @property
    @abstractmethod
    def first(self) -> Any:
        """The first row, as the leaf of a call at that point. There must be one."""

    @abstractmethod
    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Yields all rows, so many at a time but for the last ones, as NumPy stores them: of random keys their raw data."""


@dataclass(frozen=True, eq=False)
class ArrayColumn(Column):
    """An array in memory, or in a mapped file."""

    leaf: Any

    @cached_property
    def array(self) -> np.ndarray:
        """The elements; nothing is copied that NumPy can read in place."""
        return np.asarray(_leaves.to_array(self.leaf))

    @property
    def count(self) -> int:
        return len(self.array)

    @cached_property
    def type(self) -> Type:
        whole = _leaves.type_of(self.leaf)
        return Type(whole.dtype, whole.shape[1:], whole.weak)

    @property
    def first(self) -> Any:
        # Arrays of JAX's know more than their elements: that they are random keys, or weakly typed.
        return self.leaf[0] if self.type.weak or tensor.key_implementation(self.type.dtype) else self.array[0]

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        for start in range(0, self.count, rows):
            yield self.array[start : start + rows]


@dataclass(frozen=True, eq=False)
class ZarrColumn(Column):
    """A Zarr array. A chunk of it is decoded once, however many blocks it becomes."""

    array: zarr.Array[Any]

    @property
    def count(self) -> int:
        return int(self.array.shape[0])

    @cached_property
    def type(self) -> Type:
        return _type_of(self.array.dtype, self.array.shape[1:])

    @property
    def first(self) -> Any:
        return np.asarray(self.array[0])

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        height = (self.array.shards or self.array.chunks)[0]
        step = -(-height // rows) * rows
        for start in range(0, self.count, step):
            chunk = np.asarray(self.array[start : start + step])
            for at in range(0, len(chunk), rows):
                yield chunk[at : at + rows]


@dataclass(frozen=True, eq=False)
class NpzColumn(Column):
    """An array of an ``.npz`` file, which is decompressed while it is read."""

    path: Path
    member: str

    @cached_property
    def _header(self) -> _Header:
        with self._opened() as (_, header):
            return header

    @property
    def count(self) -> int:
        return self._header.shape[0]

    @cached_property
    def type(self) -> Type:
        return _type_of(self._header.dtype, self._header.shape[1:])

    @property
    def first(self) -> Any:
        return next(self.blocks(1))[0]

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        shape, dtype = self._header.shape, self._header.dtype
        if self._header.columns_first:
            # Rows of such an array lie all over it.
            with np.load(self.path) as file:
                yield from ArrayColumn(file[self.member]).blocks(rows)
            return
        nbytes = self.type.size * dtype.itemsize
        with self._opened() as (stream, _):
            for start in range(0, self.count, rows):
                count = min(rows, self.count - start)
                data = _exactly(stream, count * nbytes, self.path)
                yield np.frombuffer(data, dtype).reshape(count, *shape[1:])

    @contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], _Header]]:
        """Yields the member, open behind its header, and this."""
        with ExitStack() as opened:
            try:
                file = opened.enter_context(zipfile.ZipFile(self.path))
                stream = opened.enter_context(file.open(f"{self.member}.npy"))
                header = _header(stream)
            except _DAMAGES as error:
                raise _damaged(self.path, error) from None
            if not header.shape:
                raise ArgumentError(f"{self.path}: {self.member} is a scalar, and has no axis of points; save it with one")
            yield stream, header


@dataclass(frozen=True, slots=True)
class _Header:
    """What an ``.npy`` file says of its array."""

    shape: tuple[int, ...]
    columns_first: bool
    dtype: np.dtype


_DAMAGES = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)
"""What reading a file raises that is none, or no longer."""


def _header(stream: IO[bytes]) -> _Header:
    version = np.lib.format.read_magic(stream)  # type: ignore[arg-type, unused-ignore]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(stream)  # type: ignore[arg-type, unused-ignore]
    return _Header(shape, columns_first and len(shape) > 1, dtype)


def _exactly(stream: IO[bytes], nbytes: int, path: Path) -> bytes:
    try:
        data = stream.read(nbytes)
    except _DAMAGES as error:
        raise _damaged(path, error) from None
    if len(data) != nbytes:
        raise _damaged(path, "it ends early")
    return data


def _damaged(path: Path, error: object) -> ArgumentError:
    return ArgumentError(f"{path}: the file cannot be read: {error}; write it again with np.savez")


def _type_of(dtype: np.dtype, shape: tuple[int, ...]) -> Type:
    return _leaves.type_of(np.broadcast_to(np.zeros((), dtype), shape))
