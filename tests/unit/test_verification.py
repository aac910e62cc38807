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


def mixed(matrix: np.ndarray, allowed: np.ndarray, colours: np.ndarray, *, rows: bool) -> np.ndarray:
    """Returns what passes along colours make of a matrix by a pattern: of an allowed entry, the sum of its row or column over its colour."""
    whole, mask = (matrix.T, allowed.T) if rows else (matrix, allowed)
    found = np.zeros_like(whole)
    for row, column in np.argwhere(mask):
        found[row, column] = whole[row, colours == colours[column]].sum()
    return found.T if rows else found


@pytest.mark.parametrize("rows", [False, True], ids=["columns", "rows"])
@pytest.mark.parametrize("without", [(), (Derivative.JVP,), (Derivative.VJP,)], ids=["both", "reverse", "forward"])
def test_of_a_pattern_that_misses_one_entry_that_entry_is_named(rows: bool, without: tuple[Derivative, ...]) -> None:
    for seed in range(40):
        generator = np.random.default_rng(seed)
        matrix = generator.normal(size=(8, 8)) * (generator.random((8, 8)) < 0.35) + np.eye(8)
        row, column = generator.permutation(np.argwhere((matrix != 0) & ~np.eye(8, dtype=bool)))[0]
        allowed = matrix != 0
        allowed[row, column] = False
        lines = allowed if rows else allowed.T
        colours = np.full(8, -1)
        for line in range(8):
            taken = {colours[other] for other in range(8) if colours[other] >= 0 and (lines[line] & lines[other]).any()}
            colours[line] = next(colour for colour in range(8) if colour not in taken)
        function = passes(lambda x, matrix=matrix: matrix @ x, lambda x, matrix=matrix: matrix, np.ones(8), without=without)
        wrong = mixed(matrix, allowed, colours, rows=rows)
        with pytest.raises(jl.VerificationError) as caught:
            verify(subject(wrong, function, pattern("call", allowed)), "call", thorough=False)
        assert f"at out[{row}] with respect to x[{column}]: expected {matrix[row, column]:.6g}, got 0. The pattern misses" in str(caught.value)


def test_what_a_pattern_misses_elsewhere_is_suspected_of_it_first() -> None:
    wrong = A.copy()
    wrong[1, 2] += 1
    with pytest.raises(jl.VerificationError, match=r"got 0\. The pattern is the first suspect.*sparsity='auto'.*client\.check"):
        verify(subject(wrong, linear(), pattern("call", A)), "call", thorough=False)


def test_an_entry_that_is_missed_beside_one_that_is_not_finite_is_named() -> None:
    with np.errstate(invalid="ignore"):
        matrix = np.array([[np.nan, 0, 0], [np.log(2), 0.5, 0], [np.log(3), 0, 1 / 3]])
    function = passes(lambda x: x, lambda x: np.where(matrix == 0, 0, matrix), np.ones(3))
    with pytest.raises(jl.VerificationError, match=r"with respect to x\[0\]: expected (0.693147|1.09861), got 0\. The pattern misses this entry"):
        verify(subject(np.diag(np.diag(matrix)), function, pattern("call", np.eye(3))), "call", thorough=False)


def test_a_pattern_that_cannot_be_compared_is_told_of() -> None:
    """The product of a row with an entry that is not finite is not finite, whatever else is in it."""
    holed = A.copy()
    holed[1, 2] = np.nan
    function = passes(lambda x: x[:3], lambda x: holed, X)
    with pytest.warns(jl.JacloomWarning, match=r"`client.jacobian\(f\)`: .* not finite, first at out\[1\].*pattern") as caught:
        verify(subject(holed, function, pattern("call", holed != 0)), "client.jacobian(f)", thorough=False)
    assert len(caught) == 1
    verify(subject(holed, function), "client.jacobian(f)", thorough=False)


def test_a_bent_gradient_is_no_defect_of_the_service() -> None:
    function = passes(lambda x: 100 * x.sum(), lambda x: np.full(4, 100.0), X, without=(Derivative.JVP,), bend=lambda bar: np.clip(bar, -1, 1))
    with pytest.raises(
        jl.VerificationError, match=r"though along it alone both are 1\. So a pass is not linear in its seed: a custom rule on the way"
    ) as caught:
        verify(subject(np.ones((1, 4)), function, derivative=Derivative.GRADIENT), "call", thorough=True)
    assert "defect" not in str(caught.value)


def test_a_hessian_that_is_not_symmetric_is_not_blamed_on_the_service() -> None:
    matrix = np.diag([1.0, 2.0, 3.0, 4.0])
    matrix[2, 0] = 5.0
    function = passes(lambda x: x.sum(), lambda x: x, X, hessian=lambda x: matrix)
    verify(subject(matrix, function, derivative=Derivative.HESSIAN), "call", thorough=False)
    with pytest.raises(
        jl.VerificationError, match=r"the result is not symmetric, at x\[[02]\] and x\[[02]\]: [05] in this order and [05] in the other"
    ):
        verify(subject(matrix, function, derivative=Derivative.HESSIAN), "call", thorough=True)
    symmetric = matrix + matrix.T
    function = passes(lambda x: x.sum(), lambda x: x, X, hessian=lambda x: symmetric)
    verify(subject(symmetric, function, derivative=Derivative.HESSIAN), "call", thorough=True)
    assert dict(function.counts) == {Derivative.HVP: 1}


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
