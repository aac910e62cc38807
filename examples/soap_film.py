"""The shape of a soap film in a bent frame, by SciPy's minimizers and products with second derivatives.

A film has the least area that its frame allows. Its height over a grid is found by methods that never see the Hessian, only products with it: for
each of them the service takes one pass. For Scherk's frame the film is known, ``log(cos x / cos y)``.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

SIDE = 17
ACROSS = np.linspace(-1.0, 1.0, SIDE)
STEP = ACROSS[1] - ACROSS[0]
KNOWN = np.log(np.cos(ACROSS)[:, None] / np.cos(ACROSS)[None, :])


def area(heights: Any) -> Any:
    """Returns the area of the film whose heights within the frame are ``heights ((SIDE - 2)^2,)``."""
    film = jnp.asarray(KNOWN).at[1:-1, 1:-1].set(heights.reshape(SIDE - 2, SIDE - 2))
    # Each cell's mean slopes along both diagonals: every corner counts.
    one, other = (film[1:, 1:] - film[:-1, :-1]) / STEP, (film[1:, :-1] - film[:-1, 1:]) / STEP
    return jnp.sum(jnp.sqrt(1 + (one**2 + other**2) / 2)) * STEP**2


def main() -> None:
    flat = np.zeros((SIDE - 2) ** 2)
    with jl.connect() as client:
        value_and_slope = client.value_and_grad(area)

        def product(heights: np.ndarray, direction: np.ndarray) -> np.ndarray:
            found: np.ndarray = client.hvp(area, (heights,), (direction,))
            return found

        by_products = minimize(value_and_slope, flat, jac=True, method="trust-ncg", hessp=product, options={"gtol": 1e-9})
        by_operator = minimize(
            value_and_slope,
            flat,
            jac=True,
            method="trust-constr",
            hess=lambda heights: client.linear_operator(area, heights, derivative="hessian"),
            options={"gtol": 1e-9},
        )
        with client.linear_operator(area, by_products.x, derivative="hessian") as hessian:
            curvature = hessian @ np.eye(flat.size)  # all columns, in one call

    for name, found in (("hessp", by_products), ("hess", by_operator)):
        off = np.abs(found.x.reshape(SIDE - 2, -1) - KNOWN[1:-1, 1:-1]).max()
        print(f"with {name}: area {found.fun:.6f} after {found.nit} iterations, at most {off:.1g} from Scherk's surface")
        assert off < 0.01  # what the grid leaves
    print(f"the least curvature there is {np.linalg.eigvalsh(curvature)[0]:.2g}: it is a minimum")

    np.testing.assert_allclose(by_products.x, by_operator.x, atol=1e-5)
    np.testing.assert_allclose(jax.grad(area)(by_products.x), 0.0, atol=1e-8)
    np.testing.assert_allclose(curvature, jax.hessian(area)(by_products.x), atol=1e-10)
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
