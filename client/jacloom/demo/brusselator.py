"""The steady Brusselator: two chemicals that react and diffuse on a grid, and the matrix that Newton's method needs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jacloom.demo.problem import Problem

SIDE = 20
DIFFUSION = 0.02
A, B = 1.0, 3.4
"""Feed of the first chemical, and rate at which it turns into the second."""


def residual(state: jax.Array) -> jax.Array:
    """Returns the rate of change of both concentrations, zero in a steady state.

    Args:
        state: Concentrations of the two chemicals on a periodic grid over the unit square, ``(2, SIDE, SIDE)``.
    """
    u, v = state
    reaction = u**2 * v
    return jnp.stack(
        [
            A + reaction - (B + 1) * u + DIFFUSION * laplacian(u),
            B * u - reaction + DIFFUSION * laplacian(v),
        ]
    )


def laplacian(field: jax.Array) -> jax.Array:
    """Returns the five-point Laplacian on the periodic grid, same shape as ``field``."""
    neighbours = jnp.roll(field, 1, 0) + jnp.roll(field, -1, 0) + jnp.roll(field, 1, 1) + jnp.roll(field, -1, 1)
    return (neighbours - 4 * field) * SIDE**2


def problem() -> Problem:
    """Returns the Jacobian ``(2, SIDE, SIDE, 2, SIDE, SIDE)``, 800 x 800 as a matrix."""
    across = np.linspace(0.0, 1.0, SIDE, endpoint=False)
    x, y = np.meshgrid(across, across, indexing="ij")
    state = np.stack([22 * (y * (1 - y)) ** 1.5, 27 * (x * (1 - x)) ** 1.5])
    return Problem("brusselator", "residual of 800 unknowns on a 20 x 20 grid, by all of them", residual, (state,), expect="coloured forward")
