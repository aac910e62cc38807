"""A physics simulator written out step by step: the sort of function whose graph is long, and of which no two equations in a row are alike."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

_LINKS: Final = 4
_LENGTHS: Final = np.array([1.0, 0.8, 0.6, 0.4])
_MASSES: Final = np.array([2.0, 1.5, 1.0, 0.5])


def simulator(steps: int) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], tuple[np.ndarray, np.ndarray]]:
    """Returns a chain of four links over ``steps`` steps, about 244 equations each, as a new function, and a state and controls for it.

    Kinematics by rotation matrices, contact with the ground by penalty, friction, a mass matrix, and a solve with it: what robot simulators do.
    The function takes ``(8,)`` angles and velocities and ``(steps, 4)`` torques, and returns the ``(10,)`` last state and the tip's position.
    """

    def simulated(state: jax.Array, torques: jax.Array) -> jax.Array:
        tip = jnp.zeros(2)
        for number in range(steps):
            state, tip = _step(state, torques[number])
        return jnp.concatenate([state, tip])

    return simulated, (np.linspace(0.1, 0.8, 2 * _LINKS), np.linspace(-1, 1, steps * _LINKS).reshape(steps, _LINKS))


def equations(closed: core.ClosedJaxpr) -> int:
    """Returns how many equations a jaxpr has, those of the functions that it calls once each."""
    return sum(len(jaxpr.eqns) for jaxpr in _reached(closed.jaxpr, {}).values())


def _reached(jaxpr: Any, found: dict[int, Any]) -> dict[int, Any]:
    if id(jaxpr) not in found:
        found[id(jaxpr)] = jaxpr
        for eqn in jaxpr.eqns:
            for inner in core.jaxprs_in_params(eqn.params):
                _reached(inner, found)
    return found


@jax.jit
def _friction(speed: jax.Array, load: jax.Array) -> jax.Array:
    return -0.6 * load * jnp.tanh(speed / 0.05)


@partial(jax.jit, static_argnums=1)
def _limited(torque: jax.Array, most: float) -> jax.Array:
    return most * jnp.sin(jnp.arctan(torque / most))


def _step(state: jax.Array, torque: jax.Array, h: float = 0.01) -> tuple[jax.Array, jax.Array]:
    angles, speeds = state[:_LINKS], state[_LINKS:]
    position, velocity, heading, turning = jnp.array([0.0, 1.0]), jnp.zeros(2), jnp.zeros(()), jnp.zeros(())
    forces, mass = jnp.zeros(_LINKS), 0.05 * jnp.eye(_LINKS)
    for link in range(_LINKS):
        heading = heading + angles[link]
        turning = turning + speeds[link]
        cosine, sine = jnp.cos(heading), jnp.sin(heading)
        rotation = jnp.stack([jnp.stack([cosine, -sine]), jnp.stack([sine, cosine])])
        arm = rotation @ jnp.array([_LENGTHS[link], 0.0])
        position, velocity = position + arm, velocity + turning * jnp.array([-1.0, 1.0]) * arm[::-1]
        depth = -position[1]
        load = jnp.where(depth > 0, 500.0 * depth**2 - 5.0 * velocity[1] * depth, 0.0)
        push = jnp.stack([_friction(velocity[0], load), load - 9.81 * _MASSES[link]])
        forces = forces.at[link].add(jnp.dot(push, jnp.stack([-arm[1], arm[0]])))
        mass = mass.at[link, link].add(_MASSES[link] * jnp.sum(arm**2))
    couple = jnp.cos(angles[:, None] - angles[None, :]) * 0.1
    forces = forces + _limited(torque, 5.0) - 0.1 * jnp.abs(speeds) * speeds
    acceleration = jnp.linalg.solve(mass + couple @ couple.T, forces)
    speeds = jnp.clip(speeds + h * acceleration, -20.0, 20.0)
    energy = 0.5 * jnp.vdot(speeds, mass @ speeds)
    speeds = speeds / jnp.maximum(1.0, jnp.sqrt(energy / 1e4))
    return jnp.concatenate([angles + h * speeds, speeds]), position
