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
from conformance.roundtrip import through_bytes

from jacloom_graph.errors import Fault, Reason

X = np.array([0.3, 0.5, -1.0])
MATRIX = np.array([[4.0, 1.0, 0.5], [-1.0, 5.0, 0.3], [0.2, -0.7, 3.0]])
SYMMETRIC = MATRIX @ MATRIX.T
BOTH = ((FORWARD,), (REVERSE,))

SOLVES: dict[str, Callable[[jax.Array], Any]] = {
    "direct": lambda x: lx.linear_solve(lx.MatrixLinearOperator(MATRIX + jnp.diag(x)), x**2, lx.LU()).value,
    "iterative": lambda x: (
        lx.linear_solve(lx.MatrixLinearOperator(SYMMETRIC + jnp.diag(x**2), lx.positive_semidefinite_tag), x, lx.CG(1e-13, 1e-13)).value
    ),
    "by structure": lambda x: lx.linear_solve(lx.TridiagonalLinearOperator(x + 5, x[:2], x[1:]), x**2).value,
    "a batch of right-hand sides": lambda x: jax.vmap(lambda b: lx.linear_solve(lx.MatrixLinearOperator(MATRIX + jnp.diag(x)), b, lx.LU()).value)(
        jnp.outer(jnp.arange(2.0), x)
    ),
}


@pytest.mark.parametrize("name", SOLVES)
def test_columns_and_rows(name: str) -> None:
    assert_same(SOLVES[name], X, transforms=BOTH, tolerance=1e-9)


def test_second_derivatives() -> None:
    assert_same(SOLVES["direct"], X, transforms=((REVERSE, FORWARD), (FORWARD, REVERSE)))


def test_a_root_that_is_found_at_once_still_depends_on_its_parameters() -> None:
    root = np.array([0.5, 1.0, -2.0])
    parameters = root**3 + root  # so no step is taken, and there is nothing to differentiate but the equation

    def fun(a: jax.Array) -> Any:
        return optx.root_find(lambda y, a: y**3 + y - a, optx.Newton(1e-8, 1e-8), jnp.asarray(root), args=a).value

    assert_same(fun, parameters, transforms=BOTH)


def test_a_pseudo_inverse_has_a_value_and_refuses_derivatives() -> None:
    program, _ = through_bytes(lambda x: lx.linear_solve(lx.MatrixLinearOperator(MATRIX + jnp.diag(x)), x, lx.SVD()).value, (X,))
    with jax.enable_x64(True):
        np.testing.assert_allclose(program(X)[0], np.linalg.solve(MATRIX + np.diag(X), X))
        with pytest.raises(Fault, match="assumes full rank") as refusal:
            jax.jacrev(lambda x: program(x)[0])(X)
    assert refusal.value.reason is Reason.MODE_UNAVAILABLE
