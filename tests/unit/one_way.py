"""Functions that have derivatives in one mode only, or in none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def backward_only(x: jax.Array) -> jax.Array:
    """Has a reverse rule and no other."""
    return jnp.sin(x)


backward_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, given: (given * jnp.cos(x),))


@jax.custom_jvp
def untouchable(x: jax.Array) -> jax.Array:
    """Has a rule that refuses."""
    return x * 2


@untouchable.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise RuntimeError("measured, not computed")


def forward_only(x: jax.Array) -> jax.Array:
    """Solves ``3 y = x``, with a tangent and without a transpose."""
    return jax.lax.custom_linear_solve(lambda y: 3 * y, x, lambda _, b: b / 3)
