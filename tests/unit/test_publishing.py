"""Putting results in place: durable before it counts, and never over what counts already."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit import landed

from jacloom_graph.errors import Fault, Reason
from jacloom_server.jobs.database import Superseded
from jacloom_server.jobs.ledger import Ledger
from jacloom_server.jobs.publishing import Landing, Publisher, put
from jacloom_server.jobs.states import Counts, Landed
from jacloom_worker.unit import Chunk

JOB = f"{0:020x}"
OTHER = f"{1:020x}"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with two jobs that run, whose groups are there."""
    made = Ledger(tmp_path / "jobs")
    for number in range(2):
        job = made.create(landed.entry(number)).id
        made.plan(job, b"record", 15, 6.0)
        (tmp_path / "results" / job).mkdir(parents=True)
    yield made
    made.close()


@pytest.fixture
def publisher(ledger: Ledger) -> Iterator[Publisher]:
    made = Publisher(ledger)
    yield made
    made.close()


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(reason: Reason, *texts: str) -> pytest.RaisesExc[Fault]:
    return pytest.RaisesExc(Fault, check=lambda fault: fault.reason is reason and all(text in fault.message for text in texts))


def fault(outcome: object, reason: Reason, *texts: str) -> None:
    with refused(reason, *texts):
        assert isinstance(outcome, BaseException)
        raise outcome


async def test_a_unit_is_in_place_when_it_is_counted(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    one = landed.landing(results, JOB, 3, b"x", b"yy")
    assert await publisher.publish(one) is True
    assert files(results / JOB) == {"jacobian/c/3/0": b"x", "jacobian/c/3/1": b"yy"}
    (row,) = ledger.units(JOB)
    assert (row.number, row.chunks) == (3, one.landed.chunks)
    assert ledger.get(JOB).counts == Counts(points_done=2, units_done=1)


async def test_a_unit_without_chunks_counts_as_well(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    assert await publisher.publish(landed.landing(results, JOB, 3)) is True
    assert ledger.settled(JOB, [3]) == {3}


async def test_a_late_attempt_overwrites_nothing(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    await publisher.publish(landed.landing(results, JOB, 3, b"first"))
    late = landed.landing(results, JOB, 3, b"other", attempt="b")
    assert await publisher.publish(late) is False
    assert files(results / JOB) == {"jacobian/c/3/0": b"first"}
    assert ledger.get(JOB).counts == Counts(points_done=2, units_done=1)


async def test_an_attempt_at_a_unit_that_was_given_up_is_late_too(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    ledger.attempt(JOB, 3, "POISONED", "m")
    ledger.fail(JOB, 3, Counts(units_failed=1))
    assert await publisher.publish(landed.landing(results, JOB, 3, b"late")) is False
    assert files(results / JOB) == {}
    assert ledger.get(JOB).counts == Counts(units_failed=1, retries=1)


def test_of_two_attempts_in_one_batch_the_first_counts(ledger: Ledger, results: Path) -> None:
    attempts = [landed.landing(results, JOB, 3, content, attempt=attempt) for attempt, content in (("a", b"first"), ("b", b"other"))]
    assert put(ledger, attempts) == [True, False]
    assert files(results / JOB) == {"jacobian/c/3/0": b"first"}


def test_what_an_attempt_has_left_in_place_without_being_counted_is_replaced(ledger: Ledger, results: Path) -> None:
    torn = results / JOB / "jacobian" / "c" / "3" / "0"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(b"torn")
    assert put(ledger, [landed.landing(results, JOB, 3, b"right")]) == [True]
    assert torn.read_bytes() == b"right"


async def test_what_lands_meanwhile_is_counted_in_one_transaction(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    calls: list[list[int]] = []

    def counts(new: Sequence[Landed]) -> Counts:
        calls.append([one.number for one in new])
        if len(calls) == 1:
            begun.set()
            assert go_on.wait(60)
        return landed.counts(new)

    def publish(number: int) -> asyncio.Task[bool]:
        return asyncio.create_task(publisher.publish(replace(landed.landing(results, JOB, number, b"x"), counts=counts)))

    first = publish(0)
    assert await asyncio.to_thread(begun.wait, 60)
    others = [publish(number) for number in (4, 2, 7)]
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(first, *others) == [True] * 4
    assert calls == [[0], [4, 2, 7]]
    assert ledger.get(JOB).counts == Counts(points_done=8, units_done=4)


async def test_a_landing_that_is_cancelled_before_its_turn_leaves_nothing(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def counts(new: Sequence[Landed]) -> Counts:
        begun.set()
        assert go_on.wait(60)
        return landed.counts(new)

    first = asyncio.create_task(publisher.publish(replace(landed.landing(results, JOB, 0, b"x"), counts=counts)))
    assert await asyncio.to_thread(begun.wait, 60)
    second = asyncio.create_task(publisher.publish(landed.landing(results, JOB, 1, b"y")))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    # The one that is under way is put in place, whether somebody waits for it or not.
    first.cancel()
    await asyncio.wait([first])
    go_on.set()
    assert await publisher.publish(landed.landing(results, JOB, 2, b"z")) is True
    assert (first.cancelled(), second.cancelled()) == (True, True)
    await publisher.discard(results / "nothing")
    assert ledger.settled(JOB, [0, 1, 2]) == {0, 2}
    # Nor is anything left aside.
    assert files(results) == {f"{JOB}/jacobian/c/0/0": b"x", f"{JOB}/jacobian/c/2/0": b"z"}


def test_directories_are_synced_after_all_renames_and_before_anything_counts(ledger: Ledger, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    replace_, sync, commit = os.replace, os.fsync, ledger.commit

    def replaced(source: Any, target: Any) -> None:
        replace_(source, target)
        steps.append(("rename", str(Path(target).relative_to(results / JOB))))

    def synced(descriptor: int) -> None:
        sync(descriptor)
        steps.append(("sync", str(Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(results / JOB))))

    def committed(*args: Any) -> list[int]:
        assert all(landing.aside.exists() for landing in landings)
        steps.append(("commit", ""))
        return commit(*args)

    landings = [landed.landing(results, JOB, number, b"x", b"y") for number in (3, 5)]
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(ledger, "commit", committed)
    assert put(ledger, landings) == [True, True]
    renames = [("rename", f"jacobian/c/{number}/{index}") for number in (3, 5) for index in (0, 1)]
    syncs = {("sync", path) for path in (".", "jacobian", "jacobian/c", "jacobian/c/3", "jacobian/c/5")}
    assert steps[:4] == renames
    assert (set(steps[4:-1]), len(steps[4:-1])) == (syncs, len(syncs))
    assert steps[-1] == ("commit", "")


@pytest.mark.parametrize("damage", ["short", "gone", "folder", "link", "aside"])
def test_a_chunk_that_is_not_as_the_worker_said_keeps_out_its_unit_alone(ledger: Ledger, results: Path, damage: str) -> None:
    bad, good = landed.landing(results, JOB, 3, b"x", b"yyyy"), landed.landing(results, JOB, 4, b"z")
    chunk = bad.aside / "jacobian" / "c" / "3" / "1"
    match damage:
        case "short":
            chunk.write_bytes(b"yyy")
        case "gone":
            chunk.unlink()
        case "folder":
            chunk.unlink()
            chunk.mkdir()
        case "link":
            chunk.rename(results / "elsewhere")
            chunk.symlink_to(results / "elsewhere")
        case "aside":
            shutil.rmtree(bad.aside)
    outcome, other = put(ledger, [bad, good])
    fault(outcome, Reason.INTERNAL, "jacobian/c/3/1" if damage != "aside" else "jacobian/c/3/0", "unit 3", "bytes")
    assert other is True
    # Nothing of it, not even the chunk that was whole.
    assert files(results / JOB) == {"jacobian/c/4/0": b"z"}
    assert ledger.settled(JOB, [3, 4]) == {4}
    assert put(ledger, [landed.landing(results, JOB, 3, b"x", b"yyyy", attempt="b")]) == [True]


@pytest.mark.parametrize("path", ["../other", "jacobian/../../x", "/etc/x"])
def test_a_chunk_stays_within_its_group(ledger: Ledger, results: Path, path: str) -> None:
    bad = landed.landing(results, JOB, 3, b"x")
    climbing = replace(bad, landed=Landed(3, "a", (Chunk(path, 1, 0),), bad.landed.finite))
    (outcome,) = put(ledger, [climbing])
    fault(outcome, Reason.INTERNAL, repr(path))
    assert files(results / JOB) == {}
    assert not (results / "other").exists()


@pytest.mark.parametrize(
    ("number", "texts"),
    [
        (errno.ENOSPC, ("No space left on device", "make room there")),
        (errno.EDQUOT, ("quota",)),
        (errno.EXDEV, ("must be on one file system",)),
        (errno.EACCES, ("Permission denied",)),
    ],
)
def test_a_store_that_takes_nothing_is_said_to_be_so_for_units_it_did_not_take(
    ledger: Ledger, results: Path, monkeypatch: pytest.MonkeyPatch, number: int, texts: tuple[str, ...]
) -> None:
    replace_ = os.replace

    def replaced(source: Any, target: Path) -> None:
        if target.match("c/3/1"):
            raise OSError(number, os.strerror(number))
        replace_(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    bad, good = landed.landing(results, JOB, 3, b"x", b"y"), landed.landing(results, JOB, 4, b"z")
    outcome, other = put(ledger, [bad, good])
    fault(outcome, Reason.STORE_UNAVAILABLE, "unit 3", str(results / JOB), *texts)
    assert other is True
    assert ledger.settled(JOB, [3, 4]) == {4}
    monkeypatch.undo()
    # One chunk of it is in place, and is replaced.
    assert put(ledger, [landed.landing(results, JOB, 3, b"xx", b"yy", attempt="b")]) == [True]
    assert files(results / JOB) == {"jacobian/c/3/0": b"xx", "jacobian/c/3/1": b"yy", "jacobian/c/4/0": b"z"}


def test_what_was_written_on_another_file_system_is_refused(ledger: Ledger, results: Path) -> None:
    one = landed.landing(results, JOB, 3, b"x")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        if os.stat(elsewhere).st_dev == os.stat(results).st_dev:
            pytest.skip("both folders are on one file system here")
        moved = replace(one, aside=Path(shutil.copytree(one.aside, Path(elsewhere) / "aside")))
        (outcome,) = put(ledger, [moved])
    fault(outcome, Reason.STORE_UNAVAILABLE, "Invalid cross-device link", "must be on one file system")
    assert ledger.settled(JOB, [3]) == set()


def test_what_cannot_be_synced_does_not_count_and_other_jobs_do(ledger: Ledger, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def synced(descriptor: int) -> None:
        if JOB in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    one, two, other = landed.landing(results, JOB, 3, b"x"), landed.landing(results, JOB, 4, b"y"), landed.landing(results, OTHER, 3, b"z")
    outcomes = put(ledger, [one, other, two])
    assert outcomes[1] is True
    for outcome in outcomes[::2]:
        fault(outcome, Reason.STORE_UNAVAILABLE, "Input/output error")
    assert (ledger.settled(JOB, [3, 4]), ledger.settled(OTHER, [3])) == (set(), {3})


def test_file_systems_that_do_not_sync_directories_are_taken_as_they_are(ledger: Ledger, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def synced(descriptor: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", synced)
    assert put(ledger, [landed.landing(results, JOB, 3, b"x")]) == [True]


def test_a_group_that_is_gone_is_not_made_anew(ledger: Ledger, results: Path) -> None:
    one = landed.landing(results, JOB, 3, b"x")
    (results / JOB).rmdir()
    (outcome,) = put(ledger, [one])
    fault(outcome, Reason.STORE_UNAVAILABLE, str(results / JOB))
    assert not (results / JOB).exists()


def test_a_ledger_that_takes_nothing_keeps_units_from_counting(ledger: Ledger, results: Path) -> None:
    with ledger._database.reading() as connection:
        connection.execute("PRAGMA query_only = ON")
    one = landed.landing(results, JOB, 3, b"x")
    (outcome,) = put(ledger, [one])
    fault(outcome, Reason.STORE_UNAVAILABLE, "readonly")
    with ledger._database.reading() as connection:
        connection.execute("PRAGMA query_only = OFF")
    assert ledger.settled(JOB, [3]) == set()


async def test_units_of_a_job_that_was_deleted_go_nowhere(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    one, other = landed.landing(results, "f" * 20, 3, b"x"), landed.landing(results, JOB, 3, b"y")
    unknown, known = await asyncio.gather(publisher.publish(one), publisher.publish(other), return_exceptions=True)
    fault(unknown, Reason.JOB_NOT_FOUND)
    assert known is True


async def test_a_superseded_server_touches_nothing(publisher: Publisher, ledger: Ledger, results: Path, tmp_path: Path) -> None:
    (tmp_path / "jobs" / "lock").unlink()
    newer = Ledger(tmp_path / "jobs")
    assert put(newer, [landed.landing(results, JOB, 3, b"newer")]) == [True]
    old: list[Landing] = [landed.landing(results, JOB, number, b"older", attempt="b") for number in (3, 4)]
    for one in old:
        with pytest.raises(Superseded):
            await publisher.publish(one)
    assert files(results / JOB) == {"jacobian/c/3/0": b"newer"}
    await publisher.discard(results / "nothing")
    assert all(one.aside.exists() for one in old)
    newer.close()


async def test_a_mistake_in_counting_reaches_who_waits_and_the_thread_goes_on(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        await publisher.publish(replace(landed.landing(results, JOB, 3, b"x"), counts=lambda new: Counts(1 // 0)))
    assert ledger.settled(JOB, [3]) == set()
    assert await publisher.publish(landed.landing(results, JOB, 3, b"x", attempt="b")) is True


async def test_an_attempts_folder_is_removed_however_it_ends(publisher: Publisher, ledger: Ledger, results: Path) -> None:
    first, late, short = (landed.landing(results, JOB, number, b"xx", attempt=attempt) for number, attempt in ((3, "a"), (3, "b"), (4, "a")))
    (short.aside / "jacobian" / "c" / "4" / "0").write_bytes(b"x")
    unknown = landed.landing(results, "f" * 20, 3, b"x")
    outcomes = await asyncio.gather(*map(publisher.publish, (first, late, short, unknown)), return_exceptions=True)
    assert outcomes[:2] == [True, False]
    assert all(isinstance(outcome, Fault) for outcome in outcomes[2:])
    await publisher.discard(results / "nothing")
    assert [one.aside.exists() for one in (first, late, short, unknown)] == [False] * 4


async def test_attempts_that_nobody_waits_for_are_removed(publisher: Publisher, results: Path) -> None:
    lost, kept = landed.landing(results, JOB, 3, b"x"), landed.landing(results, JOB, 4, b"y")
    await publisher.discard(lost.aside)
    assert (lost.aside.exists(), kept.aside.exists()) == (False, True)
    # Twice does no harm; and all of a job's at once.
    await publisher.discard(lost.aside)
    await publisher.discard(kept.aside.parent)
    assert files(results) == {}


async def test_closing_waits_for_what_has_come(ledger: Ledger, results: Path) -> None:
    publisher = Publisher(ledger)
    tasks = [asyncio.create_task(publisher.publish(landed.landing(results, JOB, number, b"x"))) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.to_thread(publisher.close)
    assert ledger.settled(JOB, range(5)) == set(range(5))
    assert await asyncio.gather(*tasks) == [True] * 5
