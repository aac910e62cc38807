"""Where jobs keep things: results below one folder that callers choose names in, the rest below the data folder."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jacloom_graph.errors import Fault, Reason

_HIDDEN: Final = ".jacloom"
"""Folder for what is not in place yet, on the file system of the results, so that putting it in place is a rename."""
_MOST_CHARACTERS: Final = 512
_NAME: Final = re.compile(r"[^/\0]{1,255}")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of all jobs."""

    data: Path
    """Of the ledger, and of what is remembered of each job."""
    results: Path
    """What `JobSpec.out` is relative to."""

    def own(self, job: str) -> Path:
        """Returns the folder of what a job needs besides its store."""
        return self.data / job

    def incoming(self, job: str) -> Path:
        """Returns where a job's store is made."""
        return self.results / _HIDDEN / "incoming" / job

    def aside(self, job: str) -> Path:
        """Returns where chunks wait to be put in place: one folder in it for each attempt."""
        return self.results / _HIDDEN / "aside" / job

    def store(self, out: str) -> Path:
        """Returns the folder of a store."""
        return self.results / out

    def new(self, out: str) -> Path:
        """Returns the folder of a store to be made.

        Raises:
            Fault: INVALID_OPTION for a path that leads elsewhere, that is taken, or that is none.
        """
        if _URI.match(out):
            raise _refused(f"results go to a folder of the service's own file system, got the address {out[:100]!r}; give a path")
        if len(out) > _MOST_CHARACTERS or not all(map(_NAME.fullmatch, out.split("/"))):
            raise _refused(f"out must be a relative path of names with '/' between them, at most {_MOST_CHARACTERS} characters, got {out[:100]!r}")
        if any(name in (".", "..") for name in out.split("/")) or out.split("/")[0] == _HIDDEN:
            raise _refused(f"out must lie below the folder for results, got {out[:100]!r}; leave '.' and '..' out, and {_HIDDEN} alone")
        folder = self.results / out
        # A link on the way would lead out of the folder.
        if not folder.parent.resolve().is_relative_to(self.results.resolve()):
            raise _refused(f"out must lie below the folder for results, and {out[:100]!r} leads out of it by a link")
        for parent in (folder, *folder.parents):
            if parent == self.results:
                break
            if (parent / "zarr.json").exists():
                raise _refused(f"{parent.relative_to(self.results).as_posix()!r} holds results already; choose another path")
        if folder.is_symlink() or folder.exists():
            raise _refused(f"{out[:100]!r} is there already; choose another path, or leave out away for one of its own")
        return folder

    def tidy(self, unfinished: set[str]) -> None:
        """Removes what was being made when an earlier server ended, but for the chunks of jobs that go on; those are made anew, too."""
        for kind in ("incoming", "aside"):
            folder = self.results / _HIDDEN / kind
            for entry in folder.iterdir() if folder.is_dir() else ():
                if kind == "aside" or entry.name not in unfinished:
                    shutil.rmtree(entry, ignore_errors=True)


def _refused(text: str) -> Fault:
    return Fault(Reason.INVALID_OPTION, text, field="spec.out")
