"""``jacloom run``: what job files may say, what is made of them, and the status that the command ends with."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from jacloom import _connect
from jacloom.cli import jobfile
from jacloom.cli import run as command
from jacloom.cli.jobfile import JobFileError
from jacloom.cli.stop import Stop, Stopped
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_server.__main__ import _parser
from jacloom_server.config import Config

LEAST = '[function]\nimport = "model:scaled"\n[points]\nfile = "points.npy"\n'
MODEL = "def scaled(x, *args):\n    return x**2 * sum(args)\n\n\nnothing = 3\n"

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a job file beside a model and its points."""
    np.save(tmp_path / "points.npy", np.arange(15.0).reshape(5, 3))
    np.save(tmp_path / "weights.npy", np.array([2.0, 3.0, 5.0]))
    (tmp_path / "model.py").write_text(MODEL)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(text: str) -> Path:
        (tmp_path / "night.toml").write_text(text)
        return tmp_path / "night.toml"

    yield write
    sys.modules.pop("model", None)


class TestFiles:
    def test_the_least(self, write: Write, tmp_path: Path) -> None:
        read = jobfile.read(write(LEAST))
        assert read.points == tmp_path / "points.npy"
        assert read.options == {"seeds": None, "name": "night", "request_id": read.options["request_id"]}
        assert read.flags({}) == (tmp_path / "night.data", ())
        assert read.function()(7, 1) == 49  # type: ignore[operator]

    def test_all_there_is(self, write: Write, tmp_path: Path) -> None:
        job = [
            'derivative = "jvp"\nmode = "forward"\nsparsity = "dense"\nholomorphic = false\nout = "runs/a"\nname = "all"\npriority = -3',
            'deadline = 2031-01-02T03:04:05Z\nttl = "12h"\nargs = [2, 1.5, [1.0, 2.0, 4.0], { file = "weights.npy" }]',
        ]
        service = [
            'data = "kept"\nresults = "/shared/results"\nconfig = "serve.toml"\nray_address = "10.0.0.5:6379"\nworkers = 3\nwide = false\ngpus = 0',
            'memory = "8G"\nobject_store = 100000000\nblob_bytes = "1G"\ntile_lease = 60.5\nlog = "warning"',
        ]
        text = "\n".join([LEAST + 'seeds = "points.npy"', "[job]", *job, "[service]", *service])
        read = jobfile.read(write(text))
        values = {"derivative": "jvp", "mode": "forward", "sparsity": "dense", "holomorphic": False, "out": "runs/a", "name": "all", "priority": -3}
        times = {"deadline": datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC), "ttl": timedelta(hours=12)}
        assert read.options == values | times | {"seeds": tmp_path / "points.npy", "request_id": read.options["request_id"]}
        assert read.args[:2] == (2, 1.5)
        np.testing.assert_array_equal(read.args[2:], [[1, 2, 4], [2, 3, 5]])
        data, flags = read.flags({"workers": 8, "results": None})
        assert data == tmp_path / "kept"
        assert " ".join(flags) == (
            f"--results /shared/results --config {tmp_path}/serve.toml --ray-address 10.0.0.5:6379 --workers 8 --no-wide --gpus 0 --memory 8G "
            "--object-store 100000000 --blob-bytes 1G --tile-lease 60.5 --log warning"
        )

    def test_the_service_knows_all_settings(self) -> None:
        values = {"str": "x", "int": "3", "float": "3", "bool": ""}
        for name, kinds in jobfile.SETTINGS.items():
            given = "info" if name == "log" else values[kinds[0].__name__]
            _parser().parse_args([each for each in (f"--{name.replace('_', '-')}", given) if each])
        assert set(jobfile.SETTINGS) - {"config", "log"} <= set(Config.__dataclass_fields__)

    def test_a_saved_function(self, write: Write, tmp_path: Path) -> None:
        saved = jl.trace(lambda x: x**2, np.zeros(3))
        saved.save(tmp_path / "square.jacloom")
        assert jobfile.read(write(LEAST.replace('import = "model:scaled"', 'file = "square.jacloom"'))).function() == saved

    def test_what_makes_another_job(self, write: Write) -> None:
        def request_id(text: str) -> str:
            return jobfile.read(write(text)).options["request_id"]

        first = request_id(LEAST)
        assert re.fullmatch(r"run-[0-9a-f]{40}", first)
        same = [f"# a remark\n{LEAST}", f"{LEAST}[service]\nworkers = 3\n", LEAST.replace(" = ", "=")]
        assert {request_id(text) for text in same} == {first}
        others = [f'{LEAST}[job]\nname = "again"\n', f"{LEAST}[job]\nargs = [1]\n", f"{LEAST}[job]\nargs = [1.0]\n"]
        assert len({request_id(text) for text in others} | {first}) == 4

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[points", "is not TOML"),
            ("points = 3", r"points must be a table"),
            ("[pionts]", r"unknown table \[pionts\], beside \[function\], \[points\], \[job\] and \[service\]; did you mean points\?"),
            ('[points]\nfile = "points.npy"', r"\[function\] needs either file"),
            ('[function]\nimport = "a:b"\nfile = "c"', r"\[function\] needs either file"),
            ('[function]\nimport = "model"', "import must be \"module:function\", got 'model'"),
            ('[function]\nimport = "model:a"\nform = 1', r"\[function\] has an unknown key form\."),
            ('[function]\nimport = "model:a"', r"\[points\] needs file"),
            (LEAST.replace("points.npy", "none.npy"), r"\[points\] file: there is no .*none\.npy"),
            (LEAST.replace('"points.npy"', "3"), r"\[points\] file must be a string, got 3"),
            (LEAST + "[job]\npriorty = 3", r"\[job\] has an unknown key priorty; did you mean priority\?"),
            (LEAST + "[job]\npriority = true", r"\[job\] priority must be an integer, got True"),
            (LEAST + '[job]\ndeadline = "8h"', r"\[job\] deadline must be a date with a time, got '8h'"),
            (LEAST + '[job]\nttl = "8x"', r"`\[job\] ttl = 8x`: expected a time"),
            (LEAST + '[job]\nargs = [["a"]]', r"args\[0\] must be a number"),
            (LEAST + '[job]\nargs = [1, { file = "none.npy" }]', r"args\[1\] cannot be read"),
            (LEAST + "[service]\nworker = 3", r"\[service\] has an unknown key worker; did you mean workers\?"),
            (LEAST + '[service]\nworkers = "3"', r"\[service\] workers must be an integer, got '3'"),
        ],
    )
    def test_mistakes(self, write: Write, text: str, message: str) -> None:
        with pytest.raises(JobFileError, match=message):
            jobfile.read(write(text))

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ('import = "no_model:f"', "no_model:f cannot be had from .*ModuleNotFoundError"),
            ('import = "model:g"', "model:g cannot be had from .*AttributeError"),
            ('import = "model:nothing"', "must be a function, got int"),
            ('file = "none.jacloom"', "cannot be read: No such file"),
            ('file = "model.py"', "cannot be read"),
        ],
    )
    def test_functions_that_cannot_be_had(self, write: Write, given: str, message: str) -> None:
        read = jobfile.read(write(LEAST.replace('import = "model:scaled"', given)))
        with pytest.raises(JobFileError, match=message):
            read.function()


@pytest.fixture
def asked(script: Script, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """The local services that commands have asked for; a scripted one answers."""
    found: list[dict[str, Any]] = []
    with serving_jobs(script, jobs) as port:

        def local(**given: Any) -> jl.Client:
            found.append(given)
            return _connect.connect(f"127.0.0.1:{port}")

        monkeypatch.setattr(command, "local", local)
        yield found


ID = f"{0:020x}"
ENDS = (pb.JOB_SUCCEEDED, pb.JOB_SUCCEEDED_WITH_FAILURES, pb.JOB_FAILED, pb.JOB_CANCELLED, pb.JOB_DEADLINE_EXCEEDED)


class TestCommand:
    @pytest.mark.parametrize(("state", "status"), list(zip(ENDS, (0, 3, 1, 1, 1), strict=True)))
    def test_it_ends_with_a_status_for_the_jobs_end(
        self, run: Run, jobs: Jobs, asked: list[dict[str, Any]], write: Write, tmp_path: Path, state: int, status: int
    ) -> None:
        path = write(LEAST + "[job]\nargs = [2.0, 0.5]\n[service]\nworkers = 2\n")
        made = jobs.add(7, points=5, store="/results/7", request_id=jobfile.read(path).options["request_id"])
        jobs.watches = [[at(made, pb.JOB_RUNNING, 2), at(made, state, 4, points_failed=1)]]
        found, out, err = run("run", str(path), "--data", str(tmp_path / "kept"), "--workers", "3")
        word = jl.JobState[pb.JobState.Name(state).removeprefix("JOB_")].value
        assert (found, out, err) == (status, f"{7:020x}: {word}; 4/5 points, 1 failed\nresults: /results/7\n", "")
        assert asked == [{"data": tmp_path / "kept", "flags": ("--workers", "3")}]

    def test_json(self, run: Run, jobs: Jobs, asked: list[dict[str, Any]], write: Write) -> None:
        path = write(LEAST + "[job]\nargs = [1.0]\n")
        made = jobs.add(7, points=5, request_id=jobfile.read(path).options["request_id"])
        jobs.watches = [[at(made, pb.JOB_SUCCEEDED, 5)]]
        status, out, err = run("run", str(path), "--json")
        document = json.loads(out)
        assert (status, document["stopped"], document["job"]["state"], err) == (0, None, "succeeded", "")

    @pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C"), (None, "--stop-after")])
    def test_a_stop_leaves_the_job_to_be_gone_on_with(
        self, run: Run, jobs: Jobs, asked: list[dict[str, Any]], write: Write, number: signal.Signals | None, reason: str
    ) -> None:
        path = write(LEAST + "[job]\nargs = [1.0]\n")
        made = jobs.add(7, points=5, request_id=jobfile.read(path).options["request_id"])

        def told(context: Any) -> None:
            if number is not None:
                os.kill(os.getpid(), number)
            until_cancelled(context)

        jobs.watches = [[at(made, pb.JOB_RUNNING, 2), told]]
        before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)]
        status, out, err = run("run", str(path), *([] if number else ["--stop-after", "2s"]))
        assert status == 75
        assert out.startswith(f"{7:020x}: running; ")
        assert err == f"jacloom: stopped by {reason}; what is finished stays, and the same command goes on\n"
        assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)] == before
        assert jobs.jobs[made.name].state == pb.JOB_RUNNING

    def test_what_failed_is_tried_again_where_that_is_asked_for(self, run: Run, jobs: Jobs, asked: list[dict[str, Any]], write: Write) -> None:
        path = write(LEAST + "[job]\nargs = [1.0]\n")
        made = jobs.add(7, points=5, request_id=jobfile.read(path).options["request_id"], state=pb.JOB_SUCCEEDED_WITH_FAILURES)
        jobs.watches = [[at(made, pb.JOB_SUCCEEDED_WITH_FAILURES, 4)], [at(made, pb.JOB_SUCCEEDED, 5)]]
        assert run("run", str(path))[0] == 3
        assert jobs.jobs[made.name].state == pb.JOB_SUCCEEDED_WITH_FAILURES
        assert run("run", str(path), "--retry-failed")[0] == 0
        assert jobs.jobs[made.name].state == pb.JOB_RUNNING  # as Retry leaves it here

    @pytest.mark.parametrize(
        ("text", "options", "message"),
        [
            ("[points", [], "is not TOML"),
            (LEAST, ["--stop-after", "soon"], "`--stop-after soon`: expected a time"),
            (LEAST.replace("scaled", "scale"), [], "AttributeError"),
            (LEAST + '[job]\nderivative = "jacobain"\n', [], "derivative must be"),
            (LEAST + "[job]\npriority = 1000\n", [], "priority must be an integer from -100 to 100"),
        ],
    )
    def test_a_wrong_job_file_makes_no_job(
        self, run: Run, jobs: Jobs, asked: list[dict[str, Any]], write: Write, text: str, options: list[str], message: str
    ) -> None:
        status, out, err = run("run", str(write(text)), *options)
        assert (status, out) == (2, "")
        assert message in err
        assert not jobs.specs


class TestStop:
    def test_one_that_was_asked_for_before_is_raised(self) -> None:
        with Stop(None) as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop.reason == "SIGTERM"
            with pytest.raises(Stopped), stop.raising():
                pytest.fail("the block must not begin")

    def test_one_that_was_swallowed_is_raised_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jacloom.cli.stop._AGAIN", 0.05)

        def swallow(stop: Stop) -> None:
            with stop.raising():
                with suppress(Stopped):
                    signal.raise_signal(signal.SIGINT)
                threading.Event().wait(20)

        with Stop(None) as stop, pytest.raises(Stopped):
            swallow(stop)

    def test_afterwards_it_is_noted_alone(self) -> None:
        with Stop(None) as stop:
            with stop.raising():
                pass
            signal.raise_signal(signal.SIGINT)
        assert stop.reason == "Ctrl-C"
