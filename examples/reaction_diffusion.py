"""Two chemicals that react and diffuse in a tube: a stiff equation, and its steady state, by SciPy's solvers.

The Brusselator along a line, cut into cells. Diffusion makes it stiff, so each step of the implicit solver needs the Jacobian, whose entries lie
near the diagonal: the service finds out which they are, and computes them from a few passes whatever the number of cells. The steady state is
found twice: with the whole matrix, and by a Newton-Krylov method that only ever multiplies with it. It is known: A = 1 and B = 3 everywhere.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import root
from scipy.sparse.linalg import gmres

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

CELLS = 60
DIFFUSION = 0.02
FEED, RATE = 1.0, 3.0
ALONG = np.arange(1, CELLS + 1) / (CELLS + 1)


def slope(state: Any) -> Any:
    """Returns how fast the concentrations change: ``(2 * CELLS,)``, first those of one chemical, then those of the other."""
    u, v = state.reshape(2, CELLS)
    reaction = u**2 * v
    return jnp.concatenate(
        [
            FEED + reaction - (RATE + 1) * u + spreading(u, FEED),
            RATE * u - reaction + spreading(v, RATE / FEED),
        ]
    )


def spreading(amounts: Any, outside: float) -> Any:
    """Returns what diffusion adds to each cell; beyond both ends the concentration stays as it is."""
    padded = jnp.pad(amounts, 1, constant_values=outside)
    return DIFFUSION * (CELLS + 1) ** 2 * (padded[2:] - 2 * amounts + padded[:-2])


def newton_krylov(client: jl.Client, state: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the state where nothing changes, and how many products with the Jacobian it took to find it."""
    evaluate, products = client.evaluate(slope), 0
    for _ in range(20):
        residual = evaluate(state)
        if np.abs(residual).max() < 1e-10:
            break
        with client.linear_operator(slope, state) as jacobian:
            steps: list[float] = []
            step, failed = gmres(jacobian, -residual, rtol=1e-8, restart=2 * CELLS, callback=steps.append, callback_type="pr_norm")
        assert not failed
        state, products = state + step, products + len(steps)
    return state, products


def main() -> None:
    start = np.concatenate([1 + np.sin(2 * np.pi * ALONG), np.full(CELLS, 3.0)])
    with jl.connect() as client:
        evaluate, sparse = client.evaluate(slope), client.jacobian(slope, output="csr")
        print(f"the Jacobian of {2 * CELLS} unknowns:", client.explain(slope, start, output="csr").passes, "passes")
        moved = solve_ivp(lambda time, y: evaluate(y), (0, 2), start, method="BDF", jac=lambda time, y: sparse(y), rtol=1e-6, atol=1e-8)
        print(f"to t = 2 in {len(moved.t) - 1} steps of BDF, with {moved.njev} Jacobians and {moved.nlu} factorizations")

        near = np.concatenate([np.full(CELLS, FEED), np.full(CELLS, RATE / FEED)]) + 0.1 * np.sin(np.pi * np.tile(ALONG, 2))
        solved = root(evaluate, near, jac=client.jacobian(slope))
        steady, products = newton_krylov(client, near)
        print(f"the steady state: by its matrix in {solved.nfev} evaluations, by Newton-Krylov in {products} products, no matrix")
        matrix = sparse(start).toarray()

    known = np.repeat([FEED, RATE / FEED], CELLS)
    np.testing.assert_allclose(solved.x, known, rtol=1e-7)
    np.testing.assert_allclose(steady, known, rtol=1e-7)
    jacobian = jax.jit(jax.jacobian(slope))
    np.testing.assert_allclose(matrix, jacobian(start), rtol=1e-12, atol=1e-12)
    here = jax.jit(slope)
    again = solve_ivp(lambda time, y: here(y), (0, 2), start, method="Radau", jac=lambda time, y: np.asarray(jacobian(y)), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(moved.y[:, -1], again.y[:, -1], rtol=1e-4)  # another method, and a tolerance that is a hundred times smaller
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
