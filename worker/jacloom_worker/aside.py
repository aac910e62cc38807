"""The Zarr store of one attempt at a unit: what is written goes to the attempt's own folder and reaches the disk; the group itself is only read."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path, PurePosixPath
from typing import Final, Self

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.common import AccessModeLiteral
from zarr.storage import LocalStore

from jacloom_graph.errors import Fault, Reason
from jacloom_worker.unit import Chunk

_METADATA: Final = "zarr.json"


class Aside(LocalStore):
    """The store that Zarr writes whole chunks through. The group has the metadata, and its chunks are neither seen nor touched."""

    supports_deletes = False

    def __init__(self, root: Path | str, aside: Path | str, *, read_only: bool = False) -> None:
        """Makes a store; no folder is made before there is something to write.

        Args:
            root: Folder of the group.
            aside: Folder for the chunks, in one that exists.
            read_only: Whether nothing can be written.
        """
        super().__init__(root, read_only=read_only)
        self.aside = Path(aside)
        self._written: dict[str, Chunk] = {}

    @property
    def chunks(self) -> tuple[Chunk, ...]:
        """What was written, ordered by path. All of it has reached the disk, but for the entries of folders."""
        return tuple(self._written[path] for path in sorted(self._written))

    def with_read_only(self, read_only: bool = False) -> Self:
        """Returns a store of the same folders."""
        return type(self)(self.root, self.aside, read_only=read_only)

    async def _open(self, *, mode: AccessModeLiteral | None = None) -> None:
        # The group's folder is not made here: where there is none, its file system may not be mounted.
        if not self.root.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        await super()._open(mode=mode)

    async def get(self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Returns metadata. There are no chunks: one that is not filled as a whole keeps the fill value in the rest."""
        return await super().get(key, prototype, byte_range) if _is_metadata(key) else None

    def get_sync(self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None) -> Buffer | None:
        """As ``get``."""
        return super().get_sync(key, prototype=prototype, byte_range=byte_range) if _is_metadata(key) else None

    async def set(self, key: str, value: Buffer) -> None:
        """Writes a chunk.

        Raises:
            Fault: STORE_UNAVAILABLE where the system has no room, or does not let it be written; INTERNAL for a chunk that was written before.
        """
        await asyncio.to_thread(self.set_sync, key, value)

    def set_sync(self, key: str, value: Buffer) -> None:
        """As ``set``."""
        self._check_writable()
        if key in self._written:
            raise Fault(Reason.INTERNAL, f"{key} is written twice by one unit; units consist of whole chunks")
        data = memoryview(value.as_buffer_like()).cast("B")
        path = self.aside / key
        try:
            self._make_folders(key)
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise unavailable(key, "written", error) from error
        self._written[key] = Chunk.of(key, data)

    def _make_folders(self, key: str) -> None:
        # One by one, and not the folder that the attempt's is made in: with the end of its job that is gone, and who comes later leaves nothing.
        for parent in reversed(PurePosixPath(key).parents):
            (self.aside / parent).mkdir(exist_ok=True)

    async def delete(self, key: str) -> None:
        """Refuses: what there is belongs to the group.

        Raises:
            Fault: INTERNAL.
        """
        self.delete_sync(key)

    def delete_sync(self, key: str) -> None:
        """As ``delete``."""
        raise Fault(Reason.INTERNAL, f"{key} cannot be deleted by a unit, which only writes")


def unavailable(path: str, what: str, error: OSError) -> Fault:
    """Returns the fault for something in a store that cannot be ``what``, such as ``"read"``, now; ``path`` is that within the group."""
    return Fault(Reason.STORE_UNAVAILABLE, f"{path} cannot be {what}: {_why(error)}; free some space, or see that the store is there and writable")


def _why(error: OSError) -> str:
    # Only the system's words: the exception's own text names folders of this machine.
    return error.strerror or type(error).__name__


def _is_metadata(key: str) -> bool:
    return key.rpartition("/")[2] == _METADATA
