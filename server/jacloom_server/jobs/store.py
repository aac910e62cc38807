"""The Zarr group of a job: made here, filled by workers, readable with plain ``zarr.open``. All functions block.

Nothing is compressed: floating-point numbers hardly get smaller by it, and reading and writing then cost what the disk costs. Every chunk ends with
its CRC-32C, which whoever reads it compares.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_server.jobs import naming
from jacloom_worker.unit import Sink, stored

ROWS_BYTES: Final = 4 << 20
"""About the size of the chunks of points, and of other arrays that the server writes."""
STATUS_POINTS: Final = ROWS_BYTES
"""Points whose status is in one chunk; its dtype has one byte."""
ABOUT: Final = "jacloom"
"""The group's attribute with all that is known of the job."""


def create(folder: Path) -> zarr.Group:
    """Returns a new, empty group."""
    return zarr.open_group(folder, mode="w-")


def opened(folder: Path, *, write: bool = False) -> zarr.Group:
    """Returns the group of a job.

    Raises:
        FileNotFoundError: There is none.
    """
    if not folder.is_dir():
        # Zarr would make it, and it may be that its file system is not mounted.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return zarr.open_group(folder, mode="r+" if write else "r")


def add_array(group: zarr.Group, path: str, type_: Type, first: int | None, chunk: Sequence[int] | None = None) -> zarr.Array[Any]:
    """Makes an array for values of a type, and returns it.

    Args:
        group: The job's group.
        path: Within it.
        type_: Of what one point has.
        first: Extent of a further first axis, of the points; None for an array without it.
        chunk: Shape of its chunks. Default: about 4 MiB along the first axis.
    """
    dtype, shape = stored(type_)
    row = dtype.itemsize * math.prod(shape[1:] if first is None else shape)
    whole = shape if first is None else (first, *shape)
    if chunk is None:
        chunk = (max(1, ROWS_BYTES // max(1, row)), *whole[1:]) if whole else ()
    else:
        chunk = (*chunk, *shape[len(chunk) - 1 :])  # raw data of keys has further axes
    # One axis may be empty, and one that grows is so at first.
    bounded = tuple(max(1, min(part, extent or part)) for part, extent in zip(chunk, whole, strict=True))
    fill = math.nan if dtype.kind in "fc" else 0
    # One folder for all chunks: each folder costs a flush of its own when chunks are put in place.
    flat: Any = {"name": "default", "separator": "."}
    return group.create_array(path, shape=whole, chunks=bounded, dtype=dtype, compressors=[Crc32cCodec()], fill_value=fill, chunk_key_encoding=flat)


def add_results(folder: Path, points: int, sinks: Sequence[Sink], shared: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Makes the arrays that units fill, and the status of each point; what a planning that was cut short has left is made anew.

    Args:
        folder: Of the group.
        points: Of the job.
        sinks: The arrays.
        shared: Further arrays that are the same for all points, by path.
        about: What is known of the job.
    """
    group = opened(folder, write=True)
    for path in (*(sink.path for sink in sinks), *shared, naming.STATUS):
        with suppress(KeyError):
            del group[path]
    for sink in sinks:
        add_array(group, sink.path, sink.type, points, sink.chunk)
    for path, values in shared.items():
        add_array(group, path, Type(values.dtype.name, values.shape), None)[...] = values
    add_array(group, naming.STATUS, Type("uint8"), points)
    group.attrs[ABOUT] = dict(about)
    sync(folder)


def sync(folder: Path) -> None:
    """Has all files and folders below one reach the disk.

    Raises:
        Fault: STORE_UNAVAILABLE.
    """
    try:
        for root, _, files in os.walk(folder):
            for name in (*files, "."):
                _sync(os.path.join(root, name))
    except OSError as error:
        raise unavailable(error) from error


def _sync(path: str) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def unavailable(error: OSError) -> Fault:
    """Returns the fault for results that cannot be written."""
    return Fault(Reason.STORE_UNAVAILABLE, f"results cannot be written: {error.strerror or type(error).__name__}; make room, or look after the disk")


def sync_folder(folder: Path) -> None:
    """Has the names in a folder reach the disk."""
    _sync(str(folder))


def write_status(folder: Path, first: int, status: np.ndarray) -> None:
    """Writes the status of some points from ``first`` on: of whole chunks, so that none is read for it, which might be damaged."""
    array = opened(folder, write=True)[naming.STATUS]
    assert isinstance(array, zarr.Array)
    array[first : first + len(status)] = status
