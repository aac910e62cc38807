"""Jobs and units in the ledger: written once, counted once, by one server."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unit import landed

from jacloom_graph.errors import Fault, Reason
from jacloom_server.config import ConfigError
from jacloom_server.jobs.database import VERSION, Superseded
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.states import Counts, Entry, Landed, State, UnitState

JOB = f"{0:020x}"
ENDS = [state for state in State if state.ended]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "jobs")
    yield made
    made.close()


@pytest.fixture
def running(ledger: Ledger) -> Ledger:
    """A ledger with a job that runs."""
    ledger.create(landed.entry())
    ledger.plan(JOB, b"record", 15, 6.0)
    return ledger


def reopened(ledger: Ledger, tmp_path: Path) -> Ledger:
    ledger.close()
    return Ledger(tmp_path / "jobs")


def refused(reason: Reason, field: str = "") -> pytest.RaisesExc[Fault]:
    return pytest.RaisesExc(Fault, check=lambda fault: (fault.reason, fault.field) == (reason, field))


def test_a_job_is_as_it_was_made_also_for_the_next_server(ledger: Ledger, tmp_path: Path) -> None:
    bare = landed.entry(1)
    full = landed.entry(
        2, request_id="r", display_name="n", priority=-3, deadline=9.5, ttl=60.0, message="m", points=7, spec=b"\0\xff", record=b"r", units=3,
        started=6.0, ended=7.0, state=State.FAILED, counts=Counts(1, 2, 3, 4, 5, 6),
    )  # fmt: skip
    assert (ledger.create(bare), ledger.create(full)) == (bare, full)
    again = reopened(ledger, tmp_path)
    assert (again.get(bare.id), again.get(full.id)) == (bare, full)
    again.close()


def test_unknown_jobs_are_said_to_be(ledger: Ledger) -> None:
    calls = [
        lambda: ledger.get("x"),
        lambda: ledger.plan("x", b"", 1, 1.0),
        lambda: ledger.note("x", ""),
        lambda: ledger.end("x", State.FAILED, "", 1.0),
        lambda: ledger.reopen("x"),
        lambda: ledger.delete("x"),
        lambda: ledger.settled("x", [1]),
        lambda: ledger.commit("x", [], landed.counts),
        lambda: ledger.committed("x", range(3)),
        lambda: ledger.attempt("x", 1, "INTERNAL", ""),
        lambda: ledger.fail("x", 1, Counts()),
        lambda: ledger.lose("x", [], lambda _: Counts()),
        lambda: list(ledger.units("x")),
        lambda: ledger.failures("x", 10),
    ]
    for call in calls:
        with refused(Reason.JOB_NOT_FOUND, "name"):
            call()


def test_a_request_makes_one_job_however_often_and_wherever_it_comes_at_once(ledger: Ledger) -> None:
    threads = 1000
    begin = threading.Barrier(threads)
    made: list[Entry] = []

    def create(number: int) -> None:
        begin.wait()
        made.append(ledger.create(landed.entry(number, request_id="r")))

    workers = [threading.Thread(target=create, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    entries, token = ledger.page(0, "")
    assert (len(entries), token) == (1, "")
    assert made == entries * threads


def test_a_request_that_asks_for_something_else_is_refused(ledger: Ledger) -> None:
    first = ledger.create(landed.entry(1, request_id="r"))
    with refused(Reason.REQUEST_CONFLICT, "spec.request_id"):
        ledger.create(landed.entry(2, request_id="r", digest="other"))
    ledger.end(first.id, State.CANCELLED, "", 7.0)
    ledger.delete(first.id)
    assert ledger.create(landed.entry(2, request_id="r", digest="other")).id == landed.entry(2).id


def test_jobs_without_a_request_id_are_all_new(ledger: Ledger) -> None:
    assert [ledger.create(landed.entry(number)).id for number in range(3)] == [landed.entry(number).id for number in range(3)]


def test_pages_hold_every_job_once_while_jobs_come_and_go(ledger: Ledger) -> None:
    for number in range(9):
        ledger.create(landed.entry(number, state=State.FAILED))
    first, token = ledger.page(3, "")
    ledger.create(landed.entry(9))
    # The very job that the next page begins with, and one that was seen.
    ledger.delete(landed.entry(5).id)
    ledger.delete(landed.entry(7).id)
    second, token = ledger.page(3, token)
    third, token = ledger.page(3, token)
    assert [entry.out for entry in (*first, *second, *third)] == [f"jobs/{number}" for number in (8, 7, 6, 4, 3, 2, 1, 0)]
    assert token == ""


def test_a_number_is_not_given_twice_so_that_tokens_stay_good(ledger: Ledger) -> None:
    for number in range(3):
        ledger.create(landed.entry(number, state=State.FAILED))
    _, token = ledger.page(1, "")
    for number in (1, 2):
        ledger.delete(landed.entry(number).id)
    ledger.create(landed.entry(3))
    assert [entry.out for entry in ledger.page(5, token)[0]] == ["jobs/0"]


def test_pages_can_be_of_some_states_and_of_one_function(ledger: Ledger) -> None:
    for number, state in enumerate(State):
        ledger.create(landed.entry(number, state=state, function="even" if number % 2 == 0 else "odd"))
    assert [entry.state for entry in ledger.page(0, "", [State.RUNNING, State.CANCELLED, State.QUEUED])[0]] == [
        State.CANCELLED, State.RUNNING, State.QUEUED,
    ]  # fmt: skip
    page, token = ledger.page(2, "", function="odd")
    assert [entry.out for entry in page] == ["jobs/5", "jobs/3"]
    assert [entry.out for entry in ledger.page(2, token, function="odd")[0]] == ["jobs/1"]
    assert ledger.page(2, "", [State.QUEUED], "odd") == ([], "")


@pytest.mark.parametrize(
    ("size", "token", "field"), [(-1, "", "page_size"), (1001, "", "page_size"), (1, "x", "page_token"), (1, "9" * 19, "page_token")]
)
def test_pages_that_cannot_be_are_refused(ledger: Ledger, size: int, token: str, field: str) -> None:
    with refused(Reason.INVALID_OPTION, field):
        ledger.page(size, token)


def test_a_job_goes_from_queued_to_running_to_its_end(ledger: Ledger) -> None:
    job = ledger.create(landed.entry())
    assert ledger.note(JOB, "waits") == replace(job, message="waits")
    planned = ledger.plan(JOB, b"record", 15, 6.0)
    assert planned == replace(job, message="waits", state=State.RUNNING, record=b"record", units=15, started=6.0)
    # The units of a plan that work has begun on are not cut anew.
    assert ledger.plan(JOB, b"other", 16, 7.0) == planned
    ended = ledger.end(JOB, State.SUCCEEDED, "", 8.0)
    assert ended == replace(planned, message="", state=State.SUCCEEDED, ended=8.0)
    assert ledger.end(JOB, State.CANCELLED, "late", 9.0) == ended
    assert ledger.note(JOB, "late") == ended
    with pytest.raises(ValueError, match="RUNNING"):
        ledger.end(JOB, State.RUNNING, "", 9.0)


def test_jobs_that_have_not_ended_are_found_again_oldest_first(ledger: Ledger, tmp_path: Path) -> None:
    for number, state in enumerate([State.RUNNING, *ENDS, State.QUEUED]):
        ledger.create(landed.entry(number, state=state))
    again = reopened(ledger, tmp_path)
    assert [entry.state for entry in again.unfinished()] == [State.RUNNING, State.QUEUED]
    again.close()


def test_jobs_expire_so_long_after_their_end(ledger: Ledger) -> None:
    ledger.create(landed.entry(1, state=State.FAILED, ended=10.0, ttl=5.0))
    ledger.create(landed.entry(2, state=State.FAILED, ended=10.0))
    ledger.create(landed.entry(3, state=State.RUNNING, ttl=0.0))
    ledger.create(landed.entry(4, state=State.FAILED, ended=10.0, ttl=0.0))
    assert [[entry.out for entry in ledger.expired(now)] for now in (9.0, 10.0, 15.0)] == [[], ["jobs/4"], ["jobs/1", "jobs/4"]]


def test_a_job_that_runs_is_not_deleted(running: Ledger) -> None:
    running.commit(JOB, [landed.unit(3, b"x")], landed.counts)
    with refused(Reason.JOB_NOT_ENDED):
        running.delete(JOB)
    running.end(JOB, State.CANCELLED, "", 7.0)
    running.delete(JOB)
    with refused(Reason.JOB_NOT_FOUND, "name"):
        running.get(JOB)
    # Its units went with it: a job of the same id has none.
    running.create(landed.entry())
    assert list(running.units(JOB)) == []


def test_a_unit_counts_once(running: Ledger) -> None:
    finite = [True, False, True]
    one, two = landed.unit(4, b"x", b"yy", finite=finite), landed.unit(2, b"z", finite=[])
    assert running.commit(JOB, [one, two, landed.unit(4, b"?", attempt="b")], landed.counts) == [4, 2]
    assert running.commit(JOB, [landed.unit(4, b"!", attempt="c"), landed.unit(9)], landed.counts) == [9]
    assert running.commit(JOB, [landed.unit(2, b"!")], lambda new: pytest.fail("nothing is new")) == []
    assert running.get(JOB).counts == Counts(points_done=5, points_not_finite=1, units_done=3)
    assert running.settled(JOB, [1, 2, 3, 4, 9]) == {2, 4, 9}
    rows = list(running.units(JOB))
    assert [(row.number, row.state, row.attempts) for row in rows] == [(number, UnitState.COMMITTED, 0) for number in (2, 4, 9)]
    assert [row.chunks for row in rows] == [two.chunks, one.chunks, ()]
    for row, expected in zip(rows, ([], finite, [True, True]), strict=True):
        assert row.finite is not None
        assert row.finite.dtype == np.bool_
        np.testing.assert_array_equal(row.finite, np.asarray(expected, bool))


def test_many_units_come_back_in_order_with_flags_of_any_number_of_points(running: Ledger) -> None:
    flags = {number: np.arange(number % 19) % 3 != 1 for number in range(2100)}
    running.commit(JOB, [Landed(number, "a", (), flag) for number, flag in reversed(flags.items())], landed.counts)
    rows = list(running.units(JOB))
    assert [row.number for row in rows] == list(flags)
    assert all(np.array_equal(row.finite, flags[row.number]) for row in rows)  # type: ignore[arg-type]


def test_what_a_part_of_a_point_adds_can_be_asked_within_the_commit(running: Ledger) -> None:
    """Seeds of one point in units 3 to 5: the point is done with the last of them, and not finite if one of them is not."""

    def counts(new: object) -> Counts:
        done, finite = running.committed(JOB, range(3, 6))
        return Counts(points_done=int(done == 3), points_not_finite=int(done == 3 and finite < 3))

    seen = []
    for number in (5, 3, 4, 4):
        running.commit(JOB, [landed.unit(number, finite=[number != 3])], counts)
        seen.append(running.get(JOB).counts)
    assert seen == [Counts(), Counts(), Counts(1, points_not_finite=1), Counts(1, points_not_finite=1)]


def test_a_commit_that_fails_leaves_nothing(running: Ledger) -> None:
    with pytest.raises(ZeroDivisionError):
        running.commit(JOB, [landed.unit(1, b"x")], lambda new: Counts(1 // 0))
    assert list(running.units(JOB)) == []
    assert running.commit(JOB, [landed.unit(1, b"x")], landed.counts) == [1]


def test_attempts_are_remembered_by_the_next_server(running: Ledger, tmp_path: Path) -> None:
    assert [running.attempt(JOB, 7, "POISONED", f"m{n}") for n in range(2)] == [1, 2]
    again = reopened(running, tmp_path)
    assert again.attempt(JOB, 7, "INTERNAL", "last") == 3
    assert again.attempt(JOB, 8, "INTERNAL", "other") == 1
    (row, _) = again.units(JOB)
    assert (row.number, row.state, row.attempts, row.reason, row.message, row.finite, row.chunks) == (
        7, UnitState.PENDING, 3, "INTERNAL", "last", None, (),
    )  # fmt: skip
    assert again.get(JOB).counts == Counts(retries=4)
    assert again.settled(JOB, [7, 8]) == set()
    again.close()


def test_attempts_at_a_unit_that_is_settled_do_not_count(running: Ledger) -> None:
    running.attempt(JOB, 1, "INTERNAL", "m")
    running.commit(JOB, [landed.unit(1, b"x")], landed.counts)
    assert running.attempt(JOB, 1, "POISONED", "late") == 1
    (row,) = running.units(JOB)
    assert (row.state, row.reason) == (UnitState.COMMITTED, "INTERNAL")
    assert running.get(JOB).counts.retries == 1


def test_a_unit_fails_once_and_is_not_counted_afterwards(running: Ledger) -> None:
    lost = Counts(points_failed=2, units_failed=1)
    assert not running.fail(JOB, 1, lost)
    running.attempt(JOB, 1, "POISONED", "m")
    assert [running.fail(JOB, 1, lost) for _ in range(2)] == [True, False]
    assert running.commit(JOB, [landed.unit(1, b"late")], landed.counts) == []
    assert running.get(JOB).counts == Counts(points_failed=2, units_failed=1, retries=1)
    running.commit(JOB, [landed.unit(2, b"x")], landed.counts)
    assert not running.fail(JOB, 2, lost)
    assert running.settled(JOB, range(4)) == {1, 2}


def test_failures_come_in_order_a_page_at_a_time(running: Ledger) -> None:
    running.commit(JOB, [landed.unit(3)], landed.counts)
    for number in (0, 8, 5, 2):
        running.attempt(JOB, number, "POISONED", f"m{number}")
    for number in (0, 8, 5):
        running.fail(JOB, number, Counts())
    first = running.failures(JOB, 2)
    assert [(row.number, row.message) for row in first] == [(0, "m0"), (5, "m5")]
    assert [row.number for row in running.failures(JOB, 2, first[-1].number)] == [8]


@pytest.mark.parametrize("state", ENDS)
def test_a_job_that_is_reopened_tries_its_failed_units_as_new(running: Ledger, state: State) -> None:
    running.commit(JOB, [landed.unit(1, b"x")], landed.counts)
    for number in (2, 3):
        running.attempt(JOB, number, "POISONED", "m")
    running.fail(JOB, 2, Counts(points_failed=2, units_failed=1))
    before = running.get(JOB)
    # One that runs is left as it is.
    assert running.reopen(JOB) == before
    running.end(JOB, state, "why", 7.0)
    assert running.reopen(JOB) == replace(before, counts=Counts(points_done=2, units_done=1, retries=2))
    assert [(row.number, row.state) for row in running.units(JOB)] == [(1, UnitState.COMMITTED), (3, UnitState.PENDING)]
    assert running.attempt(JOB, 2, "POISONED", "m") == 1


@pytest.mark.parametrize(("state", "deadline"), [(State.DEADLINE_EXCEEDED, None), (State.CANCELLED, 9.0)])
def test_a_job_that_was_never_planned_is_queued_again_and_not_for_a_deadline_that_is_over(
    ledger: Ledger, state: State, deadline: float | None
) -> None:
    job = ledger.create(landed.entry(deadline=9.0))
    ledger.end(JOB, state, "why", 7.0)
    assert ledger.reopen(JOB) == replace(job, deadline=deadline)


def lost(numbers: Sequence[int]) -> Counts:
    return Counts(points_done=-2 * len(numbers), units_done=-len(numbers))


def test_units_that_are_lost_are_computed_again(running: Ledger) -> None:
    running.commit(JOB, [landed.unit(number, b"x") for number in (1, 2, 3)], landed.counts)
    assert running.lose(JOB, [3, 1], lost) == [3, 1]
    assert running.settled(JOB, [1, 2, 3]) == {2}
    assert running.get(JOB).counts == Counts(points_done=2, units_done=1)
    # Two that find the same damage at once.
    assert running.lose(JOB, [2, 1], lost) == [2]
    assert running.lose(JOB, [2, 1], lost) == []
    assert running.get(JOB).counts == Counts()
    assert running.commit(JOB, [landed.unit(number, b"y") for number in (1, 2, 3)], landed.counts) == [1, 2, 3]
    assert running.get(JOB).counts == Counts(points_done=6, units_done=3)


def test_threads_that_count_at_once_lose_nothing(running: Ledger) -> None:
    def work(worker: int) -> int:
        done = 0
        for number in range(40):
            running.attempt(JOB, 100 + worker, "INTERNAL", "m")
            done += len(running.commit(JOB, [landed.unit(number, b"x")], landed.counts))
            assert number in running.settled(JOB, [number])
        return done

    with ThreadPoolExecutor(4) as threads:
        assert sum(threads.map(work, range(4))) == 40
    assert running.get(JOB).counts == Counts(points_done=80, units_done=40, retries=160)


def test_a_server_that_was_thought_dead_writes_nothing_any_more(running: Ledger, tmp_path: Path) -> None:
    running.attempt(JOB, 1, "INTERNAL", "m")
    running.commit(JOB, [landed.unit(5, b"x")], landed.counts)
    # As on a file system that has lost the lock: whoever comes next gets one of its own.
    (tmp_path / "jobs" / "lock").unlink()
    newer = Ledger(tmp_path / "jobs")
    writes = [
        lambda: running.create(landed.entry(1)),
        lambda: running.plan(JOB, b"", 1, 1.0),
        lambda: running.note(JOB, "note"),
        lambda: running.end(JOB, State.FAILED, "", 1.0),
        lambda: running.reopen(JOB),
        lambda: running.delete(JOB),
        lambda: running.settled(JOB, [1]),
        lambda: running.commit(JOB, [landed.unit(2)], landed.counts),
        lambda: running.attempt(JOB, 1, "INTERNAL", ""),
        lambda: running.fail(JOB, 1, Counts(units_failed=1)),
        lambda: running.lose(JOB, [5], lost),
    ]
    before = newer.get(JOB)
    for write in writes:
        with pytest.raises(Superseded, match="number 1, and since then by another server as number 2"):
            write()
    assert newer.get(JOB) == before
    assert [(row.number, row.attempts) for row in newer.units(JOB)] == [(1, 1), (5, 0)]
    assert newer.commit(JOB, [landed.unit(2)], landed.counts) == [2]
    newer.close()


def test_a_second_server_is_told_who_has_the_folder(ledger: Ledger, tmp_path: Path) -> None:
    program = f"from pathlib import Path; from jacloom_server.jobs.ledger import Ledger; Ledger(Path({str(tmp_path / 'jobs')!r}))"
    second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    said = f"ConfigError: {tmp_path / 'jobs' / 'lock'} is held by process {os.getpid()} on {socket.gethostname()}: one server at a time"
    assert second.returncode == 1
    assert said in second.stderr
    again = reopened(ledger, tmp_path)
    again.close()


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(ledger: Ledger, tmp_path: Path) -> None:
    ledger.close()
    with closing(sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3")) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"has version {VERSION + 1}, and this server knows versions up to {VERSION}"):
            Ledger(tmp_path / "jobs")
    with closing(sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3")) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION}")
    # The refusals have given the lock back.
    Ledger(tmp_path / "jobs").close()


def test_a_file_that_is_no_ledger_is_said_to_be_none(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.sqlite3").write_bytes(b"no database " * 100)
    with pytest.raises(ConfigError, match=r"jobs\.sqlite3, cannot be used: file is not a database"):
        Ledger(tmp_path / "jobs")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/jobs, cannot be used: Not a directory"):
        Ledger(tmp_path / "file" / "jobs")


def test_commits_wait_for_the_disk(ledger: Ledger) -> None:
    with ledger._database.reading() as connection:
        settings = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")]
    assert settings == ["wal", 2, 1, 30_000]


def test_a_full_disk_is_said_to_be_and_loses_nothing(running: Ledger) -> None:
    with running._database.reading() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    with refused(Reason.STORE_UNAVAILABLE) as told:
        running.commit(JOB, [landed.unit(number, b"x" * 5, b"y") for number in range(500)], landed.counts)
    assert "database or disk is full" in told.value.message
    assert list(running.units(JOB)) == []
    with running._database.reading() as connection:
        connection.execute("PRAGMA max_page_count = 1000000")
    assert running.commit(JOB, [landed.unit(1, b"x")], landed.counts) == [1]
