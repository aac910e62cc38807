"""The whole path through a real service: JAX functions in, derivatives out, equal to JAX's; and what users see when something is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest

import jacloom as jl
from jacloom._deadline import Deadline

X = np.array([0.5, -1.0, 2.0])
PARAMS = {"w": np.arange(6.0).reshape(2, 3) / 7, "b": np.array([0.1, -0.2])}


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def layer(params: dict[str, Any], x: jax.Array, *, scale: float = 1.0) -> dict[str, Any]:
    y = jnp.tanh(params["w"] @ x + params["b"]) * scale
    return {"y": y, "norm": (jnp.sqrt(y @ y + 1),)}


def loss(params: dict[str, Any], x: jax.Array) -> jax.Array:
    return jnp.sum(layer(params, x)["y"] ** 3) + jax.nn.logsumexp(x)


def lorenz(x: jax.Array) -> jax.Array:
    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return x + 0.01 * ((jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8.0), None

    return jax.lax.scan(step, x, length=20)[0]


def same(got: Any, expected: Any, rtol: float = 1e-10) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert type(mine) is np.ndarray
        assert mine.flags.writeable
        assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
        np.testing.assert_allclose(mine, theirs, rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
@pytest.mark.parametrize("argnums", [0, (1, 0)], ids=str)
def test_jacobian(client: jl.Client, mode: Any, argnums: Any) -> None:
    got = client.jacobian(layer, argnums, mode=mode)(PARAMS, X, scale=2.0)
    with jax.enable_x64(True):
        same(got, jax.jacobian(layer, argnums)(PARAMS, X, scale=2.0))


def test_everything_else(client: jl.Client) -> None:
    tangents = (jax.tree.map(np.ones_like, PARAMS), X + 1)
    with jax.enable_x64(True):
        same(client.evaluate(layer)(PARAMS, X), layer(PARAMS, X))
        same(client.grad(loss, (0, 1))(PARAMS, X), jax.grad(loss, (0, 1))(PARAMS, X))
        same(client.value_and_grad(loss)(PARAMS, X), jax.value_and_grad(loss)(PARAMS, X))
        same(client.hessian(loss, (1, 0))(PARAMS, X), jax.hessian(loss, (1, 0))(PARAMS, X), rtol=1e-8)
        same(client.hessian(layer, 1)(PARAMS, X), jax.hessian(layer, 1)(PARAMS, X), rtol=1e-8)
        same(client.jvp(layer, (PARAMS, X), tangents), jax.jvp(layer, (PARAMS, X), tangents))
        out, pull = jax.vjp(layer, PARAMS, X)
        same(client.vjp(layer, (PARAMS, X), jax.tree.map(np.asarray, out)), (out, pull(out)))
        product = jax.jvp(jax.grad(loss, (0, 1)), (PARAMS, X), tangents)[1]
        same(client.hvp(loss, (PARAMS, X), tangents), product, rtol=1e-8)


def test_float32_stays_float32(client: jl.Client) -> None:
    x = X.astype(np.float32)
    got = client.jacobian(lorenz)(x)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, jax.jacobian(lorenz)(x), rtol=1e-4, atol=1e-6)


def test_auxiliary_and_products_with_integers(client: jl.Client) -> None:
    def f(x: jax.Array, n: jax.Array) -> Any:
        return x**2 * n.sum(), {"count": n + 1}

    n = np.array([1, 2])
    jacobian, aux = client.jacobian(f, has_aux=True)(X, n)
    np.testing.assert_allclose(jacobian, np.diag(6 * X))
    np.testing.assert_array_equal(aux["count"], [2, 3])
    (value, _), (tangent, nothing) = client.jvp(f, (X, n), (np.ones(3), None))
    np.testing.assert_allclose((value, tangent), (3 * X**2, 6 * X))
    assert nothing["count"].dtype == jax.dtypes.float0


def test_sizes_of_zero_take_no_pass(client: jl.Client) -> None:
    seen: list[jl.Progress] = []
    empty = client.jacobian(lambda x: jnp.outer(x, jnp.ones(2)), on_progress=seen.append)(np.zeros(0))
    assert (empty.shape, empty.dtype) == ((0, 2, 0), np.float64)
    assert client.jacobian(lambda x: x[:0], on_progress=seen.append)(X).shape == (0, 3)
    assert client.jacobian(lambda x, y: {"y": y}, argnums=(), on_progress=seen.append)(X, X) == {"y": ()}
    assert [progress.summary.passes for progress in seen if progress.summary] == [0, 0, 0]
    assert client.grad(lambda x: x.sum() + 1.0)(np.zeros((2, 0))).shape == (2, 0)


def test_keys_and_static_values(client: jl.Client) -> None:
    def f(x: jax.Array, key: jax.Array, n: int, kind: str) -> jax.Array:
        return (x * jax.random.normal(key, (n,)).sum()) if kind == "scaled" else x

    key = jax.random.key(3)
    for n in (2, 4):
        with jax.enable_x64(True):
            expected = float(jax.random.normal(key, (n,)).sum())
        np.testing.assert_allclose(client.jacobian(f)(X, key, n, "scaled"), np.eye(3) * expected, rtol=1e-6)
    back = client.evaluate(lambda key: jax.random.split(key, 2))(key)
    assert (jax.random.key_data(back) == jax.random.key_data(jax.random.split(key, 2))).all()


@pytest.mark.parametrize(
    ("f", "x", "of_jax"),
    [(lambda x: x * 1j, X, jax.jacfwd), (lambda z: jnp.abs(z) ** 2, X + 1j, jax.jacrev)],
    ids=["R to C", "C to R"],
)
def test_complex(client: jl.Client, f: Any, x: np.ndarray, of_jax: Any) -> None:
    with jax.enable_x64(True):
        same(client.jacobian(f)(x), of_jax(f)(x))
        z = X + 0.5j
        same(client.jacobian(jnp.exp, holomorphic=True)(z), jax.jacfwd(jnp.exp, holomorphic=True)(z))


def test_large_arrays_and_constants(client: jl.Client) -> None:
    big = np.random.default_rng(0).normal(size=300_000)
    x = np.random.default_rng(1).normal(size=300_000)
    value, tangent = client.jvp(lambda x: jnp.sin(x) * big, (x,), (big,))
    np.testing.assert_allclose(value, np.sin(x) * big)
    np.testing.assert_allclose(tangent, np.cos(x) * big * big)
    jacobian = client.jacobian(lambda x: jnp.outer(x, x).reshape(-1))(x[:150])
    assert jacobian.nbytes > 24 << 20
    np.testing.assert_allclose(jacobian.reshape(150, 150, 150)[3, 7], np.eye(150)[3] * x[7] + np.eye(150)[7] * x[3])


def test_plans_are_kept(client: jl.Client) -> None:
    seen: list[jl.Progress] = []
    tall = lambda x: jnp.outer(jnp.arange(50.0), x).reshape(-1) ** 2  # noqa: E731
    wide = lambda x: jnp.stack([x.sum() ** 2, (x**3).sum()])  # noqa: E731
    for f, x, strategy, passes in [(tall, X, "forward", 3), (wide, np.ones(70), "reverse", 2)]:
        plan = client.explain(f, x)
        assert (plan.strategy, plan.passes) == (strategy, passes)
        assert plan.considered[0].strategy == strategy
        client.jacobian(f, on_progress=seen.append)(x)
        last = seen[-1]
        assert last.summary is not None
        assert (last.plan.strategy, last.summary.passes) == (strategy, passes)
    hessian = client.explain(loss, PARAMS, X, derivative="hessian", argnums=1)
    assert (hessian.passes, hessian.nbytes) == (3, 72)


@jax.custom_vjp
def clipped(x: jax.Array) -> jax.Array:
    return x * 1.0


clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (jnp.clip(g, -1, 1),))


def test_a_mode_that_a_function_does_not_have(client: jl.Client) -> None:
    f = lambda x: clipped(x * 3) * 2  # noqa: E731
    with jax.enable_x64(True):
        same(client.jacobian(f)(X), jax.jacrev(f)(X))
    with pytest.raises(jl.ModeUnavailableError) as caught:
        client.jacobian(f, mode="forward")(X)
    assert "custom_vjp" in str(caught.value) or "reverse" in str(caught.value)
    assert "test_sdk.py" in str(caught.value)


@jax.custom_jvp
def table(x: jax.Array, knots: jax.Array) -> jax.Array:
    return jnp.interp(x, jnp.arange(3.0), knots)


@table.defjvp
def _(primals: Any, tangents: Any) -> Any:
    x, knots = primals
    if type(tangents[1]).__name__ != "SymbolicZero" and not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
        raise NotImplementedError("no derivative with respect to the knots")
    return table(x, knots), 10.0 * tangents[0]


table.defjvp(_, symbolic_zeros=True)  # type: ignore[call-arg]


def test_rules_that_refuse_some_inputs(client: jl.Client) -> None:
    knots = np.array([0.0, 1.0, 4.0])
    for _ in range(2):
        np.testing.assert_allclose(client.jacobian(table)(X, knots), np.eye(3) * 10)
    with pytest.raises(jl.ModeUnavailableError, match="no derivative with respect to the knots"):
        client.jacobian(table, argnums=1)(X, knots)


def test_registered_saved_and_by_id(client: jl.Client, tmp_path: Path) -> None:
    assert client.register(lambda x: x * 7.5, X, name="a name").display_name == "a name"
    remote = client.register(layer, PARAMS, jax.ShapeDtypeStruct((3,), np.float64))
    assert remote.id == jl.trace(layer, PARAMS, X).id
    expected = client.jacobian(layer, 1)(PARAMS, X)
    same(client.jacobian(remote, 1)(PARAMS, X), expected)
    same(client.jacobian(remote.id, 1)(PARAMS, X), expected)
    jl.trace(layer, PARAMS, X).save(tmp_path / "layer.jacloom")
    same(client.jacobian(jl.load(tmp_path / "layer.jacloom"), 1)(PARAMS, X), expected)
    with pytest.raises(jl.ArgumentError, match=r"✗ args\[1\] +float64\[3\] expected, got float64\[2\]"):
        client.jacobian(remote)(PARAMS, X[:2])
    assert remote.id in [function.id for function in client.functions()]
    client.delete(remote)
    same(client.jacobian(layer, 1)(PARAMS, X), expected)  # registered again by itself


def test_another_process_without_jax(client: jl.Client, tmp_path: Path) -> None:
    jl.trace(loss, PARAMS, X).save(tmp_path / "loss.jacloom")
    endpoint = client._session.connection.service.endpoint(Deadline(60))
    program = """
import sys
sys.modules["jax"] = None
import jacloom as jl, numpy as np
with jl.connect(sys.argv[1], token=sys.argv[2]) as client:
    f = jl.load(sys.argv[3])
    gradient = client.grad(f, argnums=1)({"w": np.arange(6.0).reshape(2, 3) / 7, "b": np.array([0.1, -0.2])}, np.array([0.5, -1.0, 2.0]))
    print(gradient.tolist())
"""
    argv = [sys.executable, "-c", program, endpoint.address, endpoint.token or "", str(tmp_path / "loss.jacloom")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    np.testing.assert_allclose(eval(done.stdout), client.grad(loss, 1)(PARAMS, X))


def test_wrong_tokens(client: jl.Client) -> None:
    endpoint = client._session.connection.service.endpoint(Deadline(60))
    for token in (None, "wrong"):
        with pytest.raises(jl.AuthenticationError, match="token"):
            jl.connect(endpoint.address, token=token)


BAD = {
    "unknown id": (lambda client: client.jacobian("f" * 64)(X), jl.FunctionNotFoundError, "f" * 64),
    "untraceable": (lambda client: client.jacobian(lambda x: x if x[0] > 0 else -x)(X), jl.TraceError, "traced"),
    "unsupported": (
        lambda client: client.jacobian(lambda x: jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), np.float64), x))(X),
        jl.UnsupportedOpError,
        "callback",
    ),
    "integer wrt": (lambda client: client.jacobian(lambda n: n * 1.0)(np.arange(3)), jl.ArgumentError, "only floating-point"),
    "under jit": (lambda client: jax.jit(client.jacobian(lorenz))(X), jl.ClientStateError, "jax.jit"),
    "shape only": (lambda client: client.jacobian(lorenz)(jax.ShapeDtypeStruct((3,), np.float64)), jl.ArgumentError, "no elements"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_clear_error(client: jl.Client, case: str) -> None:
    call, kind, text = BAD[case]
    with pytest.raises(kind) as caught:
        call(client)
    assert text in str(caught.value)
    np.testing.assert_allclose(client.grad(lambda x: (x**2).sum())(X), 2 * X)


def slow(x: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, 300_000, lambda _, y: jnp.sin(y) + x, x)


def test_timeout_and_interrupt_leave_the_service_well(client: jl.Client) -> None:
    started = time.monotonic()
    with pytest.raises(jl.DeadlineExceeded, match=r"within 1\.5 s"):
        client.jacobian(slow, sparsity="dense", timeout=1.5)(np.ones(64))
    assert time.monotonic() - started < 5
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        client.jacobian(slow, sparsity="dense")(np.ones(64))
    timer.join()
    np.testing.assert_allclose(client.jacobian(lambda x: x**2, timeout=60)(X), np.diag(2 * X))


def test_threads_share_a_client(client: jl.Client) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(3):
                np.testing.assert_allclose(client.jacobian(lambda x: x**2 * number)(X), np.diag(2 * X * number))
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []


OWNER = """
import sys
import jacloom as jl, numpy as np
client = jl.connect()
print(client.grad(lambda x: (x**2).sum())(np.ones(2)).tolist(), flush=True)
sys.stdin.readline()
if sys.argv[1] == "raise":
    raise RuntimeError("on purpose")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "number"), [("end", None), ("raise", None), ("wait", signal.SIGINT), ("wait", signal.SIGKILL)], ids=str)
def test_no_process_is_left_behind(how: str, number: signal.Signals | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "JACLOOM_ADDRESS"}
    argv = [sys.executable, "-c", OWNER, how]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(argv, text=True, env=environment, **pipes) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "[2.0, 2.0]\n"
        family = psutil.Process(owner.pid).children(recursive=True)
        assert len(family) > 3
        if number is None:
            owner.communicate("\n", timeout=60)
        else:
            owner.send_signal(number)
            owner.communicate(timeout=60)
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
