"""Results on their way out: boxes of an array in a fixed order, so that a stream that broke can go on where it was."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import zarr

from jacloom_graph.answer import Part
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import raw
from jacloom_graph.types import Type
from jacloom_server.jobs import naming, store
from jacloom_server.jobs.board import Board
from jacloom_server.jobs.record import Result
from jacloom_server.jobs.tally import DONE, FAILED, NOT_FINITE
from jacloom_server.jobs.view import View
from jacloom_worker.unit import stored

PIECE_BYTES: Final = 1 << 20

_ALIKE: Final = frozenset({Part.POINTERS, Part.INDICES})
"""Arrays that are the same for all points."""
_STATUS: Final = Result(naming.STATUS, Part.VALUE, Type("uint8", (0,)))


@dataclass(frozen=True, slots=True)
class Piece:
    """A box of what was asked for."""

    starts: tuple[int, ...]
    counts: tuple[int, ...]
    offset: int
    """Bytes of all pieces before it."""
    data: memoryview


@dataclass(frozen=True, slots=True)
class Reading:
    """What was asked for."""

    type: Type
    nbytes: int


async def read(board: Board, name: str, path: str, first: int, count: int, offset: int) -> AsyncGenerator[Reading | Piece]:
    """Yields what there is to read, then its pieces from an offset on.

    Args:
        board: The jobs.
        name: Of the job.
        path: Of the array.
        first: The first point, or row.
        count: How many; 0 for all that follow.
        offset: Pieces that end before are left out.

    Raises:
        Fault: JOB_NOT_FOUND; INVALID_OPTION for an array or a range that is not there; RESULT_NOT_READY.
    """
    view = await board.get(name)
    result = _result(view, path)
    whole = (view.entry.points,) if result is _STATUS else result.type.shape
    extent = whole[0] if whole else 0
    last = first + count if count else extent
    if not 0 <= first <= last <= extent:
        text = f"{path!r} has {extent:,} {'rows' if result.part in _ALIKE else 'points'}, got {count or 'all'} from {first:,} on"
        raise Fault(Reason.INVALID_OPTION, text, field="first")
    if result is _STATUS:
        status = (await board.tally(view)).status[first:last].copy()
        yield Reading(Type("uint8", status.shape), status.nbytes)
        for piece in _pieces(status, (0,), 0):
            if piece.offset + piece.data.nbytes > offset:
                yield piece
        return
    if result.part not in _ALIKE:
        await _require_done(board, view, first, last)
    array = await asyncio.to_thread(_opened, view, path)
    dtype, _ = stored(Type(result.type.dtype))
    region = (slice(first, last), *(slice(0, each) for each in array.shape[1:]))
    shape = (last - first, *array.shape[1:])
    yield Reading(Type(dtype.name, shape), math.prod(shape) * dtype.itemsize)
    done = 0
    for box in _boxes(array.chunks, region):
        size = math.prod(part.stop - part.start for part in box) * dtype.itemsize
        if done + size > offset:
            values = await _chunk(board, view, array, box, result)
            for piece in _pieces(values, tuple(part.start - (first if not axis else 0) for axis, part in enumerate(box)), done):
                if piece.offset + piece.data.nbytes > offset:
                    yield piece
        done += size


def _result(view: View, path: str) -> Result:
    if view.record is None:
        raise Fault(Reason.RESULT_NOT_READY, "the job is not planned yet, so there are no results; wait for it")
    if path == naming.STATUS:
        return _STATUS
    found = next((result for result in view.record.results if result.path == path), None)
    if found is None:
        known = ", ".join([*(result.path for result in view.record.results), naming.STATUS])
        raise Fault(Reason.INVALID_OPTION, f"the job has no array {path[:100]!r}; its arrays are {known}", field="path")
    return found


async def _require_done(board: Board, view: View, first: int, last: int) -> None:
    status = (await board.tally(view)).status[first:last]
    missing = np.flatnonzero((status != DONE) & (status != NOT_FINITE))
    if len(missing):
        point = first + int(missing[0])
        why = (
            "failed; see the job's failures"
            if status[missing[0]] == FAILED
            else "is not computed yet" + ("" if view.entry.state.ended else "; wait for it")
        )
        others = f", nor are {len(missing) - 1:,} others of this range there" if len(missing) > 1 else ""
        raise Fault(Reason.RESULT_NOT_READY, f"point {point:,} {why}{others}")


def _opened(view: View, path: str) -> zarr.Array[Any]:
    try:
        array = store.opened(view.store)[path]
    except (KeyError, OSError, ValueError) as error:
        raise Fault(Reason.RESULT_NOT_READY, f"the results are not where they were put ({view.entry.out}); have the job verified") from error
    assert isinstance(array, zarr.Array)
    return array


async def _chunk(board: Board, view: View, array: zarr.Array[Any], box: tuple[slice, ...], result: Result) -> np.ndarray:
    """Returns the elements of a box that lies in one chunk; what is damaged is computed again."""
    try:
        values = await asyncio.to_thread(_values, view, array, box, result)
    except ValueError as error:
        if result.part not in _ALIKE:
            await board.damaged(view, box[0].start, box[0].stop - box[0].start)
        text = f"a chunk of {result.path!r} is damaged, and is computed again; read it in a while"
        raise Fault(Reason.RESULT_NOT_READY, text) from error
    return values


def _values(view: View, array: zarr.Array[Any], box: tuple[slice, ...], result: Result) -> np.ndarray:
    """Returns the elements of a box that lies in one chunk.

    Raises:
        ValueError: The chunk is not as it was written: the codec has compared it with its checksum.
    """
    at = tuple(part.start // extent for part, extent in zip(box, array.chunks, strict=True))
    # Zarr takes a chunk that is not there for one that was never written; units write all of theirs.
    if result.part not in _ALIKE and not (view.store / array.path / array.metadata.encode_chunk_key(at)).is_file():
        raise ValueError(f"the chunk {at} is gone")
    return np.ascontiguousarray(array[box])


def _boxes(chunks: Sequence[int], region: Sequence[slice]) -> Iterator[tuple[slice, ...]]:
    """Yields the part of a region that lies in each chunk, in C order of the chunks."""

    def cuts(extent: int, part: slice) -> list[slice]:
        firsts = range(part.start // extent * extent, part.stop, extent)
        return [slice(max(first, part.start), min(first + extent, part.stop)) for first in firsts]

    return itertools.product(*(cuts(extent, part) for extent, part in zip(chunks, region, strict=True)))


def _pieces(values: np.ndarray, starts: tuple[int, ...], offset: int) -> Iterator[Piece]:
    """Yields a box in smaller ones, in C order, each of about 1 MiB at most."""
    if not values.size:
        return
    axis, inner = len(values.shape), values.itemsize
    while axis and inner * values.shape[axis - 1] <= PIECE_BYTES:
        axis -= 1
        inner *= values.shape[axis]
    if not axis:
        yield Piece(starts, values.shape, offset, raw(values))
        return
    step = max(1, PIECE_BYTES // inner)
    for outer in np.ndindex(values.shape[: axis - 1]):
        for first in range(0, values.shape[axis - 1], step):
            part = values[(*outer, slice(first, first + step))]
            begin = (*(base + at for base, at in zip(starts, outer, strict=False)), starts[axis - 1] + first, *starts[axis:])
            data = raw(part)
            yield Piece(begin, (*(1,) * len(outer), *part.shape), offset, data)
            offset += data.nbytes
