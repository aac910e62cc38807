"""Linear solves by lineax, and what optimistix builds on them: the operator counts in every derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from conformance.compare import FORWARD, REVERSE, assert_same

X = np.array([0.3, 0.5, -1.0])
MATRIX = np.array([[4.0, 1.0, 0.5], [-1.0, 5.0, 0.3], [0.2, -0.7, 3.0]])
TALL = np.random.default_rng(0).normal(size=(5, 3))
RIGHT = np.array([1.0, -1.0, 0.5, 2.0, 0.0])
SYMMETRIC = MATRIX @ MATRIX.T
BOTH = ((FORWARD,), (REVERSE,))

SOLVES: dict[str, Callable[[jax.Array], Any]] = {
    "direct": lambda x: lx.linear_solve(lx.MatrixLinearOperator(MATRIX + jnp.diag(x)), x**2, lx.LU()).value,
    "iterative": lambda x: (
        lx.linear_solve(lx.MatrixLinearOperator(SYMMETRIC + jnp.diag(x**2), lx.positive_semidefinite_tag), x, lx.CG(1e-13, 1e-13)).value
    ),
    "by structure": lambda x: lx.linear_solve(lx.TridiagonalLinearOperator(x + 5, x[:2], x[1:]), x**2).value,
    "least squares": lambda x: lx.linear_solve(lx.MatrixLinearOperator(TALL + jnp.outer(jnp.arange(5.0), x)), RIGHT * x[0], lx.QR()).value,
    "least norm": lambda x: lx.linear_solve(lx.MatrixLinearOperator(TALL.T + jnp.outer(x, jnp.arange(5.0))), x**2, lx.SVD()).value,
    "neither rows nor columns independent": lambda x: (
        lx.linear_solve(lx.MatrixLinearOperator(jnp.outer(jnp.arange(4.0) + x[0], jnp.sin(x))), jnp.cos(jnp.arange(4.0)), lx.SVD()).value
    ),
    "a batch of right-hand sides": lambda x: jax.vmap(lambda b: lx.linear_solve(lx.MatrixLinearOperator(MATRIX + jnp.diag(x)), b, lx.LU()).value)(
        jnp.outer(jnp.arange(2.0), x)
    ),
}


@pytest.mark.parametrize("name", SOLVES)
def test_columns_and_rows(name: str) -> None:
    assert_same(SOLVES[name], X, transforms=BOTH, tolerance=1e-9)


def test_a_batch_of_matrices_with_one_right_hand_side() -> None:
    def fun(x: jax.Array) -> Any:
        solve = lambda z: lx.linear_solve(lx.MatrixLinearOperator(MATRIX + jnp.diag(x) * z), np.ones(3), lx.LU()).value  # noqa: E731
        return jax.vmap(solve)(np.arange(1.0, 3.0))

    assert_same(fun, X, transforms=(*BOTH, (REVERSE, FORWARD), (FORWARD, REVERSE)))


@pytest.mark.parametrize("name", ["direct", "least squares", "least norm", "neither rows nor columns independent"])
def test_second_derivatives(name: str) -> None:
    # Forward over reverse differentiates the transposed solve, which must know its rule too.
    assert_same(SOLVES[name], X, transforms=((REVERSE, FORWARD), (FORWARD, REVERSE)))


def test_a_batch_that_shares_the_matrix_has_its_sum_of_cotangents() -> None:
    def fun(x: jax.Array) -> jax.Array:
        solve = lambda b: lx.linear_solve(lx.MatrixLinearOperator(TALL + jnp.outer(jnp.arange(5.0), x)), b, lx.SVD()).value  # noqa: E731
        return jnp.sum(jax.vmap(solve)(jnp.stack([RIGHT, RIGHT**2])), axis=1)

    assert_same(fun, X, transforms=(*BOTH, (REVERSE, FORWARD)))


def test_a_root_that_is_found_at_once_still_depends_on_its_parameters() -> None:
    root = np.array([0.5, 1.0, -2.0])
    parameters = root**3 + root  # so no step is taken, and there is nothing to differentiate but the equation

    def fun(a: jax.Array) -> Any:
        return optx.root_find(lambda y, a: y**3 + y - a, optx.Newton(1e-8, 1e-8), jnp.asarray(root), args=a).value

    assert_same(fun, parameters, transforms=BOTH)
