"""The engine on a GPU: every kind of kernel against the same on the CPU, in each precision.

Run alone, ``pytest tests/gpu``: other tests tie JAX to the CPU for the whole process.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacloom._trace import trace
from jacloom_graph import wire
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Done, Kernel, Kind, Load, Task


def _has_gpu() -> bool:
    try:
        return bool(jax.devices("cuda"))
    except RuntimeError:  # JAX has no CUDA here, or was tied to the CPU
        return False


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not _has_gpu(), reason="no GPU that JAX can use in this process")]

WEIGHTS = np.random.default_rng(0).normal(size=(6, 4))
X = np.linspace(-1, 1, 4)


def layer(x: jax.Array) -> jax.Array:
    return jnp.tanh(WEIGHTS.astype(x.dtype) @ x)


def energy(x: jax.Array) -> jax.Array:
    return jnp.sum(layer(x) ** 2)


@pytest.fixture(scope="module")
def engine() -> Engine:
    from jacloom_worker import devices

    devices.configure("gpu")
    assert devices.device().platform == "gpu"
    return Engine()


def answer(
    engine: Engine, fun: object, kind: Kind, x: np.ndarray, *seeds: np.ndarray, width: int = 0, count: int = 0, point: str = ""
) -> list[np.ndarray]:
    traced = trace(fun, (x,))  # type: ignore[arg-type]
    outputs = () if kind is Kind.VALUE else (0,)
    kernel = Kernel(traced.id, kind, wrt=(0,), outputs=outputs, values=(0,) if kind is Kind.VALUE else (), width=width)
    found = engine.run(Task(kernel, Load(wire.to_bytes(traced.graph)), point=point, linearize=bool(point), count=count), x, *seeds)
    assert isinstance(found, Done), found
    return list(found.arrays)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_jacobians_by_columns_and_by_rows(engine: Engine, dtype: str) -> None:
    x = X.astype(jnp.dtype(dtype))
    expected = (1 - np.tanh(WEIGHTS @ X) ** 2)[:, None] * WEIGHTS
    tolerance = 32 * float(jnp.finfo(dtype).eps)
    (columns,) = answer(engine, layer, Kind.FORWARD, x, width=8, count=4)
    (rows,) = answer(engine, layer, Kind.REVERSE, x, width=8, count=6)
    assert columns.dtype == rows.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(columns.astype(np.float64), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(rows.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def test_single_passes(engine: Engine) -> None:
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        gradient, hessian = jax.grad(energy)(X), jax.hessian(energy)(X)
    v = np.arange(4.0)
    np.testing.assert_allclose(answer(engine, energy, Kind.VALUE, X)[0], np.sum(np.tanh(WEIGHTS @ X) ** 2), rtol=1e-13)
    np.testing.assert_allclose(answer(engine, energy, Kind.GRADIENT, X)[0], gradient, rtol=1e-12)
    np.testing.assert_allclose(answer(engine, energy, Kind.JVP, X, v)[0], gradient @ v, rtol=1e-12)
    np.testing.assert_allclose(answer(engine, energy, Kind.HVP, X, v)[0], hessian @ v, rtol=1e-11)
    np.testing.assert_allclose(answer(engine, energy, Kind.HESSIAN, X, width=4, count=4)[0], hessian, rtol=1e-11)


def test_products_at_a_point_that_stays(engine: Engine) -> None:
    def flow(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (jnp.sin(layer(y) @ WEIGHTS) + y, None), x, None, length=30)[0]

    v, point = np.linspace(1, -2, 4), f"point of {test_products_at_a_point_that_stays.__name__}"
    for kind in (Kind.JVP, Kind.VJP):
        (expected,) = answer(engine, flow, kind, X, v)
        for x in (X, X, X + 1):  # the last one is not looked at: what was kept of the name is used
            (found,) = answer(engine, flow, kind, x, v, point=point)
            np.testing.assert_allclose(found, expected, rtol=1e-11)
        (batch,) = answer(engine, flow, kind, X, np.stack([v, -v]), width=4, count=2, point=point)
        np.testing.assert_allclose(batch, [expected, -expected], rtol=1e-11)


def test_products_are_not_rounded_to_tf32(engine: Engine) -> None:
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(128, 256)), rng.normal(size=256)
    (value,) = answer(engine, lambda x: left.astype(np.float32) @ x, Kind.VALUE, right.astype(np.float32))
    exact = left.astype(np.float32).astype(np.float64) @ right.astype(np.float32).astype(np.float64)
    assert np.max(np.abs(value - exact)) < 1e-4  # TF32 keeps ten bits: about 1e-2 here
