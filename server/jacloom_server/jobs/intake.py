"""Points on their way in: checked, written to the job's store, and hashed, so that the same request is recognized."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import from_bytes, nbytes, raw
from jacloom_graph.types import Type
from jacloom_server.jobs import store
from jacloom_worker.unit import Source, stored

MOST_POINTS: Final = 1 << 40


class Intake:
    """The store of a job while its points come in. All methods block."""

    def __init__(self, folder: Path, sources: Sequence[Source], shared: Sequence[np.ndarray | None], spec: bytes) -> None:
        """Makes the store.

        Args:
            folder: Of the group; must not exist.
            sources: The arrays to fill.
            shared: For each source that points share its value, as it travels.
            spec: What the job is, for its digest.
        """
        self.points = 0
        self._folder = folder
        self._digest = hashlib.sha256(spec)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            group = store.create(folder)
            for source, value in zip(sources, shared, strict=True):
                if value is not None:
                    self._digest.update(raw(value))
                    store.add_array(group, source.path, source.type, None)[...] = value.astype(stored(source.type)[0], copy=False)
            self._columns = [_Column(group, source) for source in sources if source.varies]
        except OSError as error:
            raise store.unavailable(error) from error

    def add(self, count: int, leaves: Sequence[bytes]) -> None:
        """Takes in some points.

        Raises:
            Fault: ARGUMENT_MISMATCH where they do not fit; STORE_UNAVAILABLE.
        """
        if not 0 < count <= MOST_POINTS - self.points:
            raise Fault(Reason.ARGUMENT_MISMATCH, f"a message has at least one point, got {count:,}", field="points.count")
        if len(leaves) != len(self._columns):
            text = f"points have {len(self._columns)} arrays (leaves with a value of their own, then seeds), got {len(leaves)}"
            raise Fault(Reason.ARGUMENT_MISMATCH, text, field="points.leaves")
        try:
            for at, (column, data) in enumerate(zip(self._columns, leaves, strict=True)):
                column.add(count, data, f"points.leaves[{at}]", self.points)
        except OSError as error:
            raise store.unavailable(error) from error
        self.points += count

    def finish(self) -> str:
        """Has everything reach the disk, and returns the digest of spec and points.

        Raises:
            Fault: ARGUMENT_MISMATCH if there are no points; STORE_UNAVAILABLE.
        """
        if not self.points:
            raise Fault(Reason.ARGUMENT_MISMATCH, "a job has at least one point, got none", field="points")
        try:
            for column in self._columns:
                column.finish()
        except OSError as error:
            raise store.unavailable(error) from error
        store.sync(self._folder)
        self._digest.update(str(self.points).encode())
        for column in self._columns:
            self._digest.update(column.digest.digest())
        return self._digest.hexdigest()


class _Column:
    """One array of points, which grows."""

    def __init__(self, group: zarr.Group, source: Source) -> None:
        self.digest = hashlib.sha256()
        self._type = source.type
        self._row = nbytes(source.type)
        self._array: zarr.Array[Any] = store.add_array(group, source.path, source.type, 0, _chunk(source.type))
        self._rows = self._array.chunks[0]
        self._waiting: list[bytes] = []
        self._held = self._written = 0

    def add(self, count: int, data: bytes, field: str, first: int) -> None:
        if len(data) != count * self._row:
            text = f"{count:,} points of {self._type} have {count * self._row:,} bytes, got {len(data):,} (from point {first:,} on)"
            raise Fault(Reason.ARGUMENT_MISMATCH, text, field=field)
        self.digest.update(data)
        at = 0
        while at < count:
            take = min(count - at, self._rows - self._held)
            self._waiting.append(data[at * self._row : (at + take) * self._row])
            self._held += take
            at += take
            if self._held == self._rows:
                self._flush(field)

    def finish(self) -> None:
        if self._held:
            self._flush("points")
        self._array.resize((self._written, *self._array.shape[1:]))

    def _flush(self, field: str) -> None:
        """Writes a whole chunk, or what is left."""
        values = from_bytes(Type(self._type.dtype, (self._held, *self._type.shape)), b"".join(self._waiting), field)
        end = self._written + self._held
        if end > self._array.shape[0]:
            # Twice as much each time: an array's extent is written down with each change.
            self._array.resize((max(end, 2 * self._array.shape[0]), *self._array.shape[1:]))
        self._array[self._written : end] = values.astype(self._array.dtype, copy=False)
        self._waiting.clear()
        self._written, self._held = end, 0


def _chunk(type_: Type) -> tuple[int, ...]:
    dtype, shape = stored(type_)
    row = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return (max(1, store.ROWS_BYTES // max(1, row)), *(max(1, extent) for extent in type_.shape))
