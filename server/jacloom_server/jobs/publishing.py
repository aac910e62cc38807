"""Putting results in place, so that what counts is durably there and what is there is never overwritten once it counts.

Workers write a unit's chunks aside and sync them. Here they are renamed into the job's group, their directories are synced, and then one
transaction of the ledger counts all units of a batch. A crash before it leaves chunks that do not count, and that the unit's next attempt replaces.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_server.jobs import failpoints
from jacloom_server.jobs.database import Superseded
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.states import Counts, Landed
from jacloom_worker.unit import Chunk

_ADVICE: Final = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room in the quota",
    errno.EXDEV: "results and what is written aside must be on one file system: mount nothing below the folder for results",
}


@dataclass(frozen=True, slots=True, eq=False)
class Landing:
    """A unit to put in place."""

    job: str
    store: Path
    """Folder of the job's group."""
    aside: Path
    """Folder of this attempt alone. It is removed when the unit is in place, or cannot be put there."""
    landed: Landed
    counts: Callable[[Sequence[Landed]], Counts]
    """As for ``Ledger.commit``: what is to be added for units of this job that are newly counted. Called in the publisher's thread."""


class Publisher:
    """Puts units in place, in a thread of its own. What comes while it works is taken together in the next batch.

    Attempts' folders are removed in another thread: that takes longer than all the rest on some file systems, and nobody need wait for it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, "publisher")
        self._sweeper = ThreadPoolExecutor(1, "sweeper")
        self._waiting: deque[tuple[Landing, Future[bool]]] = deque()

    async def publish(self, landing: Landing) -> bool:
        """Returns True when a unit is in place and counted; False if it was settled before, or another one of the same batch was first.

        If it is cancelled before its turn has come, nothing of it is put in place.

        Raises:
            Fault: INTERNAL if a chunk is not as the worker said; STORE_UNAVAILABLE if it cannot be put in place, or be counted; JOB_NOT_FOUND. The
                unit does not count then.
            Superseded: Another server has the ledger. Nothing was touched, or what was is not counted.
        """
        future: Future[bool] = Future()
        self._waiting.append((landing, future))
        self._thread.submit(self._take)
        return await asyncio.wrap_future(future)

    async def discard(self, folder: Path) -> None:
        """Removes a folder, such as that of an attempt that nobody waits for, or of all attempts of a job. It may be gone already.

        Folders of attempts that were published before are gone then, too.
        """
        await asyncio.wrap_future(self._sweeper.submit(_remove, folder))

    def close(self) -> None:
        """Ends the threads when all that has come is in place; blocks until then. Folders that are still to be removed are left there."""
        self._thread.shutdown()
        self._sweeper.shutdown(cancel_futures=True)

    def _take(self) -> None:
        batch: list[tuple[Landing, Future[bool]]] = []
        while self._waiting:
            landing, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                batch.append((landing, future))
            else:
                self._sweeper.submit(_remove, landing.aside)
        try:
            outcomes = put(self._ledger, [landing for landing, _ in batch])
        except BaseException as error:
            # Whatever it is, nobody shall wait for ever.
            outcomes = [error] * len(batch)
        for (landing, future), outcome in zip(batch, outcomes, strict=True):
            # The server that has the ledger now looks after what this one leaves.
            if not isinstance(outcome, Superseded):
                self._sweeper.submit(_remove, landing.aside)
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


def put(ledger: Ledger, landings: Sequence[Landing]) -> list[bool | BaseException]:
    """Puts units in place and counts them, and returns for each what ``Publisher.publish`` returns or raises for it. Blocks.

    One caller at a time: it is here that a unit's second attempt finds that the first one was counted.
    """
    by_job: dict[str, list[Landing]] = {}
    for landing in landings:
        by_job.setdefault(landing.job, []).append(landing)
    outcomes: dict[Landing, bool | BaseException] = {}
    for job, of_job in by_job.items():
        outcomes |= _put(ledger, job, of_job)
    return [outcomes[landing] for landing in landings]


def _put(ledger: Ledger, job: str, landings: Sequence[Landing]) -> dict[Landing, bool | BaseException]:
    try:
        settled = ledger.settled(job, [landing.landed.number for landing in landings])
    except Exception as error:
        return dict.fromkeys(landings, error)
    outcomes: dict[Landing, bool | BaseException] = {}
    moved: list[Landing] = []
    for landing in landings:
        if landing.landed.number in settled:
            outcomes[landing] = False
            continue
        try:
            _move(landing)
        except (OSError, Fault) as error:
            outcomes[landing] = _fault(error, landing)
        else:
            settled.add(landing.landed.number)
            moved.append(landing)
    if moved:
        try:
            _sync(_directories(moved))
            new = ledger.commit(job, [landing.landed for landing in moved], moved[-1].counts)
        except Exception as error:
            outcomes |= {landing: _fault(error, landing) for landing in moved}
        else:
            outcomes |= {landing: landing.landed.number in new for landing in moved}
    return outcomes


def _move(landing: Landing) -> None:
    """Renames a unit's chunks into the group, if all of them are as the worker said."""
    if not landing.store.is_dir():
        # Not made here: a file system that is not mounted looks like this.
        raise Fault(Reason.STORE_UNAVAILABLE, f"results should go into the folder {landing.store}, and there is none; mount its file system")
    for chunk in landing.landed.chunks:
        _check(landing, chunk)
    for index, chunk in enumerate(landing.landed.chunks):
        if index:
            failpoints.reached("between-renames")
        failpoints.reached("before-rename")
        target = landing.store / chunk.path
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(landing.aside / chunk.path, target)


def _check(landing: Landing, chunk: Chunk) -> None:
    """Raises INTERNAL for a chunk that is not there, or not whole: the unit is to be computed again, and that counts as an attempt."""
    path = PurePosixPath(chunk.path)
    if path.is_absolute() or ".." in path.parts:
        raise Fault(Reason.INTERNAL, f"a chunk has a path within its group, a worker named {chunk.path!r}; unit {landing.landed.number} is not taken")
    try:
        status = os.lstat(landing.aside / path)
        found = f"it has {status.st_size:,}"
        whole = stat.S_ISREG(status.st_mode) and status.st_size == chunk.nbytes
    except (FileNotFoundError, NotADirectoryError):
        found, whole = "there is no such file", False
    if not whole:
        raise Fault(
            Reason.INTERNAL,
            f"the chunk {chunk.path} of unit {landing.landed.number} should have {chunk.nbytes:,} bytes in {landing.aside}, and {found}; "
            "if workers are on other machines, see that all share the folder for results",
        )


def _directories(landings: Iterable[Landing]) -> list[Path]:
    """Returns every directory that has chunks of these units below it, the groups' own included.

    All of them, and not only those that are new: one that was made before a crash may not have lasted, either.
    """
    found: dict[Path, None] = {}
    for landing in landings:
        for chunk in landing.landed.chunks:
            found |= dict.fromkeys(landing.store / parent for parent in PurePosixPath(chunk.path).parents)
    return list(found)


def _sync(directories: Iterable[Path]) -> None:
    """Has the renames last. After all renames of a batch: file systems with a journal write it once then."""
    failpoints.reached("before-directory-sync")
    for directory in directories:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # File systems that do not sync directories say so in this way; their renames last as they will.
            if error.errno != errno.EINVAL:
                raise
        finally:
            os.close(descriptor)


def _remove(folder: Path) -> None:
    failpoints.reached("before-removal")
    shutil.rmtree(folder, ignore_errors=True)


def _fault(error: Exception, landing: Landing) -> Exception:
    """Returns what a failure is to callers."""
    if not isinstance(error, OSError):
        return error
    advice = _ADVICE.get(error.errno or 0, "mend that")
    message = f"unit {landing.landed.number} cannot be put in place in {landing.store}: {error.strerror}; {advice}, and it is tried again"
    fault = Fault(Reason.STORE_UNAVAILABLE, message)
    fault.__cause__ = error
    return fault
