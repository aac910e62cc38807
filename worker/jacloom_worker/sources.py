"""Reading the arguments of a job's points from its store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import zarr
from zarr.storage import LocalStore

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import storage
from jacloom_worker.aside import unavailable
from jacloom_worker.bounded import Bounded
from jacloom_worker.unit import Site, Source

_ARRAYS, _BYTES = 256, 256 << 20
_SHARE: Final = 8
"""The part of a worker's memory that may be used for what points share."""


class Reader:
    """Reads arguments, and keeps those that the points of a job share. Bounded; not thread-safe."""

    def __init__(self, memory_limit: int | None = None) -> None:
        """Makes one that keeps nothing yet; ``memory_limit``: bytes that the worker may use, None for no bound."""
        most = _BYTES if memory_limit is None else min(_BYTES, memory_limit // _SHARE)
        self._shared: Bounded[tuple[str, str], np.ndarray] = Bounded(_ARRAYS, most)

    def read(self, site: Site, sources: Sequence[Source], first: int, count: int) -> list[np.ndarray]:
        """Returns the arguments of some points.

        Args:
            site: Where they are.
            sources: What they are.
            first: The first point.
            count: How many points.

        Returns:
            One array per source, dtype and shape those that arguments travel in; of what varies with a first axis of length ``count``.

        Raises:
            Fault: STORE_UNAVAILABLE where the system does not let them be read; INTERNAL where they are damaged.
        """
        store = LocalStore(site.store, read_only=True)
        return [self._points(store, source, first, count) if source.varies else self._common(store, site, source) for source in sources]

    def _points(self, store: LocalStore, source: Source, first: int, count: int) -> np.ndarray:
        return _read(store, source, slice(first, first + count))

    def _common(self, store: LocalStore, site: Site, source: Source) -> np.ndarray:
        found = self._shared.get((site.job, source.path))
        if found is None:
            found = _read(store, source, ...)
            self._shared.put((site.job, source.path), found, found.nbytes)
        return found


def _read(store: LocalStore, source: Source, selection: Any) -> np.ndarray:
    try:
        elements = np.asarray(zarr.open_array(store, path=source.path, mode="r")[selection])
    except OSError as error:
        raise unavailable(source.path, "read", error) from error
    except ValueError as error:  # a checksum that is not that of its chunk
        raise Fault(Reason.INTERNAL, f"{source.path} is damaged: {error}") from error
    return elements.astype(storage(source.type)[0], copy=False)
