"""What is durably known of jobs and their units. A unit counts once, and only when its row says so."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from jacloom_graph.errors import Fault, Reason
from jacloom_server.jobs import rows
from jacloom_server.jobs.database import Database
from jacloom_server.jobs.states import Counts, Entry, Landed, State, UnitRow

_TOKEN: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_PAGE: Final = 1000
"""Rows that are read under the lock at a time."""
_LIVE: Final = "('queued', 'running')"
_COMMIT: Final = f"""
INSERT INTO units ({rows.COMMITTED}, state) VALUES (?, ?, ?, ?, ?, ?, ?, 'committed')
ON CONFLICT (job, number) DO UPDATE SET
    state = excluded.state, attempt = excluded.attempt, points = excluded.points, all_finite = excluded.all_finite, finite = excluded.finite,
    chunks = excluded.chunks
WHERE state = 'pending'
"""
_ATTEMPT: Final = """
INSERT INTO units (job, number, state, attempts, reason, message) VALUES (?, ?, 'pending', 1, ?, ?)
ON CONFLICT (job, number) DO UPDATE SET attempts = attempts + 1, reason = excluded.reason, message = excluded.message
WHERE state = 'pending'
"""


class Ledger:
    """All jobs of a data folder, in SQLite. All methods block, may be called by any thread, and are durable when they return.

    All of them may raise ``Fault`` JOB_NOT_FOUND, if they are given an id, and STORE_UNAVAILABLE; those that write also ``Superseded``.
    """

    def __init__(self, folder: Path) -> None:
        """Opens the ledger of a folder, and makes it if there is none.

        Raises:
            ConfigError: Another server has it, a newer version wrote it, or it cannot be used.
        """
        self._database = Database(folder)

    def close(self) -> None:
        """Gives the ledger up, for another server to open it."""
        self._database.close()

    def create(self, entry: Entry) -> Entry:
        """Adds a job and returns it; or the one that has its ``request_id`` already.

        Raises:
            Fault: REQUEST_CONFLICT if that one has another digest.
        """
        with self._database.writing() as connection:
            if entry.request_id:
                known = connection.execute(f"SELECT {rows.ENTRY} FROM jobs WHERE request_id = ?", (entry.request_id,)).fetchone()
                if known is not None:
                    return _same(rows.entry(known), entry)
            values = rows.entry_values(entry)
            connection.execute(f"INSERT INTO jobs ({rows.ENTRY}) VALUES ({', '.join('?' * len(values))})", values)
        return entry

    def get(self, id_: str) -> Entry:
        """Returns a job."""
        with self._database.reading() as connection:
            found = connection.execute(f"SELECT {rows.ENTRY} FROM jobs WHERE id = ?", (id_,)).fetchone()
        if found is None:
            raise _unknown(id_)
        return rows.entry(found)

    def of_request(self, request_id: str) -> Entry | None:
        """Returns the job that a request has made, if it has made one."""
        found = self._entries("request_id = ?", (request_id,))
        return found[0] if found else None

    def page(self, size: int, token: str, states: Collection[State] = (), function: str = "") -> tuple[list[Entry], str]:
        """Returns some jobs, newest first, and the token of the page after, empty if this is the last.

        Args:
            size: At most so many; 0 for 100.
            token: From the page before; empty for the first.
            states: Only jobs in one of these; empty for all.
            function: Only jobs of this one; empty for any.

        Raises:
            Fault: INVALID_OPTION for a size or token that cannot be.
        """
        if not 0 <= size <= _PAGE:
            raise Fault(Reason.INVALID_OPTION, f"a page has 1 to {_PAGE} jobs (0 for 100), got {size}", field="page_size")
        if token and not _TOKEN.fullmatch(token):
            raise Fault(Reason.INVALID_OPTION, "the page token is none that this server gave; begin again without one", field="page_token")
        size = size or 100
        conditions, values = ["1"], list[Any]()
        if token:
            conditions.append("number <= ?")
            values.append(int(token))
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values += [state.value for state in states]
        if function:
            conditions.append("function = ?")
            values.append(function)
        # A token is a number and not a job's id: the job may be deleted before the next page is asked for.
        query = f"SELECT {rows.ENTRY}, number FROM jobs WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?"
        with self._database.reading() as connection:
            found = connection.execute(query, (*values, size + 1)).fetchall()
        return [rows.entry(row[:-1]) for row in found[:size]], str(found[size][-1]) if len(found) > size else ""

    def unfinished(self) -> list[Entry]:
        """Returns the jobs that have not ended, oldest first."""
        return self._entries(f"state IN {_LIVE}", ())

    def expired(self, now: float) -> list[Entry]:
        """Returns the jobs that ended longer ago than they are kept, oldest first."""
        return self._entries("ended + ttl <= ?", (now,))

    def plan(self, id_: str, record: bytes, units: int, now: float) -> Entry:
        """Writes down how a queued job is computed, which makes it a running one. Has no effect on any other. Returns the job as it then is."""
        change = "record = ?, units = ?, started = ?, state = ?"
        return self._change(id_, change, (record, units, now, State.RUNNING.value), (State.QUEUED,))

    def note(self, id_: str, message: str) -> Entry:
        """Writes down what a job that has not ended waits for. Returns the job as it then is."""
        return self._change(id_, "message = ?", (message,), (State.QUEUED, State.RUNNING))

    def end(self, id_: str, state: State, message: str, now: float) -> Entry:
        """Ends a job, unless it has ended already. Returns the job as it then is."""
        if not state.ended:
            raise ValueError(f"a job ends in one of the states of an end, not {state}")
        return self._change(id_, "state = ?, message = ?, ended = ?", (state.value, message, now), (State.QUEUED, State.RUNNING))

    def reopen(self, id_: str) -> Entry:
        """Has a job that has ended run again: its failed units are pending as if never tried. Has no effect on one that has not ended.

        One that was never planned is queued. A deadline that was exceeded does not hold any more. Returns the job as it then is.
        """
        with self._database.writing() as connection:
            job = _number(connection, id_)
            live = connection.execute(f"SELECT 1 FROM jobs WHERE number = ? AND state IN {_LIVE}", (job,)).fetchone()
            if live is None:
                connection.execute("DELETE FROM units WHERE job = ? AND state = 'failed'", (job,))
                connection.execute(
                    """
                    UPDATE jobs SET
                        deadline = CASE state WHEN 'deadline_exceeded' THEN NULL ELSE deadline END,
                        state = CASE record WHEN x'' THEN 'queued' ELSE 'running' END,
                        message = '', ended = NULL, units_failed = 0, points_failed = 0
                    WHERE number = ?
                    """,
                    (job,),
                )
        return self.get(id_)

    def delete(self, id_: str) -> None:
        """Forgets a job that has ended.

        Raises:
            Fault: JOB_NOT_ENDED.
        """
        with self._database.writing() as connection:
            job = _number(connection, id_)
            if not connection.execute(f"DELETE FROM jobs WHERE number = ? AND state NOT IN {_LIVE}", (job,)).rowcount:
                raise Fault(Reason.JOB_NOT_ENDED, f"the job {id_} has not ended; cancel it first")

    def settled(self, id_: str, numbers: Iterable[int]) -> set[int]:
        """Returns which of these units are committed or have failed: those that ``commit`` would leave alone.

        Raises:
            Superseded: The answer may be out of date any time.
        """
        with self._database.reading() as connection:
            self._database.confirm()
            job = _number(connection, id_)
            query = "SELECT 1 FROM units WHERE job = ? AND number = ? AND state != 'pending'"
            return {number for number in numbers if connection.execute(query, (job, number)).fetchone()}

    def commit(self, id_: str, landings: Sequence[Landed], counts: Callable[[Sequence[Landed]], Counts]) -> list[int]:
        """Counts units whose chunks are in place, all at once or none. Those that are settled already, see ``settled``, are left alone.

        Args:
            id_: The job.
            landings: The units.
            counts: Returns what is to be added to the job's counts for those that are newly counted. Called within the transaction, after their rows
                are written: it may ask ``committed`` of this ledger, and must not write to it.

        Returns:
            The numbers of those that are newly counted, in order.
        """
        with self._database.writing() as connection:
            job = _number(connection, id_)
            new = [landed for landed in landings if connection.execute(_COMMIT, rows.committed_values(job, landed)).rowcount]
            if new:
                _add(connection, job, counts(new))
        return [landed.number for landed in new]

    def committed(self, id_: str, numbers: range) -> tuple[int, int]:
        """Returns how many of the units of a range (of step 1) are committed, and how many of those have finite results at all of their points."""
        with self._database.reading() as connection:
            query = "SELECT count(*), total(all_finite) FROM units WHERE job = ? AND number >= ? AND number < ? AND state = 'committed'"
            done, finite = connection.execute(query, (_number(connection, id_), numbers.start, numbers.stop)).fetchone()
        return done, int(finite)

    def attempt(self, id_: str, number: int, reason: str, message: str) -> int:
        """Writes down that an attempt at a unit failed or was lost, and returns how many did so far. Adds to the job's retries.

        Has no effect on a unit that is settled.
        """
        with self._database.writing() as connection:
            job = _number(connection, id_)
            if connection.execute(_ATTEMPT, (job, number, reason, message)).rowcount:
                _add(connection, job, Counts(retries=1))
            (attempts,) = connection.execute("SELECT attempts FROM units WHERE job = ? AND number = ?", (job, number)).fetchone()
        return int(attempts)

    def fail(self, id_: str, number: int, counts: Counts) -> bool:
        """Gives up a unit that attempts have failed at, and adds to the job's counts.

        Returns False, with no effect, if it was settled before, or never tried.
        """
        with self._database.writing() as connection:
            job = _number(connection, id_)
            query = "UPDATE units SET state = 'failed' WHERE job = ? AND number = ? AND state = 'pending'"
            failed = bool(connection.execute(query, (job, number)).rowcount)
            if failed:
                _add(connection, job, counts)
        return failed

    def lose(self, id_: str, numbers: Iterable[int], counts: Callable[[Sequence[int]], Counts]) -> list[int]:
        """Has committed units computed again, as if never tried: all of them or none. Those that are not committed are left alone.

        Args:
            id_: The job.
            numbers: The units.
            counts: Returns what is to be added to the job's counts (what is less is negative) for those that are newly lost. Called within the
                transaction, as that of ``commit``.

        Returns:
            The numbers of those that are newly lost, in order.
        """
        query = "DELETE FROM units WHERE job = ? AND number = ? AND state = 'committed'"
        with self._database.writing() as connection:
            job = _number(connection, id_)
            lost = [number for number in numbers if connection.execute(query, (job, number)).rowcount]
            if lost:
                _add(connection, job, counts(lost))
        return lost

    def units(self, id_: str) -> Iterator[UnitRow]:
        """Yields what is known of a job's units, in order. Others may write meanwhile, and what they write may be seen or not."""
        after = -1
        while found := self._unit_rows(id_, "1", _PAGE, after):
            yield from found
            after = found[-1].number

    def failures(self, id_: str, size: int, after: int = -1) -> list[UnitRow]:
        """Returns the first ``size`` failed units with numbers greater than ``after``, in order."""
        return self._unit_rows(id_, "state = 'failed'", size, after)

    def _entries(self, condition: str, values: Sequence[Any]) -> list[Entry]:
        with self._database.reading() as connection:
            found = connection.execute(f"SELECT {rows.ENTRY} FROM jobs WHERE {condition} ORDER BY number", values).fetchall()
        return [rows.entry(row) for row in found]

    def _unit_rows(self, id_: str, condition: str, size: int, after: int) -> list[UnitRow]:
        query = f"SELECT {rows.UNIT} FROM units WHERE job = ? AND number > ? AND {condition} ORDER BY number LIMIT ?"
        with self._database.reading() as connection:
            found = connection.execute(query, (_number(connection, id_), after, size)).fetchall()
        return [rows.unit(row) for row in found]

    def _change(self, id_: str, change: str, values: Sequence[Any], states: Collection[State]) -> Entry:
        """Changes a job that is in one of some states, and returns it as it then is."""
        query = f"UPDATE jobs SET {change} WHERE id = ? AND state IN ({', '.join('?' * len(states))})"
        with self._database.writing() as connection:
            connection.execute(query, (*values, id_, *(state.value for state in states)))
        return self.get(id_)


def _number(connection: sqlite3.Connection, id_: str) -> int:
    """Returns the number of a job, by which units name it."""
    found = connection.execute("SELECT number FROM jobs WHERE id = ?", (id_,)).fetchone()
    if found is None:
        raise _unknown(id_)
    return int(found[0])


def _add(connection: sqlite3.Connection, job: int, counts: Counts) -> None:
    connection.execute(f"UPDATE jobs SET {rows.ADDED} WHERE number = ?", (*rows.count_values(counts), job))


def _same(known: Entry, asked: Entry) -> Entry:
    """Returns the job that a request has made before, if it asked for the same."""
    if known.digest != asked.digest:
        raise Fault(
            Reason.REQUEST_CONFLICT,
            f"the request id {asked.request_id!r} has made the job {known.id} with another spec or other points; take a new id, or delete that job",
            field="spec.request_id",
        )
    return known


def _unknown(id_: str) -> Fault:
    return Fault(Reason.JOB_NOT_FOUND, f"no job {id_[:100]!r} is known here; it may have been deleted", field="name")
