"""Where the stations of a survey stand, from the distances between neighbours: nonlinear least squares with SciPy.

A distance depends on four coordinates, so the Jacobian of all of them is sparse. SciPy takes it as a sparse matrix, or as an operator that is never
computed: then each of its inner iterations is a product with the Jacobian or its transpose on the service.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import least_squares
from scipy.sparse.linalg import lsmr, svds

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

SIDE = 7
STATIONS = SIDE * SIDE
random = np.random.default_rng(0)

grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1).reshape(STATIONS, 2)
truth = grid + random.uniform(-0.2, 0.2, grid.shape)
pairs = np.array([(i, j) for i in range(STATIONS) for j in range(i) if np.abs(grid[i] - grid[j]).max() == 1])
measured = np.linalg.norm(truth[pairs[:, 0]] - truth[pairs[:, 1]], axis=1)
anchors = np.array([0, SIDE - 1, STATIONS - 1])  # corners whose place is known


def distances(places: Any) -> Any:
    """Returns how far apart neighbours are, one for each of ``pairs``, if the stations stand at ``places (2 * STATIONS,)``."""
    x, y = (places.reshape(STATIONS, 2)[pairs[:, 0]] - places.reshape(STATIONS, 2)[pairs[:, 1]]).T
    return jnp.sqrt(x**2 + y**2)


def misfit(places: Any) -> Any:
    """Returns distances less the measured ones, and anchors less their known places."""
    return jnp.concatenate([distances(places) - measured, (places.reshape(STATIONS, 2)[anchors] - truth[anchors]).ravel()])


def main() -> None:
    start = grid.ravel().astype(float)
    with jl.connect() as client:
        evaluate = client.evaluate(misfit)
        fits = {
            "sparse matrix": least_squares(evaluate, start, jac=client.jacobian(misfit, output="csr"), xtol=1e-12),
            "operator": least_squares(evaluate, start, jac=lambda places: client.linear_operator(misfit, places), xtol=1e-12),
        }
        for form, fit in fits.items():
            error = np.abs(fit.x - truth.ravel()).max()
            print(f"{len(measured)} distances, Jacobian as {form}: {fit.njev} of them, stations at most {error:.1g} from where they stand")

        # One step by hand: Gauss and Newton's, whose least-squares problem LSMR solves by products.
        with client.linear_operator(misfit, start) as jacobian:
            step = lsmr(jacobian, -evaluate(start), atol=1e-12, btol=1e-12)[0]
            largest = svds(jacobian, k=3, return_singular_vectors=False)

        # Distances alone do not say where north is: three motions of the whole network change none of them.
        x, y = truth.T
        rigid = np.stack([np.stack(motion, axis=1).ravel() for motion in ((x * 0 + 1, y * 0), (x * 0, y * 0 + 1), (-y, x))], axis=1)
        with client.linear_operator(distances, truth.ravel()) as jacobian:
            unseen = jacobian @ rigid  # three columns, one call

    matrix = np.asarray(jax.jacobian(misfit)(start))
    print(f"the first step moves stations by up to {np.abs(step).max():.2f}; the largest singular value there is {largest.max():.3f}")
    np.testing.assert_allclose(unseen, 0.0, atol=1e-12)
    for fit in fits.values():
        np.testing.assert_allclose(fit.x, truth.ravel(), atol=1e-6)
    np.testing.assert_allclose(step, np.linalg.lstsq(matrix, -np.asarray(misfit(start)))[0], atol=1e-8)
    np.testing.assert_allclose(np.sort(largest), np.linalg.svd(matrix, compute_uv=False)[2::-1], rtol=1e-8)
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
