"""The example that fits on a blackboard: two inputs, two outputs, every entry checked by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jacloom.demo.problem import Problem


def f(x: jax.Array) -> jax.Array:
    """Returns ``(x1^2 x2, 5 x1 + sin x2)``, whose Jacobian is ``[[2 x1 x2, x1^2], [5, cos x2]]``."""
    return jnp.stack([x[0] ** 2 * x[1], 5 * x[0] + jnp.sin(x[1])])


def by_columns() -> Problem:
    """Returns the Jacobian at ``(2, 0)`` from two JVPs."""
    return Problem("lecture-columns", "(x1^2 x2, 5 x1 + sin x2) at (2, 0), a JVP per column", f, (np.array([2.0, 0.0]),), mode="forward")


def by_rows() -> Problem:
    """Returns the same Jacobian from two VJPs."""
    about = "the same matrix [[0, 4], [5, 1]], a VJP per row"
    return Problem("lecture-rows", about, f, (np.array([2.0, 0.0]),), mode="reverse", expect="reverse")
