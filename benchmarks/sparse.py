"""Sparse Jacobians, everything included, beside asdex, which does the same in one process, and beside dense ones where these fit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import asdex
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Goal, Report, in_turn
from jacloom import Client


def brusselator(side: int) -> tuple[Callable[[jax.Array], jax.Array], np.ndarray]:
    """Returns the residual of the two-dimensional Brusselator on a periodic grid, and a point: shape ``(2, side, side)``."""

    def residual(state: jax.Array) -> jax.Array:
        u, v = state
        around = [jnp.roll(state, shift, axis) for axis in (1, 2) for shift in (1, -1)]
        diffusion = 10.0 * (sum(around[1:], around[0]) - 4 * state)
        reaction = jnp.stack([1 + u**2 * v - 4.4 * u, 3.4 * u - u**2 * v])
        return reaction + diffusion

    return residual, np.random.default_rng(0).uniform(1, 2, (2, side, side))


def tridiagonal(n: int) -> tuple[Callable[[jax.Array], jax.Array], np.ndarray]:
    """Returns a function of neighbours on a closed line, and a point: shape ``(n,)``."""
    return lambda x: x**3 - jnp.roll(x, 1) - jnp.roll(x, -1), np.linspace(-1, 1, n)


def grid(client: Client) -> Report:
    """Brusselator on 128 x 128, as CSR: cold from a new function, and warm next to a round trip of as many values."""
    cold, plan = _cold(client, lambda: brusselator(128))
    residual, point = brusselator(128)
    service, same = client.jacobian(residual, output="csr"), client.evaluate(lambda values: values * 1.0)
    values = service(point).data
    with jax.enable_x64(True):
        started = time.perf_counter()
        theirs = jax.jit(asdex.jacobian(residual, point))
        np.testing.assert_allclose(service(point).sum(), theirs(point).sum(), rtol=1e-9)
        local = time.perf_counter() - started
        contenders: dict[str, Callable[[], Any]] = {
            "service, warm": lambda: service(point),
            "round trip of as many values": lambda: same(values),
            "asdex, warm": lambda: jax.block_until_ready(theirs(point)),
        }
        medians, spread = in_turn(contenders, rounds=40, warm=4)
    above = medians["service, warm"] - medians["round trip of as many values"]
    goals = (
        Goal("at most 12 passes", plan.passes, 12, "passes"),
        Goal("cold: at most 2.5 s", cold, 2.5, "s"),
        Goal("warm: at most 10 ms above a round trip of its values", above * 1e3, 10, "ms"),
    )
    figures = {"service, cold": cold, "asdex, cold": local} | medians
    return Report("Jacobian of the Brusselator, 128 x 128, as CSR", figures, goals, spread)


def line(client: Client) -> Report:
    """A periodic tridiagonal Jacobian of a million unknowns, cold."""
    cold, plan = _cold(client, lambda: tridiagonal(1_000_000))
    residual, point = tridiagonal(1_000_000)
    service = client.jacobian(residual, output="csr")
    service(point)
    medians, spread = in_turn({"service, warm": lambda: service(point)}, rounds=5, warm=1)
    goals = (Goal("at most 4 passes", plan.passes, 4, "passes"), Goal("cold: at most 10 s", cold, 10, "s"))
    return Report("periodic tridiagonal Jacobian, n = 1 000 000, as CSR", {"service, cold": cold} | medians, goals, spread)


def medium(client: Client) -> Report:
    """Brusselator on 32 x 32, whose dense Jacobian fits, beside ``jax.jacfwd`` and ``jax.jacrev``."""
    residual, point = brusselator(32)
    service = client.jacobian(residual, output="csr")
    with jax.enable_x64(True):
        forward, reverse, theirs = jax.jit(jax.jacfwd(residual)), jax.jit(jax.jacrev(residual)), jax.jit(asdex.jacobian(residual, point))
        np.testing.assert_allclose(service(point).toarray(), forward(point).reshape(point.size, -1), rtol=1e-9)
        contenders: dict[str, Callable[[], Any]] = {
            "service, warm": lambda: service(point),
            "local jacfwd": lambda: jax.block_until_ready(forward(point)),
            "local jacrev": lambda: jax.block_until_ready(reverse(point)),
            "asdex, warm": lambda: jax.block_until_ready(theirs(point)),
        }
        medians, spread = in_turn(contenders, rounds=10, warm=2)
    better = min(medians["local jacfwd"], medians["local jacrev"])
    goal = Goal("at most 1/2 of the better local one", medians["service, warm"] / better, 1 / 2, "x")
    return Report("Jacobian of the Brusselator, 32 x 32", medians, (goal,), spread)


def _cold(client: Client, make: Callable[[], tuple[Callable[[jax.Array], jax.Array], np.ndarray]]) -> tuple[float, Any]:
    """Returns the seconds of a first call of a function that the service has never seen, and its plan."""
    made, point = make()
    # A factor of its own, or an earlier run's kernels and pattern would answer.
    factor = 1 + time.time_ns() % 1_000_000_007 * 1e-12

    def new(x: jax.Array) -> jax.Array:
        return factor * made(x)

    started = time.perf_counter()
    client.jacobian(new, output="csr")(point)
    return time.perf_counter() - started, client.explain(new, point, output="csr")
