"""Dense Jacobians: one dominated by moving the answer, one by the passes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Goal, Report, in_turn
from jacloom import Client


def product(client: Client) -> Report:
    """``tanh(W x)``, 1000 x 1000: 8 MB of answer from 2 Gflop."""
    n = 1_000
    weights = np.random.default_rng(0).normal(size=(n, n)) / np.sqrt(n)
    x = np.linspace(0, 1, n)

    def layer(x: jax.Array) -> jax.Array:
        return jnp.tanh(weights @ x)

    service = client.jacobian(layer)
    with jax.enable_x64(True):
        local = jax.jit(jax.jacfwd(layer))
        np.testing.assert_allclose(service(x), local(x), rtol=1e-10)
        medians, spread = in_turn({"service": lambda: service(x), "local jacfwd": lambda: np.asarray(local(x))}, rounds=30, warm=4)
    # The goal is met by either bound.
    bound = max(0.070, 3 * medians["local jacfwd"])
    goal = Goal("at most 70 ms, or 3 x local jacfwd", medians["service"] * 1e3, bound * 1e3, "ms")
    return Report("Jacobian of tanh(W x), 1000 x 1000", medians, (goal,), spread)


def lorenz(steps: int) -> Callable[[jax.Array], jax.Array]:
    """Returns the flow of the Lorenz-96 system over ``steps`` Runge-Kutta steps of 0.01."""

    def slope(x: jax.Array) -> jax.Array:
        return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8.0

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        h = 0.01
        k1 = slope(x)
        k2 = slope(x + h / 2 * k1)
        k3 = slope(x + h / 2 * k2)
        k4 = slope(x + h * k3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return lambda x: jax.lax.scan(step, x, None, length=steps)[0]


def flow(client: Client) -> Report:
    """Lorenz-96, n = 512, 400 steps: the passes dominate, and tiles that fit the cache pay."""
    n = 512
    final = lorenz(400)
    x = 8 + np.sin(np.arange(n))
    service = client.jacobian(final)
    with jax.enable_x64(True):
        forward, reverse = jax.jit(jax.jacfwd(final)), jax.jit(jax.jacrev(final))
        np.testing.assert_allclose(service(x), forward(x), rtol=1e-6, atol=1e-8)
        medians, spread = in_turn(
            {"service": lambda: service(x), "local jacfwd": lambda: np.asarray(forward(x)), "local jacrev": lambda: np.asarray(reverse(x))},
            rounds=5,
            warm=1,
        )
    better = min(medians["local jacfwd"], medians["local jacrev"])
    goal = Goal("at most half the better of local jacfwd and jacrev", medians["service"] / better, 0.5, "x")
    return Report("Jacobian of Lorenz-96, n = 512, 400 steps", medians, (goal,), spread)
