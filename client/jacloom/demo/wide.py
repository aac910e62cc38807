"""A wide Jacobian, few outputs from many inputs: three figures of a heat experiment by its whole initial temperature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jacloom.demo.problem import Problem

SIDE = 64
STEPS = 50


def figures(temperature: jax.Array) -> jax.Array:
    """Returns mean square, centre value and roughness of the temperature after ``STEPS`` steps of heat conduction, ``(3,)``.

    Args:
        temperature: Initial temperature on a periodic grid, ``(SIDE, SIDE)``.
    """

    def step(u: jax.Array, _: None) -> tuple[jax.Array, None]:
        neighbours = jnp.roll(u, 1, 0) + jnp.roll(u, -1, 0) + jnp.roll(u, 1, 1) + jnp.roll(u, -1, 1)
        conductivity = 0.2 / (1 + u**2)
        return u + conductivity * (neighbours - 4 * u), None

    end, _ = jax.lax.scan(step, temperature, length=STEPS)
    roughness = jnp.sum((end - jnp.roll(end, 1, 0)) ** 2)
    return jnp.stack([jnp.mean(end**2), end[SIDE // 2, SIDE // 2], roughness])


def problem() -> Problem:
    """Returns the Jacobian ``(3, SIDE, SIDE)``: 4096 columns, but only three rows."""
    temperature = np.random.default_rng(0).normal(size=(SIDE, SIDE))
    return Problem("wide", "3 figures by 4 096 initial temperatures", figures, (temperature,), expect="reverse")
