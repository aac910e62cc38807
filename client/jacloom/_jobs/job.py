"""A job of the service, as users hold it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jacloom._deadline import Deadline
from jacloom._errors import ClientStateError
from jacloom._function import Function
from jacloom._jobs import calls, fetching
from jacloom._jobs.bar import JobBar
from jacloom._jobs.calls import JobFailure, JobVerification
from jacloom._jobs.record import JobProgress, JobRecord, JobState
from jacloom._jobs.result import JobResult, result
from jacloom._jobs.watching import followed
from jacloom._session import Session


class Job:
    """One function at many points, computed by the service on its own: it goes on when this program ends, and survives whatever dies meanwhile.

    Made by ``client.submit``; ``client.job(id)`` finds it again, also in another process. What it tells is how it was when it last heard from the
    service: after ``refresh``, ``wait``, and the methods that change it. ``print`` it.
    """

    def __init__(self, session: Session, record: JobRecord, function: Function | None = None) -> None:
        """Wraps what the service says; use ``client.submit`` or ``client.job`` instead."""
        self._session = session
        # While this process has the graph, results have the containers of the user's own classes.
        self._function = function
        self.record = record
        """All that the service told when it was last asked."""

    @property
    def id(self) -> str:
        """20 hex digits."""
        return self.record.id

    @property
    def name(self) -> str:
        """Resource name, ``jobs/<id>``."""
        return f"jobs/{self.record.id}"

    @property
    def display_name(self) -> str:
        """For people; need not be unique."""
        return self.record.display_name

    @property
    def state(self) -> JobState:
        """How far it has come."""
        return self.record.state

    @property
    def progress(self) -> JobProgress:
        """How far it has come, in numbers."""
        return self.record.progress

    @property
    def message(self) -> str:
        """Why it failed, or what it waits for. May be empty."""
        return self.record.message

    @property
    def store(self) -> str:
        """Folder of its results on the service's machine: ``zarr.open(job.store)`` reads it where that can be seen."""
        return self.record.store

    def refresh(self, *, timeout: float | None = None) -> Job:
        """Asks the service how the job is now, and returns it.

        Raises:
            JobNotFoundError: if it has been deleted.
        """
        self.record = calls.get(self._connection, self.id, Deadline(timeout))
        return self

    def wait(self, timeout: float | None = None, *, on_progress: Callable[[Job], None] | None = None) -> Job:
        """Waits for the job's end, whatever that is, and returns the job: look at ``state``. A terminal shows a bar meanwhile.

        A service that cannot be reached is asked again until the timeout, without one for ever: it may be restarting, and its jobs go on then.
        Ctrl-C ends the waiting, not the job.

        Args:
            timeout: Seconds. Default: no limit.
            on_progress: Called with the job whenever it has come further, in place of the bar.

        Raises:
            DeadlineExceeded: if it has not ended by then; it goes on.
            JobNotFoundError: if it is deleted meanwhile.
        """
        try:
            with JobBar() as bar:
                for record in followed(self._connection, self.id, Deadline(timeout), lambda error: bar.lost()):
                    self.record = record
                    if on_progress is None:
                        bar.show(record)
                    else:
                        on_progress(self)
        except KeyboardInterrupt:
            print(
                f"jacloom: job {self.id} goes on. To come back to it: client.job({self.id!r}).wait(), or `jacloom watch {self.id}`; "
                f"to stop it: job.cancel(), or `jacloom cancel {self.id}`.",
                file=sys.stderr,
            )
            raise
        return self

    def cancel(self, *, timeout: float | None = None) -> Job:
        """Stops the job and returns it; what is finished stays. Does nothing to one that has ended."""
        self.record = calls.cancel(self._connection, self.id, Deadline(timeout))
        return self

    def retry_failed(self, *, timeout: float | None = None) -> Job:
        """Has the points computed again that failed, and those that a cancelled job had not come to; returns the job, which runs again then."""
        self.record = calls.retry(self._connection, self.id, Deadline(timeout))
        return self

    def verify(self, *, timeout: float | None = None) -> JobVerification:
        """Has all finished results compared with their checksums. What is damaged or gone is computed again; the job then runs once more."""
        deadline = Deadline(timeout)
        found = calls.verify(self._connection, self.id, deadline)
        self.record = calls.get(self._connection, self.id, deadline)
        return found

    def delete(self, *, timeout: float | None = None) -> None:
        """Deletes the job and its results.

        Raises:
            JobError: if it has not ended; cancel it first.
        """
        calls.delete(self._connection, self.id, Deadline(timeout))

    def failures(self, *, timeout: float | None = None) -> Iterator[JobFailure]:
        """Yields what failed, in order of the points, each with its error. ``print`` them."""
        return calls.failures(self._connection, self.id, Deadline(timeout))

    def result(self, *, timeout: float | None = None) -> JobResult:
        """Returns the results, which are read from the service when they are indexed; also while the job runs, as far as it has come.

        Raises:
            JobError: if there are none, because the job has not been planned yet, or could not be.
        """
        deadline = Deadline(timeout)
        if not self.record.arrays or not self.state.ended:
            self.record = calls.get(self._connection, self.id, deadline)
        return result(self._session, self.record, deadline)

    def fetch(
        self, path: str | os.PathLike[str], points: slice = slice(None), array: str | None = None, *, timeout: float | None = None
    ) -> dict[str, Path]:
        """Writes results to ``.npy`` files as they come, however large they are, and returns the files by the names of their arrays.

        A file appears under its name when it is complete. Where the connection breaks, the transfer goes on from where it was.

        Args:
            path: A ``.npy`` file for one array; or a folder, made if it is not there, for all of them, a file each.
            points: Which points.
            array: One array by its path, such as ``"jacobian"`` or ``"status"``; ``job.result().arrays`` has them. Default: all of them, and for a
                file the only one of the derivative.
            timeout: Seconds. Default: no limit.

        Raises:
            JobError: if some of the points are not finished.
            ArgumentError: if there is no such array, or there are several for one file.
            OptionError: if a file cannot be written.

        Example:
            >>> job.fetch("jacobians.npy", points=slice(0, 1000))
            {'jacobian': PosixPath('jacobians.npy')}
        """
        deadline = Deadline(timeout)
        if not self.record.arrays:
            self.record = calls.get(self._connection, self.id, deadline)
        return fetching.fetch(self._connection, self.record, path, points, array, deadline)

    @property
    def _connection(self) -> Any:
        return self._session.connection

    def __reduce__(self) -> Any:
        raise ClientStateError(
            f"a jl.Job belongs to its client, and does not go to another process: pass job.id, and call client.job({self.id!r}) there"
        )

    def __repr__(self) -> str:
        shown = f"{self.display_name} " if self.display_name else ""
        progress = self.progress
        return f"<jacloom.Job {shown}{self.id}: {self.state.value}, {progress.points_done:,} of {progress.points:,} points>"
