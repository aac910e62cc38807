"""One call against a real gRPC server that misbehaves: what is retried, what is refused, what is cancelled, and what the user sees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import jax.numpy as jnp
import numpy as np
import pytest
from unit.scripted import Script, echo, failing, hang, parts, serving

import jacloom as jl
from jacloom._connect import connect
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph.errors import Reason

X = np.arange(6.0).reshape(2, 3)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[jl.Client]:
    with serving(script) as port, connect(f"127.0.0.1:{port}") as client:
        yield client


def identity(x: Any) -> Any:
    return x


def test_an_answer_in_one_message(client: jl.Client, script: Script) -> None:
    script.steps = [echo(script), echo(script)]
    for _ in range(2):
        result = client.evaluate(identity)(X)
        np.testing.assert_array_equal(result, X)
        result += 1  # the caller's own
    assert script.calls == ["Register", "Evaluate", "Evaluate"]


def test_big_arguments_travel_as_leased_blobs(client: jl.Client, script: Script) -> None:
    big, small = np.random.default_rng(0).normal(size=(500, 300)), np.ones(3, ">f8")
    script.steps = [echo(script)]
    np.testing.assert_array_equal(client.evaluate(lambda x, y: x + 0 * y.sum())(big, small), big)
    request = script.requests[0]
    assert [argument.WhichOneof("content") for argument in request.args] == ["blob", "data"]
    assert request.args[1].data == np.ones(3).tobytes()
    deadline = time.monotonic() + 5
    while script.blobs and time.monotonic() < deadline:
        time.sleep(0.01)
    assert script.blobs == {}


def test_big_arguments_share_one_upload_and_begin_where_workers_can_read_them_in_place(client: jl.Client, script: Script) -> None:
    arrays = [np.random.default_rng(0).normal(size=size) for size in (200_001, 90_007, 3)]
    script.steps = [echo(script)]
    client.evaluate(lambda x, y, z: x + 0 * y.sum() + 0 * z.sum())(*arrays)
    assert script.calls[:3] == ["Register", "Put", "Evaluate"]
    request = script.requests[0]
    assert [(argument.WhichOneof("content"), argument.offset % 64) for argument in request.args] == [("blob", 0), ("data", 0), ("data", 0)]
    script.steps = [echo(script)]
    arrays[1] = np.random.default_rng(1).normal(size=150_003)
    client.evaluate(lambda x, y, z: x + 0 * y.sum() + 0 * z.sum())(*arrays)
    first, second, third = script.requests[1].args
    assert (first.blob, first.offset, second.blob, second.offset % 64) == (second.blob, 0, first.blob, 0)
    assert second.offset >= arrays[0].nbytes
    assert third.data == arrays[2].tobytes()


def test_large_constants_are_uploaded_once(client: jl.Client, script: Script) -> None:
    big = np.random.default_rng(0).normal(size=(2, 100, 100))
    script.steps = [echo(script), echo(script)]
    client.evaluate(lambda x: x + 0 * jnp.sum(big))(X)
    client.evaluate(lambda x: x - 0 * jnp.sum(big))(X)
    assert script.calls == ["Missing", "Put", "Register", "Evaluate", "Missing", "Register", "Evaluate"]
    assert list(script.blobs.values()) == [big.tobytes()]


def test_a_restarted_service_is_told_again(client: jl.Client, script: Script) -> None:
    script.steps = [echo(script), echo(script), failing(Reason.BLOB_NOT_FOUND), echo(script)]
    client.evaluate(identity)(X)
    script.registered.clear()
    client.evaluate(identity)(X)
    client.evaluate(identity)(X)
    assert script.calls == ["Register", "Evaluate", "Evaluate", "Register", "Evaluate", "Evaluate", "Register", "Evaluate"]
    script.steps = [failing(Reason.BLOB_NOT_FOUND) for _ in range(5)]
    with pytest.raises(jl.BlobNotFoundError):
        client.evaluate(identity)(X)


def test_a_lost_function_known_by_id_only(client: jl.Client, script: Script) -> None:
    remote = client.register(identity, X)
    with connect(f"127.0.0.1:{_port(client)}") as other:
        by_id = other.function(remote.name)
        assert by_id.inputs == remote.inputs
        script.registered.clear()
        with pytest.raises(jl.FunctionNotFoundError, match="only its id is known here: register the function again"):
            other.evaluate(by_id.id)(X)


def test_unavailable_before_the_first_reply_is_retried(client: jl.Client, script: Script) -> None:
    unavailable = failing(Reason.NO_WORKERS, code=grpc.StatusCode.UNAVAILABLE)
    busy = failing(Reason.OVER_QUOTA, code=grpc.StatusCode.RESOURCE_EXHAUSTED, retry=0.02)
    script.steps = [unavailable, busy, echo(script)]
    np.testing.assert_array_equal(client.evaluate(identity)(X), X)
    assert script.calls.count("Evaluate") == 3


def test_unavailable_in_the_middle_is_not(client: jl.Client, script: Script) -> None:
    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        yield pb.CallReply(header=parts(request.args[0], {})[0])
        context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    script.steps = [step]
    with pytest.raises(jl.UnavailableError, match="lost in the middle of the answer, which is not used"):
        client.evaluate(identity)(X)


def test_a_service_that_comes_back(script: Script) -> None:
    with ExitStack() as later:
        with serving(Script()) as port:
            client = later.enter_context(connect(f"127.0.0.1:{port}"))
            client.functions()
        script.steps = [echo(script)]
        restart = threading.Timer(0.5, lambda: later.enter_context(serving(script, port)))
        restart.start()
        np.testing.assert_array_equal(client.evaluate(identity, timeout=20)(X), X)
        restart.join()


FORK = """
import os, sys
import jacloom as jl
client = jl.connect(sys.argv[1])
child = os.fork()
if not child:
    try:
        client.functions()
    except jl.ClientStateError as error:
        client.close()  # not the child's to close
        print(error, flush=True)
        os._exit(0)
    os._exit(1)
_, status = os.waitpid(child, 0)
client.functions()
print(os.waitstatus_to_exitcode(status))
"""


def test_clients_do_not_survive_a_fork(script: Script) -> None:
    with serving(script) as port:
        program = [sys.executable, "-c", FORK, f"127.0.0.1:{port}"]
        done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "connections do not survive a fork: call jl.connect() in this process" in done.stdout
    assert done.stdout.endswith("\n0\n")


def test_reasons_become_errors(client: jl.Client, script: Script) -> None:
    def loss(x: Any) -> Any:
        return jnp.sin(x) * 2

    metadata = {"function": "0", "node": "0", "op": "sin", "field": "args[0]"}
    script.steps = [failing(Reason.OUT_OF_MEMORY, "needs 3 GiB", grpc.StatusCode.FAILED_PRECONDITION, metadata=metadata)]
    with pytest.raises(jl.OutOfMemoryError, match=r"needs 3 GiB \(at .*test_call\.py:\d+ \(.*loss\)\)") as caught:
        client.evaluate(loss)(X)
    assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_MEMORY, "args[0]")
    assert isinstance(caught.value, MemoryError)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, jl.AuthenticationError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, jl.TooLargeError),
        (grpc.StatusCode.UNIMPLEMENTED, jl.ProtocolError),
        (grpc.StatusCode.INTERNAL, jl.InternalError),
        (grpc.StatusCode.DATA_LOSS, jl.InternalError),
    ],
)
def test_codes_without_reasons(client: jl.Client, script: Script, code: grpc.StatusCode, error: type[Exception]) -> None:
    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        context.abort(code, "from a proxy")
        yield pb.CallReply()

    script.steps = [step]
    with pytest.raises(error, match="from a proxy"):
        client.evaluate(identity)(X)


def test_unknown_reasons_fall_back_to_the_code(client: jl.Client, script: Script) -> None:
    class Newer:
        value = "NOT_YET_INVENTED"

    script.steps = [failing(Newer(), "later", grpc.StatusCode.UNAUTHENTICATED)]  # type: ignore[arg-type]
    with pytest.raises(jl.AuthenticationError, match="later"):
        client.evaluate(identity)(X)


def test_answers_without_summary(client: jl.Client, script: Script) -> None:
    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        header, block = parts(request.args[0], {})
        yield pb.CallReply(header=header, blocks=[block])

    script.steps = [step]
    with pytest.raises(jl.ProtocolError, match="without its summary"):
        client.evaluate(identity)(X)


def test_answers_with_missing_blocks(client: jl.Client, script: Script) -> None:
    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        yield pb.CallReply(header=parts(request.args[0], {})[0], summary=pb.Summary())

    script.steps = [step]
    with pytest.raises(jl.ProtocolError, match="missing or came twice"):
        client.evaluate(identity)(X)


def test_a_broken_answer_is_cancelled(client: jl.Client, script: Script) -> None:
    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        context.add_callback(script.cancelled.set)
        yield pb.CallReply(blocks=[pb.Block(array=3)])
        while context.is_active():
            time.sleep(0.01)

    script.steps = [step]
    with pytest.raises(jl.ProtocolError, match="does not have"):
        client.evaluate(identity)(X)
    assert script.cancelled.wait(5)


def test_timeout_cancels_on_the_service(client: jl.Client, script: Script) -> None:
    script.steps = [hang(script)]
    started = time.monotonic()
    with pytest.raises(jl.DeadlineExceeded, match=r"within 0\.3 s and was cancelled"):
        client.evaluate(identity, timeout=0.3)(X)
    assert time.monotonic() - started < 3
    assert script.cancelled.wait(5)


@pytest.mark.parametrize("timeout", [1e9, 1e10, 1e300])
def test_a_timeout_of_ages(client: jl.Client, script: Script, timeout: float) -> None:
    script.steps = [echo(script)]
    np.testing.assert_array_equal(client.evaluate(identity, timeout=timeout)(X), X)


def test_interrupt_cancels_on_the_service(client: jl.Client, script: Script) -> None:
    script.steps = [hang(script), echo(script)]
    client.register(identity, X)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        client.evaluate(identity)(X)
    assert script.cancelled.wait(5)
    np.testing.assert_array_equal(client.evaluate(identity)(X), X)


def test_progress(client: jl.Client, script: Script) -> None:
    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        header, block = parts(request.args[0], {})
        header.plan.tiles = 3
        yield pb.CallReply(header=header)
        yield pb.CallReply(progress=pb.Progress(tiles_done=2, tiles=3))
        yield pb.CallReply(blocks=[block], summary=pb.Summary(passes=5, tiles=3, retries=1, workers=2, seconds={"total": 0.5}))

    script.steps = [step]
    seen: list[jl.Progress] = []
    client.evaluate(identity, on_progress=seen.append)(X)
    assert [(progress.tiles_done, progress.tiles) for progress in seen] == [(0, 3), (2, 3), (3, 3)]
    assert [progress.summary is None for progress in seen] == [True, True, False]
    assert seen[0].plan.strategy == "single pass"
    summary = seen[-1].summary
    assert summary is not None
    assert (summary.passes, summary.retries, summary.workers, dict(summary.seconds)) == (5, 1, 2, {"total": 0.5})


def test_a_callback_that_raises_cancels(client: jl.Client, script: Script) -> None:
    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        context.add_callback(script.cancelled.set)
        yield pb.CallReply(header=parts(request.args[0], {})[0])
        while context.is_active():
            time.sleep(0.01)

    script.steps = [step]
    with pytest.raises(ZeroDivisionError):
        client.evaluate(identity, on_progress=lambda progress: 1 / 0)(X)  # type: ignore[arg-type, return-value]
    assert script.cancelled.wait(5)


def test_explain_sends_types_only(client: jl.Client, script: Script) -> None:
    import jax

    plan = client.explain(lambda x: x**2, jax.ShapeDtypeStruct((3,), jnp.float32), mode="forward")
    assert (plan.strategy, plan.passes, plan.tile, plan.nbytes, plan.seconds) == ("forward", 3, 2, 216, None)
    assert str(plan).splitlines() == [
        "strategy  forward",
        "passes    3 in 2 tiles of 2",
        "workers   2",
        "result    216 bytes",
        "  forward: 3 passes at about 2.5 evaluations each: least work",
        "  reverse: 9 passes: ",
    ]
    request = script.requests[0]
    assert (request.args[0].dtype, list(request.args[0].shape), request.args[0].data) == ("float32", [3], b"")
    assert request.options.mode == pb.FORWARD
    with pytest.raises(jl.OptionError, match="a Hessian has no mode"):
        client.explain(lambda x: x, X, derivative="hessian", mode="forward")
    with pytest.raises(jl.OptionError, match="must be 'jacobian' or 'hessian'"):
        client.explain(lambda x: x, X, derivative="grad")  # type: ignore[arg-type]


def test_functions_of_the_service(client: jl.Client, script: Script) -> None:
    ones = [client.register(lambda x, n=n: x * n, X, name=f"times {n}") for n in range(5)]
    assert [function.display_name for function in client.functions()] == [f"times {n}" for n in range(5)]
    client.delete(ones[0])
    client.delete(ones[1].name)
    assert len(client.functions()) == 3
    with pytest.raises(jl.FunctionNotFoundError):
        client.delete(ones[0].id)
    with pytest.raises(jl.FunctionNotFoundError):
        client.function("0" * 64)
    with pytest.raises(jl.ArgumentError, match="64 hex digits"):
        client.function("functions/abc")
    with pytest.raises(jl.ArgumentError, match="takes no examples"):
        client.register(jl.trace(identity, X), X)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda client: client.jacobian(identity, mode="fwd"),
            r"`client\.jacobian\(identity, mode='fwd'\)`: mode must be 'auto', 'forward' or 'reverse'",
        ),
        (lambda client: client.jacobian(identity, tile=0), "tile must be 'auto' or a number of seeds from 1 to 4096, got 0"),
        (lambda client: client.hessian(identity, tile=True), "got True"),
        (lambda client: client.jacobian(identity, argnums="x"), "argnums must be an integer or a sequence of integers, got 'x'"),
        (lambda client: client.jvp(identity, X, X), r"primals must be a tuple with one entry per argument, got ndarray; write \(x,\)"),
        (lambda client: client.evaluate(3)(X), "f must be a callable, a jl.Function, a jl.RemoteFunction or a function's id, got int"),
        (
            lambda client: client.evaluate(identity, timeout=-1)(X),
            "timeout must be a finite positive number of seconds, or None.*got -1",
        ),
        (lambda client: client.evaluate(identity, timeout=float("inf"))(X), "got inf"),
        (lambda client: client.evaluate(identity, timeout=float("nan"))(X), "got nan"),
    ],
)
def test_bad_options(client: jl.Client, call: Any, text: str) -> None:
    with pytest.raises((jl.ArgumentError, jl.OptionError), match=text):
        call(client)


def test_closing_a_client_ends_the_calls_of_other_threads(client: jl.Client, script: Script) -> None:
    script.steps = [hang(script)]
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(client.evaluate(identity), X)
        while "Evaluate" not in script.calls:
            time.sleep(0.01)
        client.close()
        with pytest.raises(jl.ClientStateError, match="this client is closed"):
            call.result(10)
    assert script.cancelled.wait(5)


def test_closed_clients(client: jl.Client) -> None:
    client.close()
    client.close()
    with pytest.raises(jl.ClientStateError, match=r"this client is closed; call jl\.connect\(\)"):
        client.evaluate(identity)(X)


def test_token_travels_with_every_call(script: Script) -> None:
    script.steps = [echo(script)]
    with serving(script) as port, connect(f"127.0.0.1:{port}", token="secret") as client:
        client.evaluate(identity)(X)
    assert script.metadata["authorization"] == "Bearer secret"


def test_threads_share_a_client(client: jl.Client, script: Script) -> None:
    script.steps = [echo(script)] * 40
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                np.testing.assert_array_equal(client.evaluate(identity)(X + number), X + number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []


def test_a_service_of_another_version(client: jl.Client, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unit.scripted.identity.graph_id", lambda graph: "0" * 64)
    with pytest.raises(jl.ProtocolError, match="use the same version on both sides"):
        client.register(identity, X)


def _port(client: jl.Client) -> int:
    endpoint = client._session.connection.service.endpoint(None)  # type: ignore[arg-type]
    return int(endpoint.address.rpartition(":")[2])
