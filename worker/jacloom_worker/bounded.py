"""A mapping that stays small: the entries used longest ago leave first."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """A cache bounded by the number of its entries and by their bytes. Not thread-safe.

    An entry larger than the bound on bytes is kept alone: whoever put it is about to use it.
    """

    def __init__(self, entries: int, nbytes: int | None = None, dropped: Callable[[K, V], None] | None = None) -> None:
        """Makes an empty cache.

        Args:
            entries: Most entries, at least 1.
            nbytes: Most bytes over all entries; None for no bound.
            dropped: Called with each entry that is pushed out.
        """
        self._most_entries = entries
        self._most_bytes = nbytes
        self._dropped = dropped
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._used: dict[K, float] = {}
        """When each was used last."""
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[K]:
        return iter(tuple(self._entries))

    def get(self, key: K) -> V | None:
        """Returns the value of a key, which then counts as just used, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        self._used[key] = time.monotonic()
        return entry[0]

    def put(self, key: K, value: V, nbytes: int = 0) -> None:
        """Adds or replaces an entry, and drops the oldest until the bounds hold."""
        self.discard(key)
        self._entries[key] = (value, nbytes)
        self._used[key] = time.monotonic()
        self.nbytes += nbytes
        while len(self._entries) > 1 and self._is_over():
            oldest, (old, _) = next(iter(self._entries.items()))
            self.discard(oldest)
            if self._dropped:
                self._dropped(oldest, old)

    def discard(self, key: K) -> None:
        """Removes an entry if it is there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.nbytes -= entry[1]
            del self._used[key]

    def discard_idle(self, seconds: float) -> None:
        """Removes entries that have not been used for some seconds."""
        now = time.monotonic()
        for key in self:
            if now - self._used[key] < seconds:
                return  # those after it were used later
            self.discard(key)

    def _is_over(self) -> bool:
        return len(self._entries) > self._most_entries or (self._most_bytes is not None and self.nbytes > self._most_bytes)
