"""The file that jobs are written down in: one process has it at a time, and each write is there as a whole or not at all."""

from __future__ import annotations

import fcntl
import io
import os
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_server.config import ConfigError
from jacloom_server.jobs import failpoints

VERSION: Final = 1
"""Of the tables below. Raise it with every change to them, and bring older files up to date in ``_prepare``."""
_BUSY_SECONDS: Final = 30.0
"""How long a write waits for somebody else's, such as a backup's."""

_STORAGE: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
"""What goes wrong outside of this program."""

_TABLES: Final = """
CREATE TABLE epoch (value INTEGER NOT NULL);
INSERT INTO epoch VALUES (0);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    request_id TEXT UNIQUE,
    digest TEXT NOT NULL,
    display_name TEXT NOT NULL,
    function TEXT NOT NULL,
    derivative TEXT NOT NULL,
    points INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    out TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    deadline REAL,
    ttl REAL,
    state TEXT NOT NULL,
    message TEXT NOT NULL,
    units INTEGER NOT NULL,
    points_done INTEGER NOT NULL,
    points_failed INTEGER NOT NULL,
    points_not_finite INTEGER NOT NULL,
    units_done INTEGER NOT NULL,
    units_failed INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    spec BLOB NOT NULL,
    record BLOB NOT NULL
);
CREATE TABLE units (
    job INTEGER NOT NULL REFERENCES jobs (number) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    attempt TEXT,
    points INTEGER NOT NULL DEFAULT 0,
    all_finite INTEGER NOT NULL DEFAULT 0,
    finite BLOB,
    chunks TEXT,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""


class Superseded(Exception):
    """Another server has opened the ledger since this one did: this one must not write any more."""


class Database:
    """The connection of the one server that may write. Used by any thread, one after the other."""

    def __init__(self, folder: Path) -> None:
        """Opens the file in a folder, which is made if it is not there.

        Raises:
            ConfigError: Another process has it; a newer version wrote it; it cannot be read or written.
        """
        path = folder / "jobs.sqlite3"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._hold = _taken(folder / "lock")
        except OSError as error:
            raise ConfigError(f"the folder for jobs, {folder}, cannot be used: {error.strerror}. Mend that, or give another data folder.") from error
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                _prepare(self._connection, path)
                self._epoch = _next_epoch(self._connection)
            except BaseException:
                self._connection.close()
                raise
        except BaseException as error:
            self._hold.close()
            if isinstance(error, sqlite3.Error):
                raise ConfigError(
                    f"the ledger of jobs, {path}, cannot be used: {error}. Mend that; or move the file away: its jobs are then forgotten, and their "
                    "results stay."
                ) from error
            raise

    def close(self) -> None:
        """Gives the file up; another process may have it then. May be called again."""
        with self._lock:
            self._connection.close()
            self._hold.close()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection for queries.

        Raises:
            Fault: STORE_UNAVAILABLE if the file cannot be read.
        """
        with self._lock, _told():
            yield self._connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection for one transaction, which is durable at the end of the block, or undone if the block raises.

        Raises:
            Superseded: Another server has opened the ledger since.
            Fault: STORE_UNAVAILABLE if the file cannot be written.
        """
        with self._lock, _told():
            failpoints.reached("before-transaction")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self.confirm()
                yield self._connection
                failpoints.reached("within-transaction")
                self._connection.execute("COMMIT")
            except BaseException:
                # Some errors, such as a full disk, have undone it already.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            failpoints.reached("after-transaction")

    def confirm(self) -> None:
        """Raises Superseded if another server has opened the ledger since."""
        with self._lock:
            (epoch,) = self._connection.execute("SELECT value FROM epoch").fetchone()
        if epoch != self._epoch:
            raise Superseded(
                f"the ledger of jobs was opened as number {self._epoch}, and since then by another server as number {epoch}; end this one."
            )


def _taken(path: Path) -> io.FileIO:
    """Returns a lock file that is ours until it is closed, as it is when the process ends in whatever way."""
    with ExitStack() as failing:
        hold = failing.enter_context(io.FileIO(path, "a+"))
        try:
            fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hold.seek(0)
            holder = hold.read().decode(errors="replace").strip() or "a process that has not said which"
            raise ConfigError(
                f"{path} is held by {holder}: one server at a time may have a data folder. Stop that one, or give this one another data folder."
            ) from None
        hold.truncate(0)
        hold.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        failing.pop_all()
    return hold


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Sets a connection up and makes the tables of a new file."""
    # FULL: a commit is on the disk when it returns, in WAL mode as well.
    for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {setting}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise ConfigError(f"{path} has version {version}, and this server knows versions up to {VERSION}: a newer one wrote it. Run that one.")
    if version == 0:
        connection.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")


def _next_epoch(connection: sqlite3.Connection) -> int:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE epoch SET value = value + 1")
    (epoch,) = connection.execute("SELECT value FROM epoch").fetchone()
    connection.execute("COMMIT")
    return int(epoch)


@contextmanager
def _told() -> Iterator[None]:
    """Turns what keeps SQLite from reading and writing into a fault. Our own mistakes, such as in a statement, stay as they are."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        # Extended codes have the primary one in their lowest byte; errors of the module itself have none.
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in _STORAGE:
            raise
        raise Fault(
            Reason.STORE_UNAVAILABLE, f"the ledger of jobs cannot be read or written: {error}; see whether its disk is full, or gone"
        ) from error
