"""Arrays too large for a message: in shared memory once, named by content or leased under a name of their own."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray

from jacloom_graph import blobnames
from jacloom_graph.errors import Fault, Reason


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


class Blobs:
    """The blobs of this server."""

    def __init__(self, most_bytes: int, lease: float, folder: Path | None = None) -> None:
        """Makes an empty store.

        Args:
            most_bytes: Bytes of all blobs together.
            lease: Seconds that a blob is kept after its last use.
            folder: Where blobs named by content are kept over restarts; None for nowhere.
        """
        self.lease = lease
        self._most_bytes = most_bytes
        self._folder = folder
        self._blobs: dict[str, Blob] = {}
        self._nbytes = 0
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def begin(self, size: int, digest: str) -> np.ndarray:
        """Returns the buffer that an upload goes to, ``(size,)`` ``uint8``.

        Raises:
            Fault: The digest is malformed, or there is no room for the blob, now or ever.
        """
        if digest and not blobnames.is_digest(digest):
            raise Fault(Reason.ARGUMENT_MISMATCH, "a SHA-256 digest has 64 hexadecimal digits in lower case", field="header.sha256")
        if size > self._most_bytes:
            raise Fault(Reason.TOO_LARGE, f"blobs may have {self._most_bytes:,} bytes in all, this one alone has {size:,}", field="header.size")
        self.sweep()
        if self._nbytes + size > self._most_bytes:
            raise Fault(
                Reason.OVER_QUOTA,
                f"blobs may have {self._most_bytes:,} bytes in all and {self._nbytes:,} are in use, so {size:,} more do not fit; "
                "release blobs that are not needed any more, or try again when leases have run out",
                field="header.size",
            )
        return np.empty(size, np.uint8)

    async def keep(self, data: np.ndarray, digest: str) -> Blob:
        """Stores an upload and returns its blob.

        Args:
            data: The buffer from ``begin``, filled; not to be changed any more.
            digest: SHA-256 that it must have, in hex; empty for a leased blob.

        Raises:
            Fault: ARGUMENT_MISMATCH if the content has another digest.
        """
        if digest:
            got = await _aside(data.size, lambda: hashlib.sha256(data.data).hexdigest())
            if got != digest:
                raise Fault(Reason.ARGUMENT_MISMATCH, f"the uploaded bytes have SHA-256 {got}, the header says {digest}", field="header.sha256")
            present = self._blobs.get(blobnames.by_digest(digest))
            if present is not None:
                present.used = time.monotonic()
                return present
            if self._folder is not None:
                await asyncio.to_thread(write_whole, self._folder / digest, data)
        name = blobnames.by_digest(digest) if digest else blobnames.new_lease()
        return self._add(name, data.size, await _aside(data.size, lambda: ray.put(data)))

    def find(self, name: str, field: str = "") -> Blob:
        """Returns a blob by name, which then counts as just used.

        Raises:
            Fault: BLOB_NOT_FOUND.
        """
        blob = self._blobs.get(name) or self._restore(name)
        if blob is None:
            raise Fault(Reason.BLOB_NOT_FOUND, f"no blob {name[:100]!r} is stored here (any more); upload it again", field=field)
        blob.used = time.monotonic()
        return blob

    def missing(self, names: Iterable[str]) -> list[str]:
        """Returns those of some names that are not stored, in order. The others count as just used."""
        now, absent = time.monotonic(), []
        for name in names:
            blob = self._blobs.get(name) or self._restore(name)
            if blob is None:
                absent.append(name)
            else:
                blob.used = now
        return absent

    def release(self, name: str) -> None:
        """Drops a blob before its time, if it is held and no function needs it. Work under way keeps what it uses."""
        blob = self._blobs.get(name)
        if blob is not None and not blob.pins:
            self._drop(name)

    def pin(self, names: Iterable[str]) -> None:
        """Keeps blobs for as long as a function needs them."""
        for name in names:
            self.find(name).pins += 1

    def unpin(self, names: Iterable[str]) -> None:
        """Takes back one ``pin``."""
        for name in names:
            if name in self._blobs:
                self._blobs[name].pins -= 1

    def sweep(self) -> None:
        """Drops blobs whose lease has run out."""
        expired = time.monotonic() - self.lease
        for name in [name for name, blob in self._blobs.items() if not blob.pins and blob.used < expired]:
            self._drop(name)

    def _add(self, name: str, size: int, ref: Any) -> Blob:
        blob = self._blobs[name] = Blob(name, size, ref)
        self._nbytes += size
        return blob

    def _drop(self, name: str) -> None:
        self._nbytes -= self._blobs.pop(name).size
        digest = blobnames.digest_of(name)
        if digest and self._folder is not None:
            (self._folder / digest).unlink(missing_ok=True)

    def _restore(self, name: str) -> Blob | None:
        """Returns a blob named by content that an earlier server has kept, if there is one."""
        digest = blobnames.digest_of(name)
        if digest is None or self._folder is None:
            return None
        try:
            data = np.fromfile(self._folder / digest, np.uint8)
        except OSError:
            return None
        return self._add(name, data.size, ray.put(data))


def write_whole(path: Path, data: Any) -> None:
    """Writes a file so that it is there as a whole or not at all, whatever happens meanwhile."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    partial.write_bytes(data)
    partial.replace(path)


async def _aside(size: int, work: Any) -> Any:
    """Returns what a piece of work returns, done in a thread where it would hold up the event loop."""
    return work() if size < (1 << 20) else await asyncio.to_thread(work)
