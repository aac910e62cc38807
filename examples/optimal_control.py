"""A pendulum swung up with little effort, by SciPy's constrained minimizer with sparse derivatives of first and second order.

Positions, speeds and torques at all times are unknowns, and the equations of motion are constraints (direct transcription). The minimizer wants the
Jacobian of the constraints and, of the Lagrangian, the constraints' second derivatives summed with their multipliers: one call with ``weights``. Both
are sparse, as each equation joins neighbouring times only, and take the same few passes however many times there are.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import NonlinearConstraint, minimize

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

STEPS = 40
DURATION = 7.0
STEP = DURATION / STEPS


def unpacked(unknowns: Any) -> tuple[Any, Any, Any]:
    """Returns angles and speeds, shape ``(STEPS + 1,)``, and torques between, shape ``(STEPS,)``."""
    return unknowns[: STEPS + 1], unknowns[STEPS + 1 : 2 * STEPS + 2], unknowns[2 * STEPS + 2 :]


def effort(unknowns: Any) -> Any:
    """Returns the torque squared, summed over time."""
    return STEP * jnp.sum(unpacked(unknowns)[2] ** 2)


def defects(unknowns: Any) -> Any:
    """Returns how far each step is from the equations of motion (implicit midpoint rule), and the ends from hanging and standing still."""
    angle, speed, torque = unpacked(unknowns)
    middle_angle, middle_speed = (angle[1:] + angle[:-1]) / 2, (speed[1:] + speed[:-1]) / 2
    moves = angle[1:] - angle[:-1] - STEP * middle_speed
    turns = speed[1:] - speed[:-1] - STEP * (torque - jnp.sin(middle_angle))
    ends = jnp.stack([angle[0], speed[0], angle[-1] - jnp.pi, speed[-1]])
    return jnp.concatenate([moves, turns, ends])


def main() -> None:
    along = np.linspace(0, 1, STEPS + 1)
    start = np.concatenate([np.pi * along, np.zeros(STEPS + 1), np.zeros(STEPS)])
    with jl.connect() as client:
        print(client.explain(defects, start, derivative="hessian", weights=np.ones(2 * STEPS + 4), output="csr"))
        motion = NonlinearConstraint(
            client.evaluate(defects),
            0.0,
            0.0,
            jac=client.jacobian(defects, output="csr"),
            hess=lambda unknowns, multipliers: client.hessian(defects, weights=multipliers, output="csr")(unknowns),
        )
        found = minimize(
            client.value_and_grad(effort),
            start,
            jac=True,
            hess=client.hessian(effort, output="csr"),
            method="trust-constr",
            constraints=motion,
            options={"gtol": 1e-8, "xtol": 1e-12, "maxiter": 300},
        )
        multipliers = found.v[0]
        curvature = client.hessian(defects, weights=multipliers, output="csr")(found.x)

    angle, _, torque = unpacked(found.x)
    print(f"{found.nit} iterations: effort {found.fun:.3f}, greatest torque {np.abs(torque).max():.3f}, off by {found.constr_violation:.1g}")
    print(f"swings back to {np.degrees(angle.min()):.0f} degrees before it goes up")
    assert found.constr_violation < 1e-8
    assert found.optimality < 1e-4

    np.testing.assert_allclose(curvature.toarray(), jax.hessian(lambda x: jnp.dot(multipliers, defects(x)))(found.x), atol=1e-12)
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
