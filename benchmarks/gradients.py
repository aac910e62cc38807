"""The gradient of a large model: one pass, so the service must cost next to nothing."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.floors import echo
from benchmarks.measure import Goal, Report, in_turn
from jacloom import Client

_SIZES = (512, 1024, 1024, 512, 10)
_BATCH = 1024


def network(client: Client) -> Report:
    """Mean squared error of a multilayer perceptron of 2.1 million float32 parameters over 1024 examples."""
    rng = np.random.default_rng(0)
    params = [(rng.normal(size=(a, b)).astype(np.float32) / np.float32(np.sqrt(a)), np.zeros(b, np.float32)) for a, b in itertools.pairwise(_SIZES)]
    examples = rng.normal(size=(_BATCH, _SIZES[0])).astype(np.float32)
    targets = rng.normal(size=(_BATCH, _SIZES[-1])).astype(np.float32)

    def loss(params: list[tuple[jax.Array, jax.Array]], examples: jax.Array, targets: jax.Array) -> jax.Array:
        hidden = examples
        for weights, bias in params[:-1]:
            hidden = jnp.tanh(hidden @ weights + bias)
        weights, bias = params[-1]
        return jnp.mean((hidden @ weights + bias - targets) ** 2)

    local = jax.jit(jax.grad(loss))
    service = client.grad(loss)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((params, examples, targets)))
    payload = memoryview(bytes(size))
    with echo() as floor:
        medians, spread = in_turn(
            {
                "service": lambda: service(params, examples, targets),
                "local grad": lambda: jax.block_until_ready(local(params, examples, targets)),
                "chunked echo of the arguments": lambda: floor.chunked(payload),
            },
            rounds=15,
            warm=3,
        )
    bound = 1.2 * medians["local grad"] + medians["chunked echo of the arguments"]
    goal = Goal("at most 1.2 x local plus one round trip", medians["service"] * 1e3, bound * 1e3, "ms")
    return Report("Gradient of an MLP loss", medians, (goal,), spread)
