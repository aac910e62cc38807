"""A job in the hands of its user: found, watched to its end through whatever happens, stopped, tried again, and looked into."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from unit.scripted import Script
from unit.scripted_jobs import Jobs, going_away, refusing, serving_jobs, until_cancelled

import jacloom as jl
from jacloom import _progress
from jacloom._connect import connect
from jacloom._jobs import bar
from jacloom._jobs.bar import JobBar, details, span
from jacloom._jobs.record import STATES, record_from_message
from jacloom_api.v1 import derivative_service_pb2
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph.errors import Reason


def at(job: pb.Job, state: int, done: int, **fields: Any) -> pb.Job:
    """Returns a job as it is later."""
    later = pb.Job()
    later.CopyFrom(job)
    later.MergeFrom(pb.Job(state=state, points_done=done, units=2, **fields))  # type: ignore[arg-type]
    return later


def test_a_job_is_found_by_its_id(jobs_client: jl.Client, jobs: Jobs) -> None:
    plan = derivative_service_pb2.Plan(strategy="reverse", passes=3)
    jobs.add(
        5,
        display_name="five",
        function=f"functions/{'a' * 64}",
        points_failed=1,
        rate=2.5,
        eta=0.0,
        workers=3,
        plan=plan,
        store="/data/x",
        priority=-2,
    )
    for name in (f"{5:020x}", f"jobs/{5:020x}"):
        job = jobs_client.job(name)
        assert (job.id, job.display_name, job.state, job.store) == (f"{5:020x}", "five", jl.JobState.RUNNING, "/data/x")
        assert job.progress == jl.JobProgress(points=4, points_failed=1, rate=2.5, eta=0.0, workers=3)
        assert (job.record.function, job.record.derivative, job.record.priority) == ("a" * 64, "jacobian", -2)
        assert (job.record.plan is not None and job.record.plan.strategy, job.record.created) == ("reverse", None)
        assert repr(job) == f"<jacloom.Job five {5:020x}: running, 0 of 4 points>"
    with pytest.raises(jl.JobNotFoundError, match=r"no jobs/0{20}"):
        jobs_client.job("0" * 20)
    for none in ("five", None, "jobs/abc", "F" * 20):
        with pytest.raises(jl.ArgumentError, match="a job's id is 'jobs/' and 20 hex digits"):
            jobs_client.job(none)  # type: ignore[arg-type]


def test_every_state_and_its_end() -> None:
    assert set(STATES) == set(pb.JobState.values()) - {pb.JOB_STATE_UNSPECIFIED}
    assert [state for state in jl.JobState if not state.ended] == ["queued", "running"]


def test_a_state_of_a_later_version_is_said_to_be_one(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.add(state=99)
    with pytest.raises(jl.ProtocolError, match=r"a job in state 99.*use the same version on both sides"):
        jobs_client.job("0" * 20)


def test_times_are_moments_in_utc() -> None:
    message = pb.Job(state=pb.JOB_RUNNING, derivative=pb.JOB_VALUE)
    message.create_time.FromJsonString("2027-01-02T03:04:05Z")
    assert record_from_message(message).created == datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_jobs_are_listed_by_state_and_function(jobs_client: jl.Client, jobs: Jobs) -> None:
    for number in range(5):
        jobs.add(number, state=pb.JOB_RUNNING if number % 2 else pb.JOB_FAILED, function=f"functions/{number // 4:064x}")

    def numbers(**options: Any) -> list[int]:
        return [int(job.id, 16) for job in jobs_client.jobs(**options)]

    assert numbers() == [4, 3, 2, 1, 0]
    assert numbers(limit=3) == [4, 3, 2]
    assert numbers(states=["failed"]) == numbers(states={jl.JobState.FAILED}) == numbers(states="failed") == [4, 2, 0]
    assert numbers(states=["failed", "running"], function="0" * 64) == [3, 2, 1, 0]
    for options in ({"states": ["done"]}, {"states": 3}):
        with pytest.raises(jl.OptionError, match="states must be among 'queued', 'running'"):
            jobs_client.jobs(**options)  # type: ignore[arg-type]
    for limit in (0, -1, True, 2.0):
        with pytest.raises(jl.OptionError, match="limit must be a positive integer, or None"):
            jobs_client.jobs(limit=limit)  # type: ignore[arg-type]


def test_control(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.add()
    job = jobs_client.job("0" * 20)
    with pytest.raises(jl.JobError, match="cancel it first") as refused:
        job.delete()
    assert refused.value.reason is Reason.JOB_NOT_ENDED
    assert job.cancel() is job
    assert job.state == "cancelled"
    assert job.retry_failed().state == "running"
    assert job.verify() == jl.JobVerification(chunks=12, damaged=0)
    jobs.damaged = 2
    assert not job.verify()
    jobs.jobs[job.name].state = pb.JOB_SUCCEEDED
    assert job.refresh() is job
    assert job.state == "succeeded"
    job.delete()
    with pytest.raises(jl.JobNotFoundError):
        job.refresh()


def test_failures_come_in_order_over_pages(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.add()
    jobs.failures = [pb.UnitFailure(first=at, count=2, attempts=3, reason="POISONED", message="three workers ended") for at in range(5)]
    jobs.failures.append(pb.UnitFailure(first=9, count=1, start=4, seeds=2, attempts=3, reason="TOO_SLOW", message="too slow"))
    found = list(jobs_client.job("0" * 20).failures())
    assert [failure.first for failure in found] == [0, 1, 2, 3, 4, 9]
    assert str(found[0]) == "points 0 to 1: POISONED after 3 attempts: three workers ended"
    assert str(found[5]) == "point 9, seeds 4 to 5: TOO_SLOW after 3 attempts: too slow"


def test_expired_jobs(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.add(state=pb.JOB_SUCCEEDED)
    assert [job.id for job in jobs_client.expire_jobs(dry_run=True)] == ["0" * 20]
    jobs_client.expire_jobs()
    assert jobs.dry_runs == [True, False]
    with pytest.raises(jl.OptionError, match="dry_run must be True or False"):
        jobs_client.expire_jobs(dry_run=1)  # type: ignore[arg-type]


def test_jobs_do_not_travel_between_processes(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.add()
    with pytest.raises(jl.ClientStateError, match=r"pass job\.id, and call client\.job\('0{20}'\) there"):
        pickle.dumps(jobs_client.job("0" * 20))


def note(seen: list[tuple[str, int]], job: jl.Job) -> None:
    seen.append((job.state, job.progress.points_done))


def test_waiting_tells_of_progress_and_returns_the_job_whatever_its_end(jobs_client: jl.Client, jobs: Jobs) -> None:
    made = jobs.add(state=pb.JOB_QUEUED)
    job = jobs_client.job("0" * 20)
    for end in (pb.JOB_SUCCEEDED, pb.JOB_SUCCEEDED_WITH_FAILURES, pb.JOB_FAILED, pb.JOB_CANCELLED, pb.JOB_DEADLINE_EXCEEDED):
        jobs.watches = [[made, at(made, pb.JOB_RUNNING, 2), at(made, end, 4)]]
        seen: list[tuple[str, int]] = []
        assert job.wait(on_progress=partial(note, seen)) is job
        assert seen == [("queued", 0), ("running", 2), (STATES[end], 4)]


def test_waiting_survives_streams_that_break_or_end_early(jobs_client: jl.Client, jobs: Jobs) -> None:
    made = jobs.add()
    jobs.watches = [[at(made, pb.JOB_RUNNING, 1), going_away], [going_away], [], [at(made, pb.JOB_RUNNING, 3)], [at(made, pb.JOB_SUCCEEDED, 4)]]
    seen: list[int] = []
    jobs_client.job("0" * 20).wait(on_progress=lambda job: seen.append(job.progress.points_done))
    assert (seen, jobs.watches, jobs.calls.count("Watch")) == ([1, 3, 4], [], 5)


def test_waiting_survives_a_restart_of_the_service(script: Script) -> None:
    first, second = Jobs(), Jobs()
    made = first.add()
    second.add()
    first.watches = [[at(made, pb.JOB_RUNNING, 1), until_cancelled]]
    second.watches = [[at(made, pb.JOB_SUCCEEDED, 4)]]
    with ExitStack() as running, ExitStack() as restarted:
        port = running.enter_context(serving_jobs(script, first))
        client = restarted.enter_context(connect(f"127.0.0.1:{port}"))

        def restart(job: jl.Job) -> None:
            if job.state == "running":
                running.close()
                restarted.enter_context(serving_jobs(script, second, port))

        assert client.job("0" * 20).wait(on_progress=restart).progress.points_done == 4


def test_waiting_ends_with_its_timeout_and_the_job_goes_on(jobs_client: jl.Client, jobs: Jobs) -> None:
    made = jobs.add()
    job = jobs_client.job("0" * 20)
    for watches in ([[made, until_cancelled]], [[made, going_away]] * 20):
        jobs.watches = list(watches)
        with pytest.raises(
            jl.DeadlineExceeded, match=r"job 0{20} had not ended after 0\.4 s; it goes on: wait again with client\.job\('0{20}'\)\.wait"
        ):
            job.wait(0.4)


def test_waiting_for_a_job_that_is_deleted(jobs_client: jl.Client, jobs: Jobs) -> None:
    made = jobs.add()
    jobs.watches = [[made, refusing(Reason.JOB_NOT_FOUND, "it was deleted")]]
    with pytest.raises(jl.JobNotFoundError, match="it was deleted"):
        jobs_client.job("0" * 20).wait()


def test_errors_of_the_callback_pass(jobs_client: jl.Client, jobs: Jobs) -> None:
    made = jobs.add()
    jobs.watches = [[made, until_cancelled]]

    def raising(job: jl.Job) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        jobs_client.job("0" * 20).wait(on_progress=raising)


DETACHED = """
import sys
import jacloom as jl
client = jl.connect(sys.argv[1])
try:
    client.job("0" * 20).wait()
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_the_waiting_and_says_that_the_job_goes_on(script: Script, jobs: Jobs) -> None:
    made = jobs.add()
    began = threading.Event()

    def hang(context: Any) -> None:
        began.set()
        until_cancelled(context)

    jobs.watches = [[made, hang]]
    with serving_jobs(script, jobs) as port:
        program = [sys.executable, "-c", DETACHED, f"127.0.0.1:{port}"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert began.wait(60)
            process.send_signal(2)
            out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("interrupted\n", 0)
    assert err.startswith(f"jacloom: job {'0' * 20} goes on. To come back to it: client.job({'0' * 20!r}).wait(), or `jacloom watch {'0' * 20}`")
    assert jobs.jobs[made.name].state == pb.JOB_RUNNING


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    yield Terminal()
    assert not _progress.screen.locked()


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_terminal_shows_a_bar(jobs_client: jl.Client, jobs: Jobs, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, interrupted: bool) -> None:
    monkeypatch.setattr("sys.stderr", terminal)  # here and not in the fixture: pytest puts its own back before a test begins
    made = jobs.add(display_name="a [run]", points=2000)
    end = refusing(Reason.JOB_NOT_FOUND, "gone") if interrupted else at(made, pb.JOB_SUCCEEDED, 2000)
    running = at(made, pb.JOB_RUNNING, 1200, rate=85.25, eta=104.0, points_failed=3, workers=4)
    jobs.watches = [[made, running, going_away], [running, end]]
    job = jobs_client.job("0" * 20)
    if interrupted:
        with pytest.raises(jl.JobNotFoundError):
            job.wait()
    else:
        job.wait()
    shown = terminal.getvalue()
    assert "a [run]" in shown
    assert "1,200/2,000 points, 85.2/s, 1:44 left, 3 failed, 4 workers" in shown


def test_there_is_one_bar_at_a_time_and_none_without_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    record = record_from_message(pb.Job(state=pb.JOB_RUNNING, derivative=pb.JOB_VALUE, points=7))
    with JobBar() as alone:
        alone.show(record)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("sys.stderr", terminal)
    with JobBar() as outer, JobBar() as inner:
        outer.show(record)
        inner.show(record)
        inner.lost()
        outer.lost()
    assert "7 points" in terminal.getvalue()


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"state": pb.JOB_QUEUED}, "0/5,000 points, queued, 0 workers"),
        ({"state": pb.JOB_RUNNING, "units": 3, "rate": 12345.6, "eta": 0.4, "workers": 1}, "0/5,000 points, 12,346/s, 0:00 left, 1 worker"),
        ({"state": pb.JOB_RUNNING, "units": 3, "message": "the disk is full"}, "0/5,000 points, 0 workers, the disk is full"),
        (
            {"state": pb.JOB_SUCCEEDED_WITH_FAILURES, "units": 3, "points_done": 4990, "points_failed": 10, "points_not_finite": 2, "retries": 31},
            "4,990/5,000 points, 10 failed, 2 with NaN or Inf, 31 retries",
        ),
    ],
)
def test_progress_in_a_line(fields: Any, text: str) -> None:
    assert details(record_from_message(pb.Job(derivative=pb.JOB_VALUE, points=5000, **fields))) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (104, "1:44"), (7500, "2:05:00"), (273_600, "3 d 4:00:00")])
def test_times_as_clocks_show_them(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_what_is_called_by_its_name_and_what_by_its_id() -> None:
    named: Callable[..., str] = lambda **fields: bar.title(record_from_message(pb.Job(state=1, derivative=1, name="jobs/7", **fields)))  # noqa: E731
    assert (named(), named(display_name="seven")) == ("7", "seven")
