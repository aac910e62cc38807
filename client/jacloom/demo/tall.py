"""A tall Jacobian, many outputs from few inputs: the curve of a damped oscillation by its parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jacloom.demo.problem import Problem

SAMPLES = 20_000


def curve(parameters: jax.Array) -> jax.Array:
    """Returns the sum of two damped oscillations, ``(SAMPLES,)``.

    Args:
        parameters: ``(2, 4)``: amplitude, decay rate, angular frequency and phase of each.
    """
    t = jnp.linspace(0.0, 10.0, SAMPLES, dtype=parameters.dtype)
    amplitude, decay, frequency, phase = parameters.T[:, :, None]
    return jnp.sum(amplitude * jnp.exp(-decay * t) * jnp.cos(frequency * t + phase), axis=0)


def problem() -> Problem:
    """Returns the Jacobian ``(SAMPLES, 2, 4)``: what least-squares fitting needs, 8 columns."""
    parameters = np.array([[1.0, 0.1, 2.0, 0.3], [0.5, 0.4, 7.0, 1.1]])
    return Problem("tall", "a curve of 20 000 samples by its 8 parameters", curve, (parameters,))
