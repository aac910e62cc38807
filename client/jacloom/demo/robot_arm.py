"""The Jacobian of a robot arm's tip by its joint angles, for a thousand configurations at once."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jacloom.demo.problem import Problem

CONFIGURATIONS = 1_000
LINKS = np.array(
    # Denavit-Hartenberg parameters of a seven-joint arm: offset along the axis, length, twist (metres and radians).
    [
        [0.340, 0.0, -np.pi / 2],
        [0.000, 0.0, np.pi / 2],
        [0.400, 0.0, np.pi / 2],
        [0.000, 0.0, -np.pi / 2],
        [0.400, 0.0, -np.pi / 2],
        [0.000, 0.0, np.pi / 2],
        [0.126, 0.0, 0.0],
    ]
)


def tip(angles: jax.Array) -> jax.Array:
    """Returns where the arm's tip is, ``(3,)`` in metres, for the joint angles ``(7,)`` in radians."""
    pose = jnp.eye(4, dtype=angles.dtype)
    for angle, (offset, length, twist) in zip(angles, LINKS, strict=True):
        c, s = jnp.cos(angle), jnp.sin(angle)
        ct, st = float(np.cos(twist)), float(np.sin(twist))
        zero, one = jnp.zeros_like(c), jnp.ones_like(c)
        rows = [[c, -s * ct, s * st, length * c], [s, c * ct, -c * st, length * s], [zero, st * one, ct * one, offset * one], [zero, zero, zero, one]]
        pose = pose @ jnp.array(rows)
    return pose[:3, 3]


def tips(shift: jax.Array, angles: jax.Array) -> jax.Array:
    """Returns the tips of all configurations ``(CONFIGURATIONS, 3)`` when every one's joints are turned by ``shift`` ``(7,)``.

    The derivative by ``shift`` at 0 is the Jacobian of each configuration: no tip depends on another's angles, so one pass serves
    the same joint in all of them.
    """
    return jax.vmap(tip)(angles + shift)


def problem() -> Problem:
    """Returns the Jacobians ``(CONFIGURATIONS, 3, 7)``, from 6 passes instead of 7000.

    One fewer than there are joints: the last turns the hand, and leaves the tip where it is.
    """
    angles = np.random.default_rng(0).uniform(-np.pi, np.pi, size=(CONFIGURATIONS, len(LINKS)))
    return Problem(
        "robot-arm", "tip positions by 7 joint angles, in 1 000 configurations", tips, (np.zeros(len(LINKS)), angles), expect="coloured forward"
    )
