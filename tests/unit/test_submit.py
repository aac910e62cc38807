"""How a job is made: what the service is asked for, and what becomes of a stream that goes wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from unit.scripted import Script, fail
from unit.scripted_jobs import Jobs, client_of_jobs, going_away, refusing, serving_jobs, until_cancelled

import jacloom as jl
from jacloom._connect import connect
from jacloom_api.v1 import derivative_service_pb2
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph.errors import Reason

POINTS = np.arange(15.0).reshape(5, 3)


def squared(x: Any) -> Any:
    return x**2


def summed(x: Any) -> Any:
    return jnp.sum(x**3)


def scaled(p: Any, scale: Any, power: int) -> Any:
    return {"y": scale * p["x"] ** power, "n": p["n"]}


def test_what_is_asked_for(jobs_client: jl.Client, jobs: Jobs, script: Script) -> None:
    points = {"n": np.arange(4, dtype=np.float32), "x": np.zeros((4, 2))}
    scale = np.array([2.0, 3.0])
    job = jobs_client.submit(
        scaled, points, scale, 3, mode="reverse", sparsity="dense", out="runs/a", name="a run", priority=-7, ttl=90.5, deadline=timedelta(hours=1)
    )
    spec, call = jobs.specs[-1], jobs.specs[-1].call
    assert call.function in script.registered
    assert (spec.derivative, list(spec.points), spec.out, spec.display_name, spec.priority) == (pb.JOB_JACOBIAN, [0, 1], "runs/a", "a run", -7)
    assert [(each.dtype, list(each.shape)) for each in call.args] == [("float32", []), ("float64", [2]), ("float64", [2])]
    assert [each.data for each in call.args] == [b"", b"", scale.tobytes()]
    assert (list(call.wrt), list(call.outputs), list(call.values)) == ([0, 1], [0, 1], [0, 1])
    assert (call.options.mode, call.options.sparsity) == (derivative_service_pb2.REVERSE, derivative_service_pb2.DENSE)
    assert spec.ttl.ToTimedelta() == timedelta(seconds=90.5)
    assert timedelta(minutes=59) < spec.deadline.ToDatetime(UTC) - datetime.now(UTC) <= timedelta(hours=1)
    assert len(spec.request_id) == 32
    assert (job.id, job.name, job.display_name) == ("0" * 20, f"jobs/{'0' * 20}", "a run")


@pytest.mark.parametrize(
    ("f", "derivative", "number", "further", "outputs"),
    [
        (squared, "value", pb.JOB_VALUE, {}, []),
        (summed, "gradient", pb.JOB_GRADIENT, {}, [0]),
        (squared, "jacobian", pb.JOB_JACOBIAN, {}, [0]),
        (summed, "hessian", pb.JOB_HESSIAN, {}, [0]),
        (squared, "jvp", pb.JOB_JVP, {"seeds": POINTS}, [0]),
        (squared, "vjp", pb.JOB_VJP, {"seeds": POINTS}, [0]),
    ],
)
def test_every_derivative(jobs_client: jl.Client, jobs: Jobs, f: Any, derivative: Any, number: int, further: Any, outputs: list[int]) -> None:
    job = jobs_client.submit(f, POINTS, derivative=derivative, **further)
    spec = jobs.specs[-1]
    assert (job.record.derivative, spec.derivative) == (derivative, number)
    assert (list(spec.call.wrt), list(spec.call.outputs), list(spec.call.values)) == ([] if derivative == "value" else [0], outputs, [0])


def test_holomorphic_functions(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs_client.submit(squared, POINTS.astype(complex), holomorphic=True)
    assert jobs.specs[-1].call.options.holomorphic
    with pytest.raises(jl.ArgumentError, match="pass holomorphic=True"):
        jobs_client.submit(squared, POINTS.astype(complex))


def test_the_function_is_kept_and_not_leased(jobs_client: jl.Client, script: Script, jobs: Jobs) -> None:
    jobs_client.submit(squared, POINTS)
    assert script.calls == ["Register"]
    assert script.leased == [False]
    known = jobs_client.register(summed, POINTS[0], name="a sum")
    jobs_client.submit(known.id, POINTS, derivative="gradient")
    jobs_client.submit(known, POINTS, derivative="gradient")
    assert [each.call.function for each in jobs.specs[1:]] == [known.name] * 2
    assert [each.display_name for each in jobs.specs] == ["squared", "f", "a sum"]


def test_large_arguments_that_all_points_share_are_uploaded(jobs_client: jl.Client, script: Script, jobs: Jobs) -> None:
    shared = np.random.default_rng(0).normal(size=(3, 100_000))
    uploaded = []
    jobs.at_spec = [lambda context: uploaded.append(script.blobs[jobs.specs[-1].call.args[1].blob])]
    jobs_client.submit(lambda x, a: x @ a, POINTS, shared)
    assert uploaded == [shared.tobytes()]
    assert script.calls.count("Put") == 1


def test_a_function_that_returns_no_scalar_has_no_gradient(jobs_client: jl.Client, jobs: Jobs) -> None:
    with pytest.raises(jl.ArgumentError, match="must return a scalar, it returns"):
        jobs_client.submit(squared, POINTS, derivative="gradient")
    assert jobs.calls == []


def test_a_pattern_is_held_against_the_function_at_the_first_point(jobs_client: jl.Client, script: Script, jobs: Jobs) -> None:
    asked: list[bytes] = []

    def refuse(request: Any, context: Any) -> Iterator[Any]:
        asked.append(request.args[0].data)
        fail(context, Reason.INTERNAL, "the first point was asked for")
        yield

    script.steps = [refuse]
    with pytest.raises(jl.InternalError, match="the first point was asked for"):
        jobs_client.submit(squared, POINTS, sparsity=sparse.eye_array(3))
    assert (asked, jobs.calls) == ([POINTS[0].tobytes()], [])


def test_an_argument_at_fault_is_named_as_the_user_wrote_it(jobs_client: jl.Client, jobs: Jobs) -> None:
    metadata = {"field": "spec.call.args[2]"}
    jobs.at_spec = [lambda context: fail(context, Reason.ARGUMENT_MISMATCH, "not like this", metadata=metadata)]
    with pytest.raises(jl.ArgumentError) as raised:
        jobs_client.submit(lambda x, p: x * p["a"] * p["b"], POINTS, {"a": 1.0, "b": 2.0})
    assert raised.value.field == "args[1]['b']"


def test_a_function_that_only_the_service_had_is_said_to_be_gone(jobs_client: jl.Client, jobs: Jobs, script: Script) -> None:
    name = jobs_client.register(squared, POINTS[0]).name
    script.registered[name].outputs.add(dtype="float64", shape=[3])
    jobs.at_spec = [refusing(Reason.FUNCTION_NOT_FOUND, "no such function")]
    with client_of_jobs(script, jobs) as other, pytest.raises(jl.FunctionNotFoundError, match="no such function"):
        other.submit(name, POINTS)
    assert len(jobs.specs) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"derivative": "grad"}, r"`client\.submit\(squared, points, derivative=\.\.\.\)`: derivative must be 'value', .* or 'hessian', got 'grad'"),
        ({"derivative": np.zeros(3)}, "derivative must be 'value', .* got array"),
        ({"derivative": "jvp"}, r"pass seeds=\.\.\., one for each point: tangents, like the points"),
        ({"derivative": "vjp"}, "cotangents, like the results"),
        ({"seeds": POINTS}, r"derivative='jacobian', seeds=\.\.\.\)`: seeds is for 'jvp' and 'vjp'; leave it out"),
        ({"derivative": "gradient", "mode": "forward"}, "mode is for 'jacobian'; leave it out"),
        ({"derivative": "value", "holomorphic": True}, "holomorphic is for 'gradient' and 'jacobian' and 'hessian'"),
        ({"derivative": "value", "sparsity": "dense"}, "sparsity is for 'jacobian' and 'hessian'"),
        ({"mode": "up"}, "mode must be 'auto', 'forward' or 'reverse', got 'up'"),
        ({"sparsity": "banded"}, "sparsity must be 'auto', 'dense', or a pattern"),
        ({"holomorphic": 1}, "holomorphic must be True or False, got 1"),
        ({"out": ""}, "out must be a str of 1 to 512 printable characters, got ''"),
        ({"out": Path("x")}, "out must be a str of 1 to 512"),
        ({"name": "n" * 129}, r"name=\.\.\.\)`: name must be a str of at most 128 characters, got 129 characters"),
        ({"priority": 101}, "priority must be an integer from -100 to 100, got 101"),
        ({"priority": True}, "priority must be an integer from -100 to 100, got True"),
        ({"deadline": 0}, "deadline must be a positive number of seconds, a timedelta, or a datetime, or None; got 0"),
        ({"deadline": float("nan")}, "deadline must be a positive number"),
        ({"ttl": -3.0}, "ttl must be a positive number of seconds, a timedelta, or None; got -3.0"),
        ({"ttl": 1e300}, "ttl must be a positive number"),
        ({"request_id": "x" * 65}, "request_id must be a str of 1 to 64"),
        ({"timeout": -1}, "timeout must be a finite positive number"),
    ],
)
def test_options_that_are_none(jobs_client: jl.Client, jobs: Jobs, options: Any, text: str) -> None:
    with pytest.raises((jl.OptionError, jl.ArgumentError), match=text):
        jobs_client.submit(squared, POINTS, **options)
    assert jobs.calls == []


def test_a_deadline_may_be_a_moment_of_any_zone(jobs_client: jl.Client, jobs: Jobs) -> None:
    moment = datetime(2027, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    jobs_client.submit(squared, POINTS, deadline=moment)
    assert jobs.specs[-1].deadline.ToDatetime(UTC) == moment
    local = moment.astimezone().replace(tzinfo=None)
    jobs_client.submit(squared, POINTS, deadline=local)
    assert jobs.specs[-1].deadline.ToDatetime(UTC) == moment


class Mine(Exception):
    """An error of the user's."""


@pytest.mark.parametrize(
    "error",
    [Mine("mine"), KeyboardInterrupt(), jl.UnavailableError("of another service"), grpc.RpcError("not ours")],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_an_iterator_pass_and_no_job_is_made(jobs_client: jl.Client, jobs: Jobs, error: BaseException) -> None:
    def points() -> Iterator[np.ndarray]:
        yield from np.zeros((20, 10_000))
        assert jobs.began.wait(30)
        raise error

    with pytest.raises(type(error)) as raised:
        jobs_client.submit(lambda x: x[:2], points())
    assert raised.value is error
    assert jobs.ended.wait(30)
    assert (jobs.jobs, jobs.points, jobs.calls) == ({}, [], ["Create"])


def test_a_bad_point_ends_the_stream(jobs_client: jl.Client, jobs: Jobs) -> None:
    def points() -> Iterator[np.ndarray]:
        yield from np.zeros((300, 1000))
        assert jobs.began.wait(30)
        yield np.zeros(999)

    with pytest.raises(jl.ArgumentError, match=r"point 300: x has shape \(999,\), expected \(1000,\)"):
        jobs_client.submit(lambda x: x[:2], points())
    assert jobs.ended.wait(30)
    assert (jobs.jobs, jobs.points) == ({}, [])


def test_the_iterator_runs_in_the_callers_thread(jobs_client: jl.Client, jobs: Jobs) -> None:
    threads = set()

    def points() -> Iterator[np.ndarray]:
        for point in POINTS:
            threads.add(threading.current_thread())
            yield point

    jobs_client.submit(squared, points())
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.JOBS_UNAVAILABLE, jl.JobError),
        (Reason.REQUEST_CONFLICT, jl.JobError),
        (Reason.INVALID_OPTION, jl.OptionError),
        (Reason.TOO_LARGE, jl.TooLargeError),
    ],
)
def test_what_the_service_refuses_ends_the_stream_at_once(jobs_client: jl.Client, jobs: Jobs, reason: Reason, kind: type[jl.JacloomError]) -> None:
    made = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal made
        while True:
            made += 1
            yield np.zeros(100_000)

    jobs.at_spec = [refusing(reason, "not here")]
    with pytest.raises(kind, match="not here") as raised:
        jobs_client.submit(lambda x: x[:2], endless())
    assert (raised.value.reason, jobs.jobs) == (reason, {})


def test_a_service_that_goes_away_is_asked_again_with_the_same_id(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    np.save(tmp_path / "points.npy", POINTS)
    for points in (POINTS, tmp_path / "points.npy"):
        jobs.specs.clear()
        jobs.at_spec, jobs.at_points = [going_away, lambda context: None], [going_away]
        job = jobs_client.submit(squared, points)
        assert job.progress.points == 5
        assert len({spec.request_id for spec in jobs.specs}) == 1
        assert len(jobs.specs) == 3
    assert len(jobs.jobs) == 2


def test_a_job_whose_reply_was_lost_is_made_once(script: Script, jobs: Jobs) -> None:
    lost = iter([True])

    def lose(context: Any) -> None:
        # The points have come, and the job will be there; only the reply does not arrive.
        if next(lost, False):
            jobs.add(7, request_id=jobs.specs[-1].request_id, points=5)
            going_away(context)

    jobs.at_points = [lose]
    with serving_jobs(script, jobs) as port, connect(f"127.0.0.1:{port}") as client:
        assert client.submit(squared, POINTS).name == f"jobs/{7:020x}"
    assert len(jobs.jobs) == 1


def test_a_service_that_restarts(script: Script, jobs: Jobs) -> None:
    with ExitStack() as later:
        with serving_jobs(script, jobs) as port:
            client = later.enter_context(connect(f"127.0.0.1:{port}"))
        # Nothing of what it held is left, nor is anybody there at first.
        again = Jobs()
        restart = threading.Timer(0.3, lambda: later.enter_context(serving_jobs(Script(), again, port)))
        restart.start()
        assert client.submit(squared, POINTS, timeout=60).progress.points == 5
        restart.join()
        assert len(again.points) == 1


def test_points_that_can_be_read_once_are_not_sent_again(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.at_points = [going_away]
    with pytest.raises(jl.UnavailableError, match="shutting down"):
        jobs_client.submit(squared, iter(POINTS))
    assert (jobs.jobs, len(jobs.specs)) == ({}, 1)


def test_what_the_service_has_dropped_is_sent_again(jobs_client: jl.Client, script: Script, jobs: Jobs) -> None:
    jobs.at_spec = [refusing(Reason.FUNCTION_NOT_FOUND, "no function"), refusing(Reason.BLOB_NOT_FOUND, "no blob")]
    shared = np.zeros((3, 100_000))
    jobs_client.submit(lambda x, a: x @ a, POINTS, shared)
    assert (len(jobs.jobs), script.calls.count("Register"), script.calls.count("Put")) == (1, 3, 3)


def test_a_timeout_ends_the_stream(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.at_spec = [until_cancelled]
    with pytest.raises(jl.DeadlineExceeded, match=r"did not end within 0\.5 s"):
        jobs_client.submit(squared, POINTS, timeout=0.5)
    assert jobs.ended.wait(30)
    assert jobs.jobs == {}


def test_a_refused_derivative_is_asked_for_again_without_the_inputs_that_do_not_matter(jobs_client: jl.Client, jobs: Jobs) -> None:
    symbolic = jax.custom_jvp(lambda x, a: x * a)

    def refusing_rule(primals: Any, tangents: Any) -> Any:
        if not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
            raise NotImplementedError("of x alone")
        return symbolic(*primals), tangents[0] * primals[1]

    symbolic.defjvp(refusing_rule, symbolic_zeros=True)
    jobs.at_spec = [refusing(Reason.MODE_UNAVAILABLE, "of x alone")]
    jobs_client.submit(lambda x, a: symbolic(x, a), POINTS, np.ones(3))
    functions = [spec.call.function for spec in jobs.specs]
    assert (len(jobs.jobs), len(functions), len(set(functions))) == (1, 2, 2)
    jobs.at_points = [refusing(Reason.MODE_UNAVAILABLE, "of x alone")]
    with pytest.raises(jl.ModeUnavailableError, match="of x alone"):
        jobs_client.submit(lambda x, a: symbolic(x, a), iter(POINTS), np.ones(3))
    assert len(jobs.jobs) == 1


INTERRUPTED = """
import sys
import numpy as np, jacloom as jl
client = jl.connect(sys.argv[1])
try:
    client.submit(lambda x: x[:2], np.zeros((100, 100_000)))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_the_upload(script: Script, jobs: Jobs) -> None:
    with serving_jobs(script, jobs) as port:
        began = threading.Event()
        jobs.at_points = [lambda context: (began.set(), until_cancelled(context))]
        program = [sys.executable, "-c", INTERRUPTED, f"127.0.0.1:{port}"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert began.wait(60)
            process.send_signal(2)
            out, err = process.communicate(timeout=60)
        assert (out, err, process.returncode) == ("interrupted\n", "", 0)
        assert jobs.ended.wait(30)
    assert (jobs.jobs, jobs.points) == ({}, [])
