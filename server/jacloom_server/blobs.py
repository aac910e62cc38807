"""Arrays too large for a message: in shared memory once, named by content or leased under a name of their own."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray

from jacloom_graph import blobnames
from jacloom_graph.errors import Fault, Reason
from jacloom_server.upload import Upload

_LOG = logging.getLogger(__name__)

_SHORT_BYTES: Final = 1 << 20
"""Up to here, copying takes less than the loop notices."""


@dataclass(eq=False, slots=True)
class Blob:
    """Bytes in shared memory."""

    name: str
    size: int
    ref: Any
    """Ray ObjectRef of a ``uint8`` array."""
    used: float = field(default_factory=time.monotonic)
    """When it was used last."""
    pins: int = 0
    """Functions that need it: it stays as long as one does."""
    stored: bool = False
    """Whether the folder has it."""


class Blobs:
    """The blobs of this server: in memory, and those that kept functions need in a folder as well, if there is one."""

    def __init__(self, most_bytes: int, lease: float, folder: Path | None = None) -> None:
        """Makes a store that holds nothing yet; what the folder has is loaded when it is needed.

        Args:
            most_bytes: Bytes of all blobs together.
            lease: Seconds that a blob is kept after its last use.
            folder: Where blobs outlive the server; None for nowhere.
        """
        self.lease = lease
        self._most_bytes = most_bytes
        self._folder = folder
        self._blobs: dict[str, Blob] = {}
        self._nbytes = 0
        """Of all blobs, and of uploads under way."""
        self._relieve: Callable[[Callable[[], bool]], None] = lambda enough: None
        self._loading = asyncio.Lock()
        """Held while a file is loaded: functions that share a constant shall not load it twice."""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def when_full(self, relieve: Callable[[Callable[[], bool]], None]) -> None:
        """Has ``relieve(enough)`` called where a blob finds no room: it may unpin and release blobs until ``enough()`` holds."""
        self._relieve = relieve

    @contextmanager
    def uploading(self, size: int, digest: str) -> Iterator[Upload]:
        """Yields what takes an upload's bytes, with room for them until the end of the block: call ``keep`` before.

        Args:
            size: Bytes that are to come.
            digest: SHA-256 that they must have, in hex; empty for a leased blob.

        Raises:
            Fault: The digest is malformed, or there is no room for the blob, now or ever.
        """
        if digest and not blobnames.is_digest(digest):
            raise Fault(Reason.ARGUMENT_MISMATCH, "a SHA-256 digest has 64 hexadecimal digits in lower case", field="header.sha256")
        with self._room(size, "header.size"):
            yield Upload(size, digest)

    async def keep(self, upload: Upload) -> Blob:
        """Takes an upload and returns its blob.

        Raises:
            Fault: ARGUMENT_MISMATCH if bytes are missing, or the content has another digest.
        """
        data = await upload.finish()
        name = blobnames.by_digest(upload.digest) if upload.digest else blobnames.new_lease()
        if name in self._blobs:
            return self.find(name)
        return self._add(name, data.size, await _aside(data.size, lambda: ray.put(data)))

    def find(self, name: str, field: str = "") -> Blob:
        """Returns a blob that is in memory, by name; it then counts as just used.

        Raises:
            Fault: BLOB_NOT_FOUND.
        """
        blob = self._blobs.get(name)
        if blob is None:
            raise Fault(Reason.BLOB_NOT_FOUND, f"no blob {name[:100]!r} is stored here (any more); upload it again", field=field)
        blob.used = time.monotonic()
        return blob

    async def missing(self, names: Iterable[str]) -> list[str]:
        """Returns those of some names that are neither in memory nor in the folder, in order. Those in memory count as just used."""
        now, absent = time.monotonic(), []
        for name in names:
            if name in self._blobs:
                self._blobs[name].used = now
            else:
                absent.append(name)
        return await asyncio.to_thread(lambda: [name for name in absent if not self._in_folder(name)]) if absent and self._folder else absent

    def release(self, name: str) -> None:
        """Drops a blob before its time, if it is held and no function needs it. Work under way keeps what it uses."""
        blob = self._blobs.get(name)
        if blob is not None and not blob.pins:
            self._drop(name)

    async def pin(self, names: Iterable[str]) -> dict[str, Any]:
        """Keeps blobs for as long as a function needs them, loading those that only the folder has, and returns their references by name.

        Raises:
            Fault: BLOB_NOT_FOUND, or OVER_QUOTA if one does not fit into memory. None is pinned then.
        """
        pinned: dict[str, Any] = {}
        try:
            for name in dict.fromkeys(names):
                async with self._loading:
                    blob = self._blobs.get(name) or await self._load(name) or self.find(name)
                # At once: loading the next one may take long, and this one must not go meanwhile.
                blob.pins += 1
                pinned[name] = blob.ref
        except BaseException:
            self.unpin(pinned)
            raise
        return pinned

    def unpin(self, names: Iterable[str]) -> None:
        """Takes back one ``pin``. Blobs that nobody needs any more are kept for a lease."""
        for name in names:
            blob = self._blobs[name]
            blob.pins -= 1
            blob.used = time.monotonic()

    async def store(self, names: Iterable[str]) -> None:
        """Writes pinned blobs to the folder, if there is one."""
        for name in names:
            blob, path = self._blobs[name], self._path(name)
            if path is not None and not blob.stored:
                await asyncio.to_thread(lambda source, target: write_whole(target, ray.get(source)), blob.ref, path)
                blob.stored = True

    def erase(self, names: Iterable[str]) -> None:
        """Takes blobs out of the folder; they stay in memory."""
        for name in names:
            if path := self._path(name):
                path.unlink(missing_ok=True)
            if name in self._blobs:
                self._blobs[name].stored = False

    def sweep(self) -> None:
        """Drops blobs whose lease has run out."""
        expired = time.monotonic() - self.lease
        for name in [name for name, blob in self._blobs.items() if not blob.pins and blob.used < expired]:
            self._drop(name)

    @contextmanager
    def _room(self, size: int, field: str = "") -> Iterator[None]:
        """Sets some bytes aside for the time of the block, at whose end the blob itself counts."""

        def fits() -> bool:
            return self._nbytes + size <= self._most_bytes

        if size > self._most_bytes:
            raise Fault(Reason.TOO_LARGE, f"blobs may have {self._most_bytes:,} bytes in all, this one alone has {size:,}", field=field)
        for remedy in (self.sweep, lambda: self._relieve(fits)):
            if not fits():
                remedy()
        if not fits():
            raise Fault(
                Reason.OVER_QUOTA,
                f"blobs may have {self._most_bytes:,} bytes in all and {self._nbytes:,} are in use, so {size:,} more do not fit; "
                "release blobs and delete functions that are not needed any more, or try again when leases have run out",
                field=field,
            )
        self._nbytes += size
        try:
            yield
        finally:
            self._nbytes -= size

    def _add(self, name: str, size: int, ref: Any, *, stored: bool = False) -> Blob:
        """Returns the blob of a name: the one that is there, where the same content has come several times at once."""
        if name not in self._blobs:
            self._blobs[name] = Blob(name, size, ref)
            self._nbytes += size
        blob = self.find(name)
        blob.stored |= stored
        return blob

    def _drop(self, name: str) -> None:
        self._nbytes -= self._blobs.pop(name).size

    async def _load(self, name: str) -> Blob | None:
        """Returns a blob that the folder has, in memory from now on; None where it has none, or a damaged one."""
        path = self._path(name)
        if path is None:
            return None
        try:
            size = (await asyncio.to_thread(path.stat)).st_size
            with self._room(size):
                ref = await asyncio.to_thread(_read, path)
                return None if ref is None else self._add(name, size, ref, stored=True)
        except FileNotFoundError:
            return None

    def _path(self, name: str) -> Path | None:
        digest = blobnames.digest_of(name)
        return None if digest is None or self._folder is None else self._folder / digest

    def _in_folder(self, name: str) -> bool:
        path = self._path(name)
        return path is not None and path.exists()


def write_whole(path: Path, data: Any) -> None:
    """Writes a file so that it is there as a whole or not at all, whatever happens meanwhile."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def _read(path: Path) -> Any:
    """Returns a reference to the bytes of a file that is named by its digest. A damaged one is removed, and None returned."""
    data = np.fromfile(path, np.uint8)
    if _digest(data) != path.name:
        _LOG.warning("%s is damaged: its content has another SHA-256 than its name says; it is removed and has to be uploaded again", path)
        path.unlink(missing_ok=True)
        return None
    return ray.put(data)


def _digest(data: np.ndarray) -> str:
    return hashlib.sha256(data.data).hexdigest()


async def _aside(size: int, work: Callable[[], Any]) -> Any:
    """Returns what a piece of work returns, done in a thread where it would hold up the event loop."""
    return work() if size < _SHORT_BYTES else await asyncio.to_thread(work)
