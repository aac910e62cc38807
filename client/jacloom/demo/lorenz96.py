"""Sensitivities of a chaotic model of the weather to its whole initial state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jacloom.demo.problem import Problem

SITES = 256
STEPS = 100
STEP = 0.01
FORCING = 8.0


def tendency(x: jax.Array) -> jax.Array:
    """Returns ``dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F`` on a circle of sites (Lorenz 1996)."""
    return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + FORCING


def state_after(x: jax.Array) -> jax.Array:
    """Returns the state ``(SITES,)`` after ``STEPS`` steps of the classical Runge-Kutta method from state ``x``."""

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        k1 = tendency(x)
        k2 = tendency(x + STEP / 2 * k1)
        k3 = tendency(x + STEP / 2 * k2)
        k4 = tendency(x + STEP * k3)
        return x + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    end, _ = jax.lax.scan(step, x, length=STEPS)
    return end


def problem() -> Problem:
    """Returns the Jacobian ``(SITES, SITES)`` of the state at time 1 by the state at time 0."""
    start = FORCING + np.random.default_rng(0).normal(size=SITES)
    return Problem("lorenz-96", "256 sites after 100 Runge-Kutta steps, by the sites before", state_after, (start,))
