"""The commands about jobs: what they print for people and for programs, and the status that they end with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.conftest import Run
from unit.scripted import Script
from unit.scripted_jobs import Jobs, serving_jobs, until_cancelled
from unit.test_jobs import at

import jacloom as jl
from jacloom._jobs import job as held
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph.answer import Part

ID = f"{0:020x}"


@pytest.fixture
def address(script: Script, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, run: Run) -> Iterator[str]:
    """A service that has jobs, by its address, which commands find in their environment."""
    with serving_jobs(script, jobs) as port:
        monkeypatch.setenv("JACLOOM_ADDRESS", f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A function and its points."""
    jl.trace(lambda x: x**2, np.zeros(3)).save(tmp_path / "square.jacloom")
    np.save(tmp_path / "points.npy", np.arange(15.0).reshape(5, 3))
    return str(tmp_path / "square.jacloom"), str(tmp_path / "points.npy")


def test_submit(run: Run, jobs: Jobs, address: str, files: tuple[str, str]) -> None:
    options = ["--mode", "reverse", "--out", "runs/a", "--name", "a run", "--priority", "-3", "--deadline", "2h", "--ttl", "1.5d"]
    status, out, err = run("submit", *files, *options, "--request-id", "mine", "--sparsity", "dense", "--json")
    document = json.loads(out)
    assert (status, err) == (0, "")
    assert (document["name"], document["display_name"], document["state"], document["progress"]["points"]) == (f"jobs/{ID}", "a run", "queued", 5)
    spec = jobs.specs[-1]
    assert (spec.out, spec.priority, spec.request_id, spec.ttl.ToTimedelta()) == ("runs/a", -3, "mine", timedelta(days=1.5))
    assert timedelta(hours=1) < spec.deadline.ToDatetime(UTC) - datetime.now(UTC) <= timedelta(hours=2)
    status, out, _ = run("submit", *files, "--derivative", "value", "--deadline", "2031-01-02T03:04:05Z")
    assert (status, out) == (0, f"{1:020x} (square): queued; 0/5 points, queued, 0 workers\n")
    assert jobs.specs[-1].derivative == pb.JOB_VALUE
    assert jobs.specs[-1].deadline.ToDatetime(UTC) == datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_submit_takes_seeds(run: Run, jobs: Jobs, address: str, files: tuple[str, str]) -> None:
    assert run("submit", *files, "--derivative", "jvp", "--seeds", files[1])[0] == 0
    leaves = jobs.points[-1][0].leaves
    assert leaves[0] == leaves[1]


ENDS = (pb.JOB_SUCCEEDED, pb.JOB_SUCCEEDED_WITH_FAILURES, pb.JOB_FAILED, pb.JOB_CANCELLED, pb.JOB_DEADLINE_EXCEEDED)


@pytest.mark.parametrize(("state", "status"), list(zip(ENDS, (0, 3, 3, 3, 3), strict=True)))
def test_waiting_ends_with_a_status_for_the_jobs_end(run: Run, jobs: Jobs, address: str, files: tuple[str, str], state: int, status: int) -> None:
    made = jobs.add(77, points=5, display_name="seven", message="as it went", request_id="seven")
    jobs.watches = [[at(made, pb.JOB_RUNNING, 2), at(made, state, 4, points_failed=1)] for _ in range(3)]
    word = jl.JobState[pb.JobState.Name(state).removeprefix("JOB_")].value
    text = f"{77:020x} (seven): {word}: as it went; 4/5 points, 1 failed\n"
    assert run("watch", "seven") == (status, text, "")
    assert run("submit", *files, "--request-id", "seven", "--wait") == (status, text, "")
    found, out, err = run("watch", f"jobs/{77:020x}", "--json")
    assert (found, json.loads(out)["state"], err) == (status, word, "")


def test_ctrl_c_ends_watching_alone(run: Run, jobs: Jobs, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = jobs.add()
    jobs.watches = [[made, until_cancelled]]

    class Interrupted:
        def __enter__(self) -> Interrupted:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def show(self, record: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(held, "JobBar", Interrupted)
    status, out, err = run("watch", ID)
    assert (status, out) == (130, "")
    assert f"jacloom: job {ID} goes on. To come back to it:" in err
    assert jobs.jobs[made.name].state == pb.JOB_RUNNING


def test_jobs(run: Run, jobs: Jobs, address: str) -> None:
    for number in range(3):
        made = jobs.add(number << 60, display_name=f"run {number}", points=2000, points_done=1500, state=pb.JOB_RUNNING if number else pb.JOB_FAILED)
        made.create_time.FromJsonString("2027-01-02T03:04:05Z")
    status, out, _ = run("jobs")
    head, *lines = out.splitlines()
    assert (status, head.split()) == (0, ["id", "name", "state", "points", "done", "failed", "derivative", "created"])
    assert [line.split() for line in lines] == [
        [f"{number << 60:020x}"[:10], "run", str(number), state, "2,000", "1,500", "0", "jacobian", "2027-01-02", "03:04Z"]
        for number, state in ((2, "running"), (1, "running"), (0, "failed"))
    ]
    found = json.loads(run("jobs", "--state", "failed", "--json")[1])
    assert [document["display_name"] for document in found] == ["run 0"]
    assert found[0]["created"] == "2027-01-02T03:04:05Z"
    assert [line.split()[2] for line in run("jobs", "--limit", "1")[1].splitlines()[1:]] == ["2"]
    assert json.loads(run("jobs", "--function", "a" * 64, "--json")[1]) == []
    assert f"{2 << 60:020x}" in run("jobs", "--full")[1]
    status, _, err = run("jobs", "--state", "done")
    assert status == 1
    assert "states must be among 'queued', 'running'" in err


def test_a_job_is_meant_by_the_beginning_of_its_id_or_by_its_name(run: Run, jobs: Jobs, address: str) -> None:
    jobs.add(0xABCDEF << 56, display_name="one")
    jobs.add(0xABCDEE << 56, display_name="twin")
    jobs.add(0xFFFFFF << 56, display_name="twin")
    for word in ("one", "abcdef", "jobs/abcdef0"):
        status, out, _ = run("cancel", word, "--json")
        assert (status, json.loads(out)["display_name"]) == (0, "one")
    status, _, err = run("cancel", "twin")
    assert status == 1
    assert "'twin' means 2 jobs: ffffff0000 (twin), abcdee0000 (twin); give more digits of the id" in err
    status, out, _ = run("cancel", "abcde", "--json")
    error = json.loads(out)["error"]
    assert (status, error["type"]) == (1, "JobNotFoundError")
    assert "no job has the name 'abcde'" in error["message"]
    status, _, err = run("watch", "1" * 20)
    assert (status, err) == (1, f"jacloom: no jobs/{'1' * 20}\n")


def test_cancel_and_retry(run: Run, jobs: Jobs, address: str) -> None:
    jobs.add()
    assert run("cancel", ID) == (0, f"{ID}: cancelled; 0/4 points\n", "")
    assert run("retry", ID) == (0, f"{ID}: running; 0/4 points, running, 0 workers\n", "")
    assert json.loads(run("retry", ID, "--json")[1])["state"] == "running"


def test_verify(run: Run, jobs: Jobs, address: str) -> None:
    jobs.add()
    assert run("verify", ID) == (0, f"{ID}: all of 12 chunks are as they were written\n", "")
    jobs.damaged = 2
    assert run("verify", ID) == (3, f"{ID}: 2 units have damaged chunks among 12, and are computed again; the job is running\n", "")
    status, out, _ = run("verify", ID, "--json")
    assert (status, json.loads(out)) == (3, {"name": f"jobs/{ID}", "ok": False, "chunks": 12, "damaged": 2, "state": "running"})


def test_expire(run: Run, jobs: Jobs, address: str) -> None:
    jobs.add(state=pb.JOB_SUCCEEDED, points_done=4)
    assert run("expire", "--dry-run") == (0, f"{ID}: succeeded; 4/4 points\n1 job would be deleted\n", "")
    document = json.loads(run("expire", "--json")[1])
    assert (document["dry_run"], [job["name"] for job in document["jobs"]], jobs.dry_runs) == (False, [f"jobs/{ID}"], [True, False])


def test_fetch(run: Run, jobs: Jobs, address: str, tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 3, 2)
    jobs.add_array(jobs.add(), "jacobian", (Part.JACOBIAN, 0, 0, 0), array)
    jobs.results["status"] = np.ones(4, np.uint8)
    target = tmp_path / "j.npy"
    assert run("fetch", ID, str(target), "--points", "1:3") == (0, f"jacobian: {target}\n", "")
    np.testing.assert_array_equal(np.load(target), array[1:3])
    status, out, _ = run("fetch", ID, str(tmp_path / "all"), "--json")
    files = {name: str(tmp_path / "all" / f"{name}.npy") for name in ("jacobian", "status")}
    assert (status, json.loads(out)) == (0, {"name": f"jobs/{ID}", "files": files})
    assert run("fetch", ID, str(target), "--array", "status", "--points", ":-1")[0] == 0
    assert np.load(target).shape == (3,)


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (["fetch", ID, "x.npy", "--points", "3"], "OptionError", "`--points 3`: expected two numbers with a colon between them"),
        (["fetch", ID, "x.npy", "--points", "-:"], "OptionError", "expected two numbers"),
        (["fetch", ID, "x.npy"], "JobError", "has no results yet"),
        (["fetch", ID, "x.npy", "--array", "it"], "JobError", "has no results yet"),
        (["submit", "nowhere.jacloom", "POINTS"], "ArgumentError", "nowhere.jacloom: the function cannot be read: No such file"),
        (["submit", "FUNCTION", "nowhere.npy"], "ArgumentError", "there is no file 'nowhere.npy'"),
        (["submit", "FUNCTION", "POINTS", "--derivative", "grad"], "OptionError", "derivative must be 'value'"),
        (["submit", "FUNCTION", "POINTS", "--derivative", "gradient"], "ArgumentError", "must return a scalar"),
        (["submit", "FUNCTION", "POINTS", "--sparsity", "banded"], "OptionError", "`--sparsity banded`: expected auto or dense"),
        (["submit", "FUNCTION", "POINTS", "--deadline", "soon"], "OptionError", "`--deadline soon`: expected a time from now such as 90s"),
        (["submit", "FUNCTION", "POINTS", "--deadline", "2026-13-01"], "OptionError", "or a moment such as 2026-12-01T08:00"),
        (["submit", "FUNCTION", "POINTS", "--ttl", "0"], "OptionError", "`--ttl 0`: expected a time such as 90s"),
        (["submit", "FUNCTION", "POINTS", "--ttl", "9999999999d"], "OptionError", "`--ttl 9999999999d`: expected a time"),
        (["submit", "FUNCTION", "POINTS", "--priority", "1000"], "OptionError", "priority must be an integer from -100 to 100, got 1000"),
    ],
)
def test_errors(run: Run, jobs: Jobs, address: str, files: tuple[str, str], arguments: list[str], kind: str, text: str) -> None:
    jobs.add()
    arguments = [{"FUNCTION": files[0], "POINTS": files[1]}.get(argument, argument) for argument in arguments]
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert text in err
    status, out, err = run(*arguments, "--json")
    assert (status, json.loads(out)["error"]["type"], err) == (1, kind, "")
    assert jobs.points == []


def test_commands_about_jobs_need_a_service_that_runs(run: Run, files: tuple[str, str]) -> None:
    for command in (["jobs"], ["submit", *files], ["watch", ID], ["fetch", ID, "x"], ["expire"]):
        status, _, err = run(*command)
        assert status == 1
        assert "which service? Give --address host:port, or set JACLOOM_ADDRESS." in err
