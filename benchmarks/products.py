"""One JVP, warm: how much the service adds to the bare transport."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.floors import echo, ray_actor
from benchmarks.measure import Goal, Report, in_turn
from jacloom import Client


def small(client: Client) -> Report:
    """A JVP of n = 1000 against a gRPC echo of its bytes and a Ray round trip."""
    import ray

    n = 1_000
    x, v = np.linspace(0, 1, n), np.ones(n)
    payload = x.tobytes() + v.tobytes()
    local = jax.jit(lambda x, v: jax.jvp(jnp.tanh, (x,), (v,)))
    with echo() as floor, ray_actor() as actor, jax.enable_x64(True):
        medians, spread = in_turn(
            {
                "service": lambda: client.jvp(jnp.tanh, (x,), (v,)),
                "gRPC echo": lambda: floor.unary(payload),
                "Ray round trip": lambda: ray.get(actor.echo.remote(x)),  # type: ignore[attr-defined]
                "local jit": lambda: jax.block_until_ready(local(x, v)),
            },
            rounds=200,
            warm=20,
        )
    transport = medians["gRPC echo"] + medians["Ray round trip"]
    goal = Goal("at most 2 x (echo + Ray round trip)", medians["service"] / transport, 2.0, "x")
    return Report("JVP, n = 1000", medians, (goal,), spread)


def large(client: Client) -> Report:
    """A JVP of n = 10^6 float64 against a chunked gRPC echo of the same bytes: point and tangent there, value and tangent back."""
    n = 1_000_000
    x, v = np.linspace(0, 1, n), np.ones(n)
    payload = memoryview(x.tobytes() + v.tobytes())
    local = jax.jit(lambda x, v: jax.jvp(jnp.tanh, (x,), (v,)))
    with echo() as floor, jax.enable_x64(True):
        medians, spread = in_turn(
            {
                "service": lambda: client.jvp(jnp.tanh, (x,), (v,)),
                "chunked echo": lambda: floor.chunked(payload),
                "local jit": lambda: jax.block_until_ready(local(x, v)),
            },
            rounds=25,
            warm=4,
        )
    goal = Goal("at most 2 x the chunked echo of the same bytes", medians["service"] / medians["chunked echo"], 2.0, "x")
    return Report("JVP, n = 1 000 000", medians, (goal,), spread)
