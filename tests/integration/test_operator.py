"""Derivatives as SciPy's linear operators, through a real service: equal to JAX's matrices, the point sent once, columns in one call."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integration import service
from jax.flatten_util import ravel_pytree

import jacloom as jl
from jacloom import _call, _upload
from jacloom_api.v1 import derivative_service_pb2
from jacloom_graph.answer import Derivative

RANDOM = np.random.default_rng(5)
PARAMS = {"w": RANDOM.normal(size=(2, 3)), "b": np.array([0.1, -0.2])}
X = np.array([0.5, -1.0, 2.0])
LARGE = 200_000
"""Entries of arguments that do not fit a message."""


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[service.Process]:
    with service.process(tmp_path_factory.mktemp("operator") / "log", "--workers", "2", "--object-store", "1G") as running:
        yield running


@pytest.fixture(scope="module")
def client(process: service.Process) -> Iterator[jl.Client]:
    with jl.connect(process.address) as client:
        yield client


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[Any]]]:
    """Yields what is sent since: the derivative of each call, and the bytes of each upload."""
    sent: dict[str, list[Any]] = {"calls": [], "uploads": []}
    compute, put = _call.compute, _upload._put

    def computed(connection: Any, message: bytes, query: Any, *rest: Any) -> Any:
        sent["calls"].append(query.derivative)
        return compute(connection, message, query, *rest)

    def uploaded(connection: Any, blobs: Any, deadline: Any) -> Any:
        sent["uploads"] += [sum(memoryview(piece).nbytes for piece in content) for _, content in blobs]
        return put(connection, blobs, deadline)

    with monkeypatch.context() as patch:
        patch.setattr(_call, "compute", computed)
        patch.setattr(_upload, "_put", uploaded)
        yield sent


def layer(params: dict[str, Any], x: jax.Array, *, scale: float = 1.0) -> dict[str, Any]:
    y = jnp.tanh(params["w"] @ x + params["b"]) * scale
    return {"y": y, "norm": (jnp.sqrt(y @ y + 1),), "more": jnp.outer(y, x)}


def matrix(f: Callable[..., Any], args: tuple[Any, ...], argnums: tuple[int, ...], jacobian: Any = jax.jacrev, **options: Any) -> np.ndarray:
    """Returns JAX's Jacobian as a matrix: entries of all outputs, entries of all arguments in the order of ``argnums``."""
    with jax.enable_x64(True):
        chosen = tuple(args[number] for number in argnums)
        flat, rebuilt = ravel_pytree(chosen)

        def of(flat: jax.Array) -> jax.Array:
            whole = list(args)
            for number, part in zip(argnums, rebuilt(flat), strict=True):
                whole[number] = part
            return ravel_pytree(f(*whole))[0]

        return np.asarray(jacobian(of, **options)(flat))


def check(operator: Any, expected: np.ndarray, rtol: float = 1e-11, *, complex_vectors: bool = False) -> None:
    """Checks all products against those of a matrix, for real vectors, and where asked for complex ones."""
    m, n = expected.shape
    assert operator.shape == (m, n)
    atol = rtol * float(np.abs(expected).max(initial=1.0))
    kinds = [lambda *shape: RANDOM.normal(size=shape)]
    if complex_vectors:
        kinds.append(lambda *shape: RANDOM.normal(size=shape) + 1j * RANDOM.normal(size=shape))
    for vectors in kinds:
        v, w, many, rows = vectors(n), vectors(m), vectors(n, 3), vectors(m, 5)
        np.testing.assert_allclose(operator.matvec(v), expected @ v, rtol, atol)
        np.testing.assert_allclose(operator.rmatvec(w), expected.conj().T @ w, rtol, atol)
        np.testing.assert_allclose(operator.matmat(many), expected @ many, rtol, atol)
        np.testing.assert_allclose(operator.rmatmat(rows), expected.conj().T @ rows, rtol, atol)
        np.testing.assert_allclose(operator.T @ w, expected.T @ w, rtol, atol)
        np.testing.assert_allclose(operator.H @ (operator @ v), expected.conj().T @ (expected @ v), 10 * rtol, 10 * atol * m)


@pytest.mark.parametrize("argnums", [0, 1, (1, 0)], ids=str)
def test_products_of_trees(client: jl.Client, argnums: Any) -> None:
    with client.linear_operator(layer, PARAMS, X, argnums=argnums, scale=2.0) as operator:
        assert operator.dtype == np.float64
        chosen = argnums if isinstance(argnums, tuple) else (argnums,)
        check(operator, matrix(lambda *args: layer(*args, scale=2.0), (PARAMS, X), chosen), complex_vectors=True)


def test_all_that_can_be_differentiated(client: jl.Client) -> None:
    def f(x: jax.Array) -> jax.Array:
        return jnp.outer(x, jnp.sin(x))[:2]

    expected = matrix(f, (X,), (0,))
    traced = jl.trace(f, X)
    for function in (traced, client.register(f, X), client.register(traced).id):
        check(client.linear_operator(function, X), expected)
    with_aux = client.linear_operator(lambda x: (f(x), {"count": 3}), X, has_aux=True)
    check(with_aux, expected)


def test_single_precision_stays_so(client: jl.Client) -> None:
    x = X.astype(np.float32)
    operator = client.linear_operator(lambda x: jnp.stack([x @ x, x[0] * x[1]]), x)
    assert operator.dtype == np.float32
    assert operator.matvec(x).dtype == operator.rmatmat(np.eye(2, dtype=np.float32)).dtype == np.float32
    check(operator, np.array([[1.0, -2.0, 4.0], [-1.0, 0.5, 0.0]]), rtol=1e-5)
    both = client.linear_operator(lambda x, y: x.sum() * y, x, np.array([1.0, 2.0]), argnums=(0, 1))
    assert both.dtype == np.float64
    check(both, np.array([[1.0, 1, 1, 1.5, 0], [2, 2, 2, 0, 1.5]]), rtol=1e-6)  # what meets a float32 leaf is rounded to it


def test_complex_numbers(client: jl.Client) -> None:
    z = np.array([1.0 + 2j, -0.5j, 0.25])

    def holomorphic(z: jax.Array) -> jax.Array:
        return jnp.stack([z[0] ** 2 * z[1], jnp.exp(z[2])])

    check(
        client.linear_operator(holomorphic, z, holomorphic=True),
        matrix(holomorphic, (z,), (0,), holomorphic=True),
        complex_vectors=True,
    )

    def to_complex(x: jax.Array) -> Any:
        return jnp.exp(1j * x[:2]), x[2] ** 2

    with jax.enable_x64(True):
        expected = np.concatenate([np.asarray(jax.jacfwd(to_complex)(X)[0]), np.asarray(jax.jacfwd(to_complex)(X)[1])[None]])
    operator = client.linear_operator(to_complex, X)
    assert operator.dtype == np.complex128
    check(operator, expected, complex_vectors=True)

    def to_real(x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.stack([jnp.abs(z[0]) ** 2 + x[0], (z[1] * z[2]).real * x[1]])

    with jax.enable_x64(True):
        expected = np.concatenate([np.asarray(part) for part in jax.jacrev(to_real, (0, 1))(X, z)], axis=1)
    check(client.linear_operator(to_real, X, z, argnums=(0, 1)), expected, complex_vectors=True)


def test_empty_shapes_take_no_call(client: jl.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(monkeypatch) as sent:
        no_columns = client.linear_operator(lambda x: jnp.ones(2) * x.sum(), np.zeros((0, 3)))
        check(no_columns, np.zeros((2, 0)))
        check(client.linear_operator(lambda x: x[:0], X), np.zeros((0, 3)))
        assert client.linear_operator(jnp.sin, X).matmat(np.zeros((3, 0))).shape == (3, 0)
    assert sent["calls"] == []
    scalar = client.linear_operator(lambda x: x**3, 2.0)
    check(scalar, np.array([[12.0]]))


def test_second_derivatives(client: jl.Client) -> None:
    def f(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.prod(x) * jnp.sum(jnp.sin(y))

    y = np.array([[0.3], [1.0]])
    with jax.enable_x64(True):
        flat, rebuilt = ravel_pytree((X, y))
        expected = np.asarray(jax.hessian(lambda flat: f(*rebuilt(flat)))(flat))
    check(client.linear_operator(f, X, y, argnums=(0, 1), derivative="hessian"), expected, complex_vectors=True)
    z = X + 1j
    with jax.enable_x64(True):
        expected = np.asarray(jax.hessian(lambda z: jnp.prod(z**2), holomorphic=True)(z))
    check(client.linear_operator(lambda z: jnp.prod(z**2), z, derivative="hessian", holomorphic=True), expected, complex_vectors=True)
    with pytest.raises(jl.ArgumentError, match="must return a scalar"):
        client.linear_operator(jnp.sin, X, derivative="hessian")


def test_columns_are_one_call(client: jl.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = client.linear_operator(layer, PARAMS, X, argnums=1)
    with counted(monkeypatch) as sent:
        operator @ np.eye(3)
        operator.rmatmat(np.ones((9, 40)))
        operator @ np.ones((3, 1))
    assert sent["calls"] == [Derivative.JVP, Derivative.VJP, Derivative.JVP]


def test_columns_that_have_no_room_in_one_call_take_several(client: jl.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from jacloom import _operator

    monkeypatch.setattr(_operator, "CALL_BYTES", 2 * 6 * 8)  # two columns of three entries, with products of three
    operator = client.linear_operator(jnp.sin, X)
    with counted(monkeypatch) as sent:
        np.testing.assert_allclose(operator @ np.eye(3), np.diag(np.cos(X)))
    assert sent["calls"] == [Derivative.JVP] * 2


def squares(x: jax.Array) -> jax.Array:
    return x[1:] * x[:-1]


def test_the_point_is_sent_once(client: jl.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    x, v = RANDOM.normal(size=LARGE), RANDOM.normal(size=LARGE)
    operator = client.linear_operator(squares, x)
    expected = v[1:] * x[:-1] + x[1:] * v[:-1]
    x[:] = 0.0  # the operator's point is what it was
    with counted(monkeypatch) as sent:
        for _ in range(3):
            np.testing.assert_allclose(operator @ v, expected)
        np.testing.assert_allclose(operator @ np.stack([v, -v], axis=1), np.stack([expected, -expected], axis=1))
    assert sent["uploads"] == [8 * LARGE] * 4 + [16 * LARGE]
    assert len(sent["calls"]) == 4


def blobs_of(operator: Any) -> list[str]:
    return list(operator._point.leased)


def test_a_point_that_was_dropped_is_sent_again(client: jl.Client, process: service.Process, monkeypatch: pytest.MonkeyPatch) -> None:
    x, v = RANDOM.normal(size=LARGE), RANDOM.normal(size=LARGE)
    operator = client.linear_operator(squares, x)
    first = operator @ v
    (before,) = blobs_of(operator)
    release(process, before)
    with counted(monkeypatch) as sent:
        np.testing.assert_array_equal(operator @ v, first)
    assert [size for size in sent["uploads"] if size == 8 * LARGE] == [8 * LARGE] * 3  # the seed, and after the refusal the point and the seed
    assert blobs_of(operator) != [before]


def release(process: service.Process, name: str) -> None:
    from jacloom_api.v1 import blob_service_pb2

    with service.client(process) as raw:
        raw.blobs.Release(blob_service_pb2.ReleaseRequest(name=name), timeout=service.TIMEOUT)


def held(process: service.Process, function: str, name: str) -> bool:
    """Returns whether the service has a blob of ``LARGE`` float64: a call that names it finds it or does not."""
    from jacloom_api.v1 import graph_pb2

    with service.client(process) as raw:
        argument = graph_pb2.Tensor(dtype="float64", shape=[LARGE], blob=name)
        try:
            raw.call("Evaluate", service.request(function, [argument], wrt=()))
        except grpc.RpcError as error:
            reason = service.failure(error).reason
        else:
            return True
    assert reason == "BLOB_NOT_FOUND"
    return False


def test_closing_and_forgetting_release_the_point(client: jl.Client, process: service.Process) -> None:
    x = RANDOM.normal(size=LARGE)
    function = client.register(squares, x)
    name = f"functions/{function.id}"
    with client.linear_operator(function, x) as operator:
        operator @ x
        (closed,) = blobs_of(operator)
        assert held(process, name, closed)
    service.wait_for(lambda: not held(process, name, closed))
    operator.close()  # twice does nothing
    with pytest.raises(jl.ClientStateError, match="closed"):
        operator @ x
    forgotten = client.linear_operator(function, x)
    forgotten @ x
    (lost,) = blobs_of(forgotten)
    del forgotten
    gc.collect()
    client.evaluate(jnp.sin)(1.0)
    service.wait_for(lambda: not held(process, name, lost))


def test_threads_share_an_operator(client: jl.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    x = RANDOM.normal(size=LARGE)
    operator = client.linear_operator(squares, x)
    vectors = RANDOM.normal(size=(6, LARGE))
    with counted(monkeypatch) as sent, ThreadPoolExecutor(3) as threads:
        products = list(threads.map(operator.matvec, vectors))
    for v, product in zip(vectors, products, strict=True):
        np.testing.assert_allclose(product, v[1:] * x[:-1] + x[1:] * v[:-1])
    assert len(sent["uploads"]) == 1 + 6


def flow(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda y, _: (jnp.sin(y) + 0.1 * jnp.roll(y, 1), None), x, None, length=20)[0]


def test_points_of_one_function_are_told_apart(process: service.Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers keep what they have computed of each point; large points travel by names of their own, small ones by content."""
    options = []
    compute = _call.compute

    def computed(connection: Any, message: bytes, *rest: Any) -> Any:
        options.append(derivative_service_pb2.CallRequest.FromString(message).options.linearize)
        return compute(connection, message, *rest)

    monkeypatch.setattr(_call, "compute", computed)
    for n in (6, LARGE):
        points = RANDOM.normal(size=(3, n))
        v = RANDOM.normal(size=n)
        with jax.enable_x64(True):
            pushed = [np.asarray(jax.jvp(flow, (x,), (v,))[1]) for x in points]
            pulled = [np.asarray(jax.vjp(flow, x)[1](v)[0]) for x in points]
        with jl.connect(process.address) as one, jl.connect(process.address) as other:
            operators = [client.linear_operator(flow, x) for client, x in zip((one, other, one), points, strict=True)]
            for _ in range(2):
                for operator, along, back in zip(operators, pushed, pulled, strict=True):
                    np.testing.assert_allclose(operator @ v, along, rtol=1e-10, atol=1e-12)
                    np.testing.assert_allclose(operator.T @ v, back, rtol=1e-10, atol=1e-12)
            for operator, along in zip(operators, pushed, strict=True):
                np.testing.assert_allclose(operator @ np.stack([v, -v], axis=1), np.stack([along, -along], axis=1), rtol=1e-10, atol=1e-12)
    assert options == [True] * 30


def test_a_worker_that_is_lost_takes_nothing_along(process: service.Process) -> None:
    x, v = RANDOM.normal(size=7), RANDOM.normal(size=7)
    with jl.connect(process.address) as client:
        operator = client.linear_operator(flow, x)
        first = operator @ v
        lost = process.workers()
        assert len(lost) == 3
        for worker in lost:
            worker.kill()
        np.testing.assert_allclose(operator @ v, first, rtol=1e-14)
        np.testing.assert_allclose(operator @ np.stack([v, 2 * v], axis=1), np.stack([first, 2 * first], axis=1), rtol=1e-12)
        assert not {worker.pid for worker in process.workers()} & {worker.pid for worker in lost}


def test_a_product_that_there_is_not_is_refused_when_it_is_asked_for(client: jl.Client) -> None:
    @jax.custom_vjp
    def backward_only(x: jax.Array) -> jax.Array:
        return x**2

    backward_only.defvjp(lambda x: (x**2, x), lambda x, w: (2 * x * w,))
    operator = client.linear_operator(backward_only, X)
    np.testing.assert_allclose(operator.rmatvec(np.ones(3)), 2 * X)
    np.testing.assert_allclose(operator.rmatmat(np.eye(3)), np.diag(2 * X))
    with pytest.raises(jl.ModeUnavailableError, match="custom_vjp"):
        operator.matvec(np.ones(3))
    with pytest.raises(jl.ModeUnavailableError, match="custom_vjp"):
        operator.matmat(np.eye(3))


def test_mistakes_name_the_call(client: jl.Client) -> None:
    with pytest.raises(ValueError, match="dimension mismatch"):
        client.linear_operator(jnp.sin, X) @ np.ones(4)
    with pytest.raises(jl.OptionError, match="derivative must be 'jacobian' or 'hessian'"):
        client.linear_operator(jnp.sin, X, derivative="gradient")  # type: ignore[arg-type]
    with pytest.raises(jl.ArgumentError, match=r"client\.linear_operator\(sin, argnums=1\).*must be 0; got 1"):
        client.linear_operator(jnp.sin, X, argnums=1)
    with pytest.raises(jl.ArgumentError, match="has a type but no elements"):
        client.linear_operator(jnp.sin, jax.ShapeDtypeStruct((3,), np.float64))


def test_an_expired_lease_is_renewed_by_use_and_revived_after(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("short")
    (folder / "settings.toml").write_text("blob_lease = 1.0\n")
    flags = ("--config", str(folder / "settings.toml"), "--workers", "1", "--no-wide", "--object-store", "256M")
    with service.process(folder / "log", *flags) as running, jl.connect(running.address) as client:
        x = RANDOM.normal(size=LARGE)
        operator = client.linear_operator(squares, x)
        first = operator @ x
        (before,) = blobs_of(operator)
        name = f"functions/{operator._point.binding.signature.id}"
        service.wait_for(lambda: _expired(running, name, before))
        np.testing.assert_array_equal(operator @ x, first)
        assert blobs_of(operator) != [before]


def _expired(running: service.Process, function: str, name: str) -> bool:
    # Asking is using: between questions the lease has to run out.
    time.sleep(2.0)
    return not held(running, function, name)
