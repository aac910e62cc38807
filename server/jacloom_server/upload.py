"""An upload on its way: the buffer that it fills, and its digest, which follows close behind in a thread."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

import numpy as np

from jacloom_graph.errors import Fault, Reason

_STRIDE: Final = 8 << 20
"""Bytes hashed at once: hashing takes about as long as receiving, so it is done meanwhile, but not with a hop between threads for every message."""
_SHORT: Final = 1 << 20
"""Up to here, hashing takes less than the loop notices."""


class Upload:
    """Bytes of a known number that come in pieces. For the loop's thread alone."""

    def __init__(self, size: int, digest: str) -> None:
        """Makes room.

        Args:
            size: Bytes that are to come.
            digest: SHA-256 that they must have, in hex; empty for none.
        """
        self.data = np.empty(size, np.uint8)
        self.digest = digest
        self._filled = 0
        self._hashed = 0
        self._hash = hashlib.sha256()
        self._hashing: asyncio.Future[None] | None = None

    def take(self, piece: bytes | memoryview) -> None:
        """Copies a piece to its place.

        Raises:
            Fault: ARGUMENT_MISMATCH if more has come than was to come.
        """
        end = self._filled + len(piece)
        if end > self.data.size:
            raise Fault(Reason.ARGUMENT_MISMATCH, f"the header says {self.data.size:,} bytes, and more have come", field="data")
        self.data[self._filled : end] = np.frombuffer(piece, np.uint8)
        self._filled = end
        if self.digest and end - self._hashed >= _STRIDE and (self._hashing is None or self._hashing.done()):
            self._hashing = self._hash_on()

    async def finish(self) -> np.ndarray:
        """Returns the bytes, ``(size,)`` ``uint8``, not to be changed any more.

        Raises:
            Fault: ARGUMENT_MISMATCH if some are missing, or they have another digest.
        """
        if self._filled != self.data.size:
            raise Fault(Reason.ARGUMENT_MISMATCH, f"the header says {self.data.size:,} bytes, {self._filled:,} came", field="data")
        if self.digest:
            if self._hashing is not None:
                await self._hashing
            if self._filled - self._hashed > _SHORT:
                await self._hash_on()
            self._hash.update(self.data[self._hashed :].data)
            got = self._hash.hexdigest()
            if got != self.digest:
                message = f"the uploaded bytes have SHA-256 {got}, the header says {self.digest}"
                raise Fault(Reason.ARGUMENT_MISMATCH, message, field="header.sha256")
        return self.data

    def _hash_on(self) -> asyncio.Future[None]:
        """Hashes what has come and is not hashed yet, in a thread. One at a time: the order counts."""
        fresh, self._hashed = self.data[self._hashed : self._filled], self._filled
        return asyncio.get_running_loop().run_in_executor(None, self._hash.update, fresh.data)
