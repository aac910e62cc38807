"""Results of a job written to files, box by box as they come, without ever being in memory as a whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import ArgumentError, JobError, OptionError, ProtocolError
from jacloom._jobs.reading import read
from jacloom._jobs.record import JobArray, JobRecord
from jacloom._jobs.result import span, status_array
from jacloom_graph.answer import Part

_SHARED = (Part.POINTERS, Part.INDICES)


def fetch(
    connection: Connection, record: JobRecord, path: str | os.PathLike[str], points: slice, array: str | None, deadline: Deadline
) -> dict[str, Path]:
    """Writes arrays of a job's results as ``.npy`` files, and returns the files by the arrays' paths.

    Args:
        connection: To the service.
        record: The job.
        path: A ``.npy`` file for one array; or a folder, made if it is not there, for a file each.
        points: Which points.
        array: The array's path within the results. Default: all, and ``"status"``; for a file, the only one of the derivative.
        deadline: Of the call.

    Raises:
        JobError: if some of the points are not finished, or there are no results.
        ArgumentError: if there is no such array, or several for one file.
        OptionError: if a file cannot be written.
    """
    if not record.arrays:
        raise JobError(f"job {record.id} is {record.state.value} and has no results{'' if record.state.ended else ' yet; job.wait() waits'}")
    target = Path(path)
    chosen = _chosen(record, (*record.arrays, status_array(record.progress.points)), target, array)
    wanted = span(record.progress.points, points)
    written = {}
    for each, file in chosen:
        rows = range(each.type.shape[0]) if each.key[0] in _SHARED else wanted
        try:
            _write(connection, record.id, each, rows, file, deadline)
        except OSError as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise  # the SDK's own, of which some are these as well
            raise OptionError(f"`job.fetch({os.fspath(path)!r})`: {file} cannot be written: {error.strerror or error}") from None
        written[each.path] = file
    return written


def _chosen(record: JobRecord, arrays: Sequence[JobArray], target: Path, array: str | None) -> list[tuple[JobArray, Path]]:
    """Returns the arrays that are written, each with its file."""
    folder = target.is_dir() or target.suffix != ".npy"
    names = ", ".join(each.path for each in arrays)
    if array is None and folder:
        return [(each, target / _file(each.path)) for each in arrays]
    if array is None:
        found = [each for each in arrays if each.key[0] not in (Part.VALUE, 0)] if record.derivative != "value" else list(arrays[:-1])
        if len(found) != 1:
            raise ArgumentError(
                f"`job.fetch({str(target)!r})`: a file takes one array; choose with array=... among {names}, or give a folder for all"
            )
        return [(found[0], target)]
    found = [each for each in arrays if each.path == array]
    if not found:
        raise ArgumentError(f"`job.fetch(path, array={array!r})`: job {record.id} has the arrays {names}")
    return [(found[0], target / _file(array) if folder else target)]


def _file(array: str) -> Path:
    """Returns an array's file within a folder."""
    parts = PurePosixPath(array).parts
    if not parts or any(part in ("..", "/") or "\0" in part or "\\" in part for part in parts):
        raise ProtocolError(f"the service told of an array {array!r}, whose name would lead out of the folder")
    return Path(*parts[:-1], f"{parts[-1]}.npy")


def _write(connection: Connection, job: str, array: JobArray, rows: range, file: Path, deadline: Deadline) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.part")
    dtype, shape = array.stored

    def allocate(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        made = np.lib.format.open_memmap(aside, mode="w+", dtype=dtype, shape=shape)
        with open(aside, "r+b") as opened:
            # Writing to a mapped file on a full disk would end the process; this is an error.
            os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size)
        return made

    try:
        if rows and 0 not in shape:
            found = read(connection, job, array.path, rows, deadline, allocate)
            assert isinstance(found, np.memmap)
            found.flush()
            del found
        else:
            with open(aside, "wb") as opened:
                np.save(opened, np.empty((len(rows), *shape[1:]), dtype))
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)
