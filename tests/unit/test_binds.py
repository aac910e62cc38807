"""Every op of the table can be evaluated by the JAX that is installed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacloom_graph.ops import TABLE
from jacloom_worker import binds, loops
from jacloom_worker.primitives import primitives

pytestmark = pytest.mark.usefixtures("worker_jax")


@pytest.mark.parametrize("op", TABLE)
def test_there_is_a_way_to_evaluate(op: str) -> None:
    assert op in loops.STRUCTURED or op in binds.CALLS or op in primitives()


@pytest.mark.parametrize(
    ("op", "function"),
    [("log2", np.log2), ("one_minus_square", lambda x: (1 - x) * (1 + x))],
)
def test_ops_that_not_every_version_has(op: str, function: object) -> None:
    x = np.array([0.1, 0.5, 0.999, 8.0])

    def ours(x: jax.Array) -> jax.Array:
        (result,) = binds.bind(op, [x], {})
        return result

    np.testing.assert_allclose(jax.jit(ours)(x), function(x), rtol=1e-14)  # type: ignore[operator]
    step = 1e-6
    slope = (function(x + step) - function(x - step)) / (2 * step)  # type: ignore[operator]
    np.testing.assert_allclose(jax.vmap(jax.grad(ours))(x), slope, rtol=1e-7, atol=1e-8)
    assert ours(jnp.float32(0.5)).dtype == np.float32
