"""Differential equations by diffrax, whose solvers bring loops, error checks and primitives of their own."""

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import FORWARD, REVERSE, assert_same

STATE = np.array([0.5, 0.2, 0.3])


def final_state(initial: jax.Array, adjoint: diffrax.AbstractAdjoint) -> jax.Array:
    """State at time 1 of a small nonlinear system; ``initial`` is the state (2,) and a parameter."""
    term = diffrax.ODETerm(lambda t, y, rate: -y * jnp.sin(t) + rate * y**2)
    controller = diffrax.PIDController(1e-6, 1e-6)
    solution = diffrax.diffeqsolve(
        term, diffrax.Tsit5(), 0.0, 1.0, 0.05, initial[:2], args=initial[2], adjoint=adjoint, stepsize_controller=controller, max_steps=64
    )
    assert solution.ys is not None
    return solution.ys[-1]


@pytest.mark.slow
def test_default_adjoint_in_reverse() -> None:
    traced = assert_same(lambda y: final_state(y, diffrax.RecursiveCheckpointAdjoint()), STATE, transforms=((REVERSE,),))
    (note,) = traced.notes
    assert f"an error check was replaced at {__file__}:" in note


@pytest.mark.slow
def test_direct_adjoint_in_both_modes() -> None:
    assert_same(lambda y: final_state(y, diffrax.DirectAdjoint()), STATE, transforms=((FORWARD,), (REVERSE,)))
