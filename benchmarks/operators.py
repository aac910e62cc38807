"""Products with the derivative at one point: an operator, whose point the workers keep, beside single calls and JAX's own ``linearize``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Goal, Report, in_turn
from jacloom import Client

_LAYERS, _WIDTH = 6, 1_000


def light(client: Client) -> Report:
    """A function of n = 10^6 that takes less time than its messages."""
    return _products(client, "light, n = 1 000 000", lambda x: jnp.tanh(x) * x, np.linspace(-1, 1, 1_000_000), rounds=10)


def scan(client: Client) -> Report:
    """Thirty steps of a loop over n = 10^6."""

    def flow(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (jnp.sin(y) + 0.1 * jnp.roll(y, 1), None), x, None, length=30)[0]

    return _products(client, "scan, n = 1 000 000", flow, np.linspace(-1, 1, 1_000_000), rounds=5, bound=0.25)


def network(client: Client) -> Report:
    """A network of a few wide layers, by its inputs: a product is one matrix-vector product a layer in place of two."""
    weights = np.random.default_rng(0).normal(size=(_LAYERS, _WIDTH, _WIDTH)) / np.sqrt(_WIDTH)

    def layers(x: jax.Array) -> jax.Array:
        for matrix in weights:
            x = jnp.tanh(jnp.asarray(matrix) @ x)
        return x

    return _products(client, f"{_LAYERS} layers of {_WIDTH:,}", layers, np.linspace(-1, 1, _WIDTH), rounds=50)


def _products(client: Client, what: str, f: Callable[[jax.Array], jax.Array], x: np.ndarray, rounds: int, bound: float | None = None) -> Report:
    v = np.ones(x.size)
    with jax.enable_x64(True), client.linear_operator(f, x) as operator:
        kept: Any = jax.jit(lambda x: jax.linearize(f, x)[1])(x)
        pushed = jax.jit(lambda kept, v: kept(v))
        np.testing.assert_allclose(operator @ v, pushed(kept, v), rtol=1e-9, atol=1e-12)
        medians, spread = in_turn(
            {
                "operator, J v": lambda: operator @ v,
                "operator, J^T v": lambda: operator.T @ v,
                "client.jvp": lambda: client.jvp(f, (x,), (v,)),
                "client.vjp": lambda: client.vjp(f, (x,), v),
                "local linearize": lambda: jax.block_until_ready(pushed(kept, v)),
            },
            rounds=rounds,
        )
    both = (medians["operator, J v"] + medians["operator, J^T v"]) / (medians["client.jvp"] + medians["client.vjp"])
    goals = () if bound is None else (Goal(f"at most {bound:g} x single calls", both, bound, "x"),)
    return Report(f"Products, {what}", medians, goals, spread)
