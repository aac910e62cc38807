"""The gradient of a Gaussian mixture's log-likelihood, the objective of the ADBench suite.

Srajer, Kukelova, Fitzgibbon: A benchmark of selected algorithmic differentiation tools on some problems in computer vision and
machine learning. Optimization Methods and Software 33 (2018).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, multigammaln

from jacloom.demo.problem import Problem

DIMENSIONS = 10
COMPONENTS = 25
POINTS = 1_000
GAMMA, M = 1.0, 0
"""Parameters of the Wishart prior."""


def log_likelihood(alphas: jax.Array, means: jax.Array, factors: jax.Array, points: jax.Array) -> jax.Array:
    """Returns the log-likelihood of the points together with a Wishart prior on the covariances, a scalar.

    Args:
        alphas: Logarithms of the unnormalized weights, ``(k,)``.
        means: ``(k, d)``.
        factors: Factors of the inverse covariances, ``(k, d + d (d - 1) / 2)``: logarithms of the diagonal, then the strict lower triangle.
        points: ``(n, d)``.
    """
    n, d = points.shape
    k = alphas.size
    logs, lower = factors[:, :d], factors[:, d:]
    triangles = jnp.zeros((k, d, d), factors.dtype).at[:, *np.tril_indices(d, -1)].set(lower)
    factor = triangles + jax.vmap(jnp.diag)(jnp.exp(logs))
    scaled = jnp.einsum("kij,nkj->nki", factor, points[:, None, :] - means)
    inner = alphas + jnp.sum(logs, axis=1) - 0.5 * jnp.sum(scaled**2, axis=2)
    mixture = jnp.sum(logsumexp(inner, axis=1)) - n * logsumexp(alphas) - 0.5 * n * d * math.log(2 * math.pi)
    return mixture + log_wishart(factor, jnp.sum(logs))


def log_wishart(factor: jax.Array, log_determinants: jax.Array) -> jax.Array:
    """Returns the logarithm of the Wishart prior as ADBench defines it; ``factor`` is ``(k, d, d)``."""
    k, d, _ = factor.shape
    freedom = d + M + 1
    constant = freedom * d * (math.log(GAMMA) - 0.5 * math.log(2)) - multigammaln(0.5 * freedom, d)
    return 0.5 * GAMMA**2 * jnp.sum(factor**2) - M * log_determinants - k * constant


def problem() -> Problem:
    """Returns the gradient by all 1650 parameters, from a single VJP."""
    draw = np.random.default_rng(0).normal
    factors = DIMENSIONS + DIMENSIONS * (DIMENSIONS - 1) // 2
    args = (draw(size=COMPONENTS), draw(size=(COMPONENTS, DIMENSIONS)), draw(size=(COMPONENTS, factors)), draw(size=(POINTS, DIMENSIONS)))
    about = "likelihood of 1 000 points by 1 650 parameters (ADBench)"
    return Problem("gaussian-mixture", about, log_likelihood, args, argnums=(0, 1, 2), derivative="gradient", expect="single pass")
