"""A job followed to its end, whatever happens to the connection meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import DeadlineExceeded, LocalServiceError, UnavailableError
from jacloom._jobs import calls
from jacloom._jobs.record import JobRecord

FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0


def followed(
    connection: Connection, job: str, deadline: Deadline, lost: Callable[[UnavailableError], None] = lambda error: None
) -> Iterator[JobRecord]:
    """Yields a job whenever it has come further, the last time at its end.

    A service that cannot be reached is asked again until the deadline, without one for ever: it may be restarting, and its jobs go on then.

    Args:
        connection: To the service.
        job: Its id.
        deadline: Until when.
        lost: Called whenever the service cannot be reached.

    Raises:
        DeadlineExceeded: if the job has not ended by then. It goes on.
        JobNotFoundError: if there is none of that id, or none any more.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            for record in calls.watched(connection, job, deadline):
                pause = FIRST_PAUSE
                yield record
                if record.state.ended:
                    return
        except LocalServiceError:
            raise
        except UnavailableError as error:
            lost(error)
        except DeadlineExceeded:
            raise _goes_on(job, deadline) from None
        # A stream that ended before the job did was that of a service that is shutting down.
        if not deadline.allows(pause):
            raise _goes_on(job, deadline)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _goes_on(job: str, deadline: Deadline) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"job {job} had not ended after {deadline.timeout:g} s; it goes on: wait again with client.job({job!r}).wait(), or stop it with cancel()"
    )
