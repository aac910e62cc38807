"""Whether chunks that were put in place are still what they were then."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_server.jobs.states import UnitRow
from jacloom_worker.unit import Chunk

_PIECE_BYTES: Final = 1 << 20
_LOST: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO})
"""Errors that mean that a chunk is gone, or that its disk has lost it. With others the chunk may well be as it was."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found."""

    chunks: int
    """Those that were compared."""
    damaged: tuple[int, ...]
    """Numbers of the units with a chunk that has another size or checksum than was recorded, or that is gone; in the order they came in."""


def verify(store: Path, units: Iterable[UnitRow]) -> Verified:
    """Compares the chunks of units with what was recorded of them. Blocks; reads every byte, with at most 1 MiB in memory.

    Args:
        store: Folder of the job's group.
        units: Those without chunks, which are not committed, are passed over.

    Raises:
        Fault: STORE_UNAVAILABLE if the group or a chunk cannot be read for other reasons than that it is gone.
    """
    if not store.is_dir():
        # A file system that is not mounted looks like this: nothing is known to be lost then.
        raise Fault(
            Reason.STORE_UNAVAILABLE, f"the results should be in the folder {store}, and there is none; mount its file system, or delete the job"
        )
    compared, damaged = 0, []
    for unit in units:
        compared += len(unit.chunks)
        intact = [_intact(store, chunk) for chunk in unit.chunks]
        if not all(intact):
            damaged.append(unit.number)
    return Verified(compared, tuple(damaged))


def _intact(store: Path, chunk: Chunk) -> bool:
    checksum, nbytes = 0, 0
    try:
        with (store / chunk.path).open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                checksum = zlib.crc32(piece, checksum)
                nbytes += len(piece)
    except OSError as error:
        if error.errno in _LOST:
            return False
        raise Fault(
            Reason.STORE_UNAVAILABLE, f"the chunk {chunk.path} in {store} cannot be read: {error.strerror}; mend that and verify again"
        ) from error
    return (nbytes, checksum) == (chunk.nbytes, chunk.checksum)
