"""Caches that stay small and keep nothing alive."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """A mapping that forgets its oldest entries. Reading takes no lock, because a look-up is on the path of every call."""

    def __init__(self, size: int = 256) -> None:
        self._size = size
        self._entries: dict[Hashable, V] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        """Returns the entry, or None."""
        return self._entries.get(key)

    def put(self, key: Hashable, value: V) -> V:
        """Keeps and returns ``value``, or returns the one that another thread has put there meanwhile."""
        with self._lock:
            kept = self._entries.setdefault(key, value)
            while len(self._entries) > self._size:
                del self._entries[next(iter(self._entries))]
            return kept

    def drop(self, key: Hashable) -> None:
        """Forgets an entry, if it is there."""
        with self._lock:
            self._entries.pop(key, None)


class PerObject(Generic[V]):
    """One ``Recent`` per object, for as long as the object lives.

    Objects count by identity: two callables that compare equal may still compute different things. An object that cannot be referenced weakly has no
    entry, and so is looked at anew each time.
    """

    def __init__(self) -> None:
        self._caches: dict[int, tuple[weakref.ref[object], Recent[V]]] = {}

    def of(self, thing: object) -> Recent[V]:
        """Returns the cache of an object."""
        key = id(thing)
        found = self._caches.get(key)
        if found is not None and found[0]() is thing:
            return found[1]
        cache: Recent[V] = Recent()
        try:
            reference = weakref.ref(thing, lambda gone: self._forget(key, gone))
        except TypeError:
            return cache
        self._caches[key] = (reference, cache)
        return cache

    def _forget(self, key: int, gone: weakref.ref[object]) -> None:
        # The id may belong to a new object by now.
        found = self._caches.get(key)
        if found is not None and found[0] is gone:
            del self._caches[key]
