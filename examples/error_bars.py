"""Error bars of a fit, from how the fitted parameters depend on the data.

A decay curve is fitted to measurements by least squares, with optimistix's Levenberg-Marquardt method. The fit is itself a function, from data to
parameters, and the derivative of that function says how much each measurement pulls at each parameter. It costs no derivative of the iteration:
at the minimum the gradient is zero, and the implicit function theorem turns that into one linear solve, which optimistix leaves to lineax.
"""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optimistix

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

TIMES = np.linspace(0.0, 3.0, 40)
TRUTH = np.array([2.0, 1.5, 0.3])  # amplitude, rate, background
NOISE = 0.05


def curve(parameters: Any) -> Any:
    """Returns what is expected at ``TIMES`` ``(40,)`` for an amplitude, a rate and a background ``(3,)``."""
    amplitude, rate, background = parameters
    return amplitude * jnp.exp(-rate * TIMES) + background


def fit(measured: Any) -> Any:
    """Returns the parameters ``(3,)`` whose curve is closest to the measurements ``(40,)``."""
    solver: Any = optimistix.LevenbergMarquardt(rtol=1e-10, atol=1e-10)
    return optimistix.least_squares(lambda p, y: curve(p) - y, solver, jnp.ones(3), args=measured).value


def main() -> None:
    # Solvers check for failure by raising. On a cluster nobody is there to raise to, so the result would be NaN; of which a warning tells.
    warnings.filterwarnings("ignore", ".*an error check was replaced", jl.JacloomWarning)
    measured = np.asarray(curve(jnp.asarray(TRUTH))) + NOISE * np.random.default_rng(0).normal(size=TIMES.size)
    with jl.connect() as client:
        fitted = client.evaluate(fit)(measured)
        pulls = client.jacobian(fit)(measured)  # (3, 40): parameters by measurements
        plan = client.explain(fit, measured)

    # Independent errors of the measurements add up in the parameters by their squares.
    error_bars = NOISE * np.sqrt((pulls**2).sum(axis=1))
    for name, value, error, truth in zip(("amplitude", "rate", "background"), fitted, error_bars, TRUTH, strict=True):
        print(f"{name:11} {value:6.3f} +- {error:.3f}   (true: {truth:g})")
    print(f"the rate is pulled at most by the measurement at t = {TIMES[np.argmax(np.abs(pulls[1]))]:.2f}")
    print(f"{pulls.size} entries took {plan.passes} passes in {plan.strategy} mode, which is the cheaper one here")

    np.testing.assert_allclose(pulls, jax.jacrev(fit)(jnp.asarray(measured)), rtol=1e-6, atol=1e-9)
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
