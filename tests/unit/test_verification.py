"""Computed derivatives against random products, and the names of entries that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from unit.plain import passes

import jacloom as jl
from jacloom._blocks import Blocks
from jacloom._passes import Passes
from jacloom._sparsity import Pattern, pattern
from jacloom._verification import Subject, verify
from jacloom_graph.answer import Derivative

A = np.array([[1.0, -2.0, 0.0, 3.0], [0.0, 1.5, -1.0, 0.0], [2.0, 0.0, 1e-4, -0.5]])
X = np.array([0.3, -1.2, 0.7, 2.5])


def subject(matrix: Any, function: Passes, allowed: Pattern | None = None, derivative: Derivative = Derivative.JACOBIAN) -> Subject:
    rows = function.inputs if derivative is Derivative.HESSIAN else function.outputs
    piece = (slice(0, rows.size), slice(0, function.inputs.size), matrix)
    return Subject(function, derivative, Blocks(rows, function.inputs, (piece,)), allowed)


def linear(**options: Any) -> Passes:
    return passes(lambda x: A @ x, lambda x: A, X, **options)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_a_right_matrix_passes_by_two_products(form: Any) -> None:
    function = linear()
    verify(subject(form(A), function), "call", thorough=True)
    assert dict(function.counts) == {Derivative.JVP: 1, Derivative.VJP: 1}
    function = linear()
    verify(subject(form(A), function), "call", thorough=False)
    assert dict(function.counts) == {Derivative.JVP: 1}
    function = linear(without=(Derivative.JVP,))
    verify(subject(form(A), function), "call", thorough=False)
    assert dict(function.counts) == {Derivative.VJP: 1}


@pytest.mark.parametrize("without", [(), (Derivative.JVP,), (Derivative.VJP,)], ids=["both", "reverse", "forward"])
@pytest.mark.parametrize(("row", "column"), [(0, 3), (1, 2), (2, 2), (2, 0)])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_each_entry_that_is_missing_is_named(row: int, column: int, form: Any, without: tuple[Derivative, ...]) -> None:
    lacking = A.copy()
    lacking[row, column] = 0.0
    with pytest.raises(jl.VerificationError) as caught:
        verify(subject(form(lacking), linear(without=without), pattern("call", lacking)), "client.jacobian(f)", thorough=False)
    text = str(caught.value)
    assert f"`client.jacobian(f)`: the result is wrong, at out[{row}] with respect to x[{column}]: expected {A[row, column]:g}, got 0" in text
    assert "The pattern misses this entry" in text
    assert "leave sparsity='auto'" in text
    certificate = caught.value.certificate
    assert certificate is not None
    assert [finding.verdict for finding in certificate.findings] == [jl.Verdict.DIFFERS]
    assert not certificate


def test_the_entry_outside_the_pattern_is_named_rather_than_the_one_it_is_added_to() -> None:
    """Columns 1 and 3 share a colour of a pattern that does not know entry (0, 1): its value is added to that of entry (0, 3)."""
    mixed = A.copy()
    mixed[0, 3] += mixed[0, 1]
    mixed[0, 1] = 0.0
    with pytest.raises(jl.VerificationError, match=r"out\[0\] with respect to x\[1\]: expected -2, got 0"):
        verify(subject(mixed, linear(), pattern("call", mixed)), "call", thorough=False)


def test_a_wrong_entry_within_the_pattern_is_not_blamed_on_it() -> None:
    wrong = A + np.array([[0, 0, 0, 0], [0, 0, 0.25, 0], [0, 0, 0, 0]])
    with pytest.raises(jl.VerificationError, match=r"out\[1\] with respect to x\[2\]: expected -1, got -0.75. client.check\(f, \.\.\.\) says"):
        verify(subject(wrong, linear()), "call", thorough=True)


def test_a_hessian_is_compared_with_one_hvp() -> None:
    symmetric = A.T @ A
    gradient = lambda x: symmetric @ x  # noqa: E731
    function = passes(lambda x: x @ symmetric @ x / 2, gradient, X, hessian=lambda x: symmetric)
    verify(subject(symmetric, function, derivative=Derivative.HESSIAN), "call", thorough=False)
    assert dict(function.counts) == {Derivative.HVP: 1}
    diagonal = np.diag(np.diag(symmetric))
    with pytest.raises(jl.VerificationError, match=r"at out\[0\] with respect to x\[\d\] and x\[\d\]: expected .*, got 0\. The pattern misses"):
        verify(subject(diagonal, function, pattern("call", diagonal), Derivative.HESSIAN), "call", thorough=False)


def test_a_gradient_is_compared_with_a_jvp_and_finite_differences() -> None:
    def f(x: np.ndarray) -> Any:
        return (x**3).sum()

    def right(x: np.ndarray) -> np.ndarray:
        return 3 * x**2

    function = passes(f, right, X)
    verify(subject(right(X)[None], function, derivative=Derivative.GRADIENT), "call", thorough=True)
    assert dict(function.counts) == {Derivative.JVP: 2, Derivative.EVALUATE: 5}
    wrong = lambda x: np.array([1, 1, 1.001, 1]) * right(x)  # noqa: E731
    with pytest.raises(jl.VerificationError, match=r"with respect to x\[2\]: along a random direction expected"):
        verify(subject(wrong(X)[None], passes(f, wrong, X), derivative=Derivative.GRADIENT), "call", thorough=True)


def test_what_is_not_finite_is_refused_only_when_verification_was_asked_for() -> None:
    holed = A.copy()
    holed[1, 2] = np.nan
    verify(subject(holed, linear()), "call", thorough=False)
    with pytest.raises(jl.VerificationError, match=r"not finite, at out\[1\]; .*client\.diagnose"):
        verify(subject(holed, linear()), "call", thorough=True)


def test_a_wrong_entry_is_found_beside_one_that_is_not_finite() -> None:
    holed = A.copy()
    holed[1, 2], holed[0, 3] = np.nan, 0.0
    with pytest.raises(jl.VerificationError, match=r"out\[0\] with respect to x\[3\]"):
        verify(subject(holed, linear()), "call", thorough=False)


def test_without_any_pass_verification_is_refused_if_it_was_asked_for() -> None:
    function = linear(without=(Derivative.JVP, Derivative.VJP))
    verify(subject(A, function), "call", thorough=False)
    with pytest.raises(jl.VerificationError, match=r"cannot be verified: no Jvp; no Vjp. Leave verify=True out"):
        verify(subject(A, function), "call", thorough=True)


@pytest.mark.parametrize(("dtype", "span"), [("float32", 2), ("float64", 6)])
def test_rounding_is_no_error(dtype: str, span: int) -> None:
    generator = np.random.default_rng(2)
    large = generator.normal(size=(300, 200)) * 10.0 ** generator.integers(-span, span + 1, (300, 1))
    function = passes(lambda x: large @ x, lambda x: large.astype(dtype), generator.normal(size=200), dtype=dtype)
    verify(subject(large.astype(dtype), function), "call", thorough=True)
    lacking = large.astype(dtype)
    lacking[np.argmin(np.abs(large).sum(axis=1)), 7] = 0.0
    with pytest.raises(jl.VerificationError, match=r"with respect to x\[7\]"):
        verify(subject(lacking, function), "call", thorough=False)
