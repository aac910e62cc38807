"""One call against a real gRPC server that misbehaves: what is retried, what is refused, what is cancelled, and what the user sees."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import jax.numpy as jnp
import numpy as np
import pytest
from unit.scripted import Script, echo, failing, hang, parts

import jacloom as jl
from jacloom._connect import connect
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph.errors import Reason

X = np.arange(6.0).reshape(2, 3)


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


def _port(client: jl.Client) -> int:
    endpoint = client._session.connection.service.endpoint(None)  # type: ignore[arg-type]
    return int(endpoint.address.rpartition(":")[2])
