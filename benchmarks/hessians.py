"""Sparse Hessians: of a chain and of a grid, beside asdex and, where a dense one fits, beside ``jax.hessian``."""

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

Function = Callable[[jax.Array], jax.Array]


def rosenbrock(x: jax.Array) -> jax.Array:
    """Chained, shape ``(n,)``: a tridiagonal Hessian."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def soap_film(x: jax.Array) -> jax.Array:
    """The area of a surface over a square grid and a quartic well at each point, shape ``(side, side)``: up to seven entries a row."""
    right, down = x[:-1, 1:] - x[:-1, :-1], x[1:, :-1] - x[:-1, :-1]
    return jnp.sum(jnp.sqrt(1 + right**2 + down**2)) + jnp.sum((x**2 - 1) ** 2)


def chain(client: Client) -> Report:
    """Rosenbrock's chain of 100 000 variables."""
    return _sparse(client, "Hessian of Rosenbrock's chain, n = 100 000, as CSR", rosenbrock, np.linspace(-1, 1, 100_000))


def grid(client: Client) -> Report:
    """The soap film on 200 x 200 points."""
    point = np.random.default_rng(0).uniform(-1, 1, (200, 200))
    return _sparse(client, "Hessian of a soap film, 200 x 200, as CSR", soap_film, point)


def medium(client: Client) -> Report:
    """Rosenbrock's chain of 4 000 variables, whose dense Hessian fits, beside that."""
    x = np.linspace(-1, 1, 4_000)
    service = client.hessian(rosenbrock, output="csr")
    with jax.enable_x64(True):
        local, theirs = jax.jit(jax.hessian(rosenbrock)), jax.jit(asdex.hessian(rosenbrock, x))
        np.testing.assert_allclose(service(x).toarray(), local(x), rtol=1e-9, atol=1e-9)
        contenders: dict[str, Callable[[], Any]] = {
            "service, warm": lambda: service(x),
            "local jax.hessian": lambda: jax.block_until_ready(local(x)),
            "asdex, warm": lambda: jax.block_until_ready(theirs(x)),
        }
        medians, spread = in_turn(contenders, rounds=10, warm=2)
    goal = Goal("at most 1/2 of local jax.hessian", medians["service, warm"] / medians["local jax.hessian"], 1 / 2, "x")
    return Report("Hessian of Rosenbrock's chain, n = 4 000", medians, (goal,), spread)


def _sparse(client: Client, name: str, fun: Function, point: np.ndarray) -> Report:
    """Returns what a Hessian takes cold and warm, next to a round trip of the entries that are sent and to asdex."""
    # A factor of its own, or an earlier run's kernels and pattern would answer.
    factor = 1 + time.time_ns() % 1_000_000_007 * 1e-12

    def new(x: jax.Array) -> jax.Array:
        return factor * fun(x)

    service, same = client.hessian(new, output="csr"), client.evaluate(lambda values: values * 1.0)
    started = time.perf_counter()
    entries = service(point).nnz
    cold = time.perf_counter() - started
    plan = client.explain(new, point, derivative="hessian", output="csr")
    # Of a symmetric matrix a half is sent.
    values = np.ones((entries + point.size) // 2)
    with jax.enable_x64(True):
        started = time.perf_counter()
        theirs = jax.jit(asdex.hessian(new, point))
        np.testing.assert_allclose(service(point).sum(), theirs(point).sum(), rtol=1e-9)
        local = time.perf_counter() - started
        colours = asdex.hessian_coloring(new, point).num_colors
        contenders: dict[str, Callable[[], Any]] = {
            "service, warm": lambda: service(point),
            "round trip of the values sent": lambda: same(values),
            "asdex, warm": lambda: jax.block_until_ready(theirs(point)),
        }
        medians, spread = in_turn(contenders, rounds=20, warm=3)
    above = medians["service, warm"] - medians["round trip of the values sent"] - medians["asdex, warm"]
    goals = (
        Goal(f"no more passes than asdex, {colours}", plan.passes, colours, "passes"),
        Goal("cold: no slower than asdex", cold / local, 1, "x"),
        Goal("warm: at most 10 ms above asdex and a round trip of its values", above * 1e3, 10, "ms"),
    )
    return Report(name, {"service, cold": cold, "asdex, cold": local} | medians, goals, spread)
