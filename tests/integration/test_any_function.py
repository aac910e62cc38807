"""Functions that JAX or a single mode would refuse, through a real service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacloom as jl

X = np.array([1.5, 3.0, 0.5])


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def settled(x: Any) -> Any:
    """Iterates until the largest entry is small; how often depends on the entries."""
    return jax.lax.while_loop(lambda c: jnp.max(c) > 0.1, lambda c: jnp.sin(c) * 0.9 + 0.01 * jnp.roll(c, 1) * x, x)


class TestLoops:
    @pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
    def test_jacobian(self, client: jl.Client, mode: Any) -> None:
        with jax.enable_x64(True):
            np.testing.assert_allclose(client.jacobian(settled, mode=mode)(X), jax.jacfwd(settled)(X), rtol=1e-10)

    @pytest.mark.parametrize("size", [1, 3, 200])
    def test_gradient(self, client: jl.Client, size: int) -> None:
        loss = lambda x: jnp.sum(settled(x) ** 2)  # noqa: E731
        x = np.linspace(0.5, 3.0, size)
        with jax.enable_x64(True):
            value, gradient = client.value_and_grad(loss)(x)
            np.testing.assert_allclose(gradient, jax.jacfwd(loss)(x), rtol=1e-10)
            np.testing.assert_allclose(value, loss(x), rtol=1e-12)

    def test_vjp_hvp_and_hessian(self, client: jl.Client) -> None:
        loss = lambda x: jnp.sum(settled(x) ** 2)  # noqa: E731
        with jax.enable_x64(True):
            hessian = jax.jacfwd(jax.jacfwd(loss))(X)
            np.testing.assert_allclose(client.hessian(loss)(X), hessian, rtol=1e-9)
            np.testing.assert_allclose(client.hvp(loss, (X,), (np.ones(3),)), hessian @ np.ones(3), rtol=1e-9)
            _, (row,) = client.vjp(settled, (X,), np.ones(3))
            np.testing.assert_allclose(row, np.ones(3) @ jax.jacfwd(settled)(X), rtol=1e-10)

    def test_the_plan_goes_forward_where_that_is_cheaper(self, client: jl.Client) -> None:
        plan = client.explain(settled, X)
        assert plan.strategy == "forward"
        assert [each.strategy for each in plan.considered] == ["forward", "reverse", "coloured"]
        assert "not available" not in str(plan)
