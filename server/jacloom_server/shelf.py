"""The folder of kept functions: what outlives the server."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jacloom_server.blobs import write_whole

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """A function as it is kept. What the graph was found to be is not part of it: that may have been another version's opinion."""

    graph: bytes
    display_name: str
    created: datetime


class Shelf:
    """Two files a function: ``<id>.graph``, and ``<id>.json`` with what is not in the graph. All methods block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, id_: str, record: Record) -> None:
        """Keeps a function.

        Raises:
            OSError: The folder does not take it.
        """
        write_whole(self._graph(id_), record.graph)
        # Last, because a function counts as kept once this is there.
        write_whole(self._about(id_), json.dumps({"display_name": record.display_name, "created": record.created.isoformat()}).encode())

    def read(self, id_: str) -> Record | None:
        """Returns a kept function; None where there is none, or none that can be read."""
        try:
            text = self._about(id_).read_bytes()
        except FileNotFoundError:
            return None
        try:
            about = json.loads(text)
            return Record(self._graph(id_).read_bytes(), str(about["display_name"]), datetime.fromisoformat(about["created"]))
        except (OSError, ValueError, LookupError, TypeError) as error:
            _LOG.warning("%s does not describe a kept function and is left alone: %r", self._about(id_), error)
            return None

    def holds(self, id_: str) -> bool:
        """Returns whether a function is kept, readable or not."""
        return self._about(id_).exists()

    def remove(self, id_: str) -> bool:
        """Removes a function and returns whether it was kept."""
        kept = self.holds(id_)
        for path in (self._about(id_), self._graph(id_)):
            path.unlink(missing_ok=True)
        return kept

    def ids(self) -> list[str]:
        """Returns the ids of all kept functions, oldest first."""
        found = []
        for path in self._folder.glob("*.json"):
            with suppress(FileNotFoundError):
                found.append((path.stat().st_mtime, path.stem))
        return [id_ for _, id_ in sorted(found)]

    def _graph(self, id_: str) -> Path:
        return self._folder / f"{id_}.graph"

    def _about(self, id_: str) -> Path:
        return self._folder / f"{id_}.json"
