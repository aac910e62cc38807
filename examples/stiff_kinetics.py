"""How the outcome of a chemical reaction depends on its rate constants.

Robertson's reaction has three species and rate constants that are nine orders of magnitude apart, so the equation is stiff and needs an implicit
solver: diffrax's takes steps of a size that it chooses itself and solves a system of equations in each of them. All of that is traced and sent
as one graph, and the service differentiates through it.
"""

from __future__ import annotations

import warnings
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

SPECIES = ("A", "B", "C")
REACTIONS = ("A -> B", "B + B -> B + C", "B + C -> A + C")
RATES = np.array([0.04, 3e7, 1e4])
DURATION = 100.0


def slope(time: Any, amounts: Any, rates: Any) -> Any:
    """Returns how fast the amounts ``(3,)`` of A, B and C change."""
    a, b, c = amounts
    forward, pair, back = rates[0] * a, rates[1] * b**2, rates[2] * b * c
    return jnp.stack([back - forward, forward - pair - back, pair])


def outcome(log_rates: Any) -> Any:
    """Returns the amounts ``(3,)`` after ``DURATION``, beginning with A alone, for the logarithms ``(3,)`` of the rate constants."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Kvaerno3(),
        t0=0.0,
        t1=DURATION,
        dt0=1e-4,
        y0=jnp.array([1.0, 0.0, 0.0]),
        args=jnp.exp(log_rates),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-10),
        adjoint=diffrax.ForwardMode(),  # three parameters: columns are cheap, and need no memory for the way back
        max_steps=None,
    )
    assert solution.ys is not None
    return solution.ys[0]


def main() -> None:
    # Solvers check for failure by raising. On a cluster nobody is there to raise to, so the result would be NaN; of which a warning tells.
    warnings.filterwarnings("ignore", ".*an error check was replaced", jl.JacloomWarning)
    log_rates = np.log(RATES)
    with jl.connect() as client:
        amounts = client.evaluate(outcome)(log_rates)
        sensitivities = client.jacobian(outcome, mode="forward")(log_rates)

    print(f"after {DURATION:g} s:", ", ".join(f"{name} = {amount:.3g}" for name, amount in zip(SPECIES, amounts, strict=True)))
    print("if a rate constant grows by 1 %, the amounts change by (in %):")
    print(f"{'':16}" + "".join(f"{name:>9}" for name in SPECIES))
    for reaction, column in zip(REACTIONS, (sensitivities / amounts[:, None]).T, strict=True):
        print(f"{reaction:16}" + "".join(f"{entry:9.3f}" for entry in column))

    np.testing.assert_allclose(sensitivities, jax.jacfwd(outcome)(log_rates), rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(sensitivities.sum(axis=0), 0.0, atol=1e-9)  # mass is conserved
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
