"""Whether a derivative that was computed is what the function's own passes say: random probes, and the entry that is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jacloom import _directions
from jacloom._blocks import Blocks, Products
from jacloom._certificate import Certificate, Finding, Verdict
from jacloom._checking import counted, not_finite
from jacloom._differences import Differences
from jacloom._errors import VerificationError
from jacloom._passes import Passes
from jacloom._sparsity import Pattern
from jacloom_graph.answer import Derivative

Pass = Callable[[np.ndarray], np.ndarray | None]
"""A product with the derivative as the function's own passes compute it; None where they cannot."""


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A product of the matrix with vectors, from the matrix and from the function."""

    check: str
    computed: Callable[[np.ndarray], Products]
    passed: Pass

    def compare(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Returns what the pass yields, what the matrix yields, and the sizes behind that; None without the pass."""
        found = self.passed(vector)
        if found is None:
            return None
        products = self.computed(vector)
        return found, products.values, products.sizes


def verify(passes: Passes, matrix: Blocks, derivative: Derivative, pattern: Pattern | None, call: str, *, thorough: bool) -> None:
    """Compares a matrix with random products: ``D v`` with a JVP, or an HVP of a Hessian, and if ``thorough`` also ``u D`` with a VJP.

    A product sees every entry, those outside a pattern too. Each entry of it may be off by ``sqrt(eps)`` times the sum of the absolute values that
    were added up for it, and by a few roundings of the largest such sum of its leaf.

    Args:
        passes: The function at the point.
        matrix: What was computed.
        derivative: What it is.
        pattern: The entries that the user allowed; None where there was no such restriction.
        call: The user's call.
        thorough: Whether what is not finite is refused too, both modes are asked, and a gradient is compared with finite differences.

    Raises:
        VerificationError: if they differ; it names the place.
    """
    if not matrix.rows.size or not matrix.columns.size:
        return
    verification = _Verification(passes, matrix, derivative, pattern, call)
    verification.run(thorough=thorough)


class _Verification:
    def __init__(self, passes: Passes, matrix: Blocks, derivative: Derivative, pattern: Pattern | None, call: str) -> None:
        self._passes = passes
        self._matrix = matrix
        self._pattern = pattern
        self._derivative = derivative
        self._call = call
        self._generator = np.random.default_rng(0)
        if derivative is Derivative.HESSIAN:
            ahead = Side("H v against an HVP", matrix.times, passes.product)
            self._sides = (ahead, Side("v H against an HVP", matrix.times_from_left, passes.product))
        else:
            ahead = Side("J v against a JVP", matrix.times, lambda vector: _second(passes.push(vector)))
            self._sides = (ahead, Side("u J against a VJP", matrix.times_from_left, lambda vector: _second(passes.pull(vector))))

    def run(self, *, thorough: bool) -> None:
        findings, compared = [], 0
        for transposed in (False, True):
            if compared and not thorough:
                break
            finding = self._probe(transposed=transposed, thorough=thorough)
            if finding is not None:
                compared += 1
                findings.append(finding)
            if finding is not None and finding.verdict.bad:
                break
        if thorough and self._derivative is Derivative.GRADIENT and all(finding.verdict is Verdict.HOLDS for finding in findings):
            differences = Differences(self._passes, self._generator, self._passes.value(self._passes.point)).findings()
            findings += [finding for finding in differences if finding.verdict is not Verdict.NOT_CHECKED]
        certificate = Certificate(tuple(findings), **counted(self._passes.counts))
        if not certificate:
            raise VerificationError(f"`{self._call}`: {self._told(findings[-1])}", certificate=certificate)
        if thorough and not compared:
            reasons = "; ".join(map(str, self._passes.refused.values()))
            raise VerificationError(f"`{self._call}`: the result cannot be verified: {reasons}. Leave verify=True out.", certificate=certificate)

    def _probe(self, *, transposed: bool, thorough: bool) -> Finding | None:
        """Returns how a random product compares; None if the function has no such pass."""
        side = self._sides[transposed]
        rows, columns = (self._matrix.columns, self._matrix.rows) if transposed else (self._matrix.rows, self._matrix.columns)
        vector = columns.rounded(_directions.random(columns, self._generator))
        found = side.compare(vector)
        if found is None:
            return None
        passed, computed, sizes = found
        if thorough:
            bad = not_finite(side.check, rows, passed + computed)
            if bad is not None:
                return bad
        allowed = self._allowed(rows.magnitudes(sizes), sizes)
        error = np.abs(passed - computed)
        comparable = np.isfinite(passed) & np.isfinite(computed)
        excess = np.where(comparable, error - allowed, -np.inf)
        worst = int(np.argmax(excess))
        if excess[worst] <= 0:
            return Finding(side.check, Verdict.HOLDS, float(error[worst]), float(allowed[worst])) if comparable.any() else None
        return self._located(side, transposed, worst, vector, float(error[worst]), float(allowed[worst]))

    def _allowed(self, typical: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        epsilon = max(self._passes.inputs.epsilon, self._passes.outputs.epsilon)
        return np.asarray(np.sqrt(epsilon) * sizes + 16 * epsilon * typical)

    def _located(self, side: Side, transposed: bool, worst: int, vector: np.ndarray, error: float, allowed: float) -> Finding:
        """Returns the finding about an entry of a product that differs, with the entry of the matrix that makes it so."""
        other = self._across(transposed, worst)
        if other is None:
            other = self._along(side, worst, vector)
        row, column = (other, worst) if transposed else (worst, other)
        true, got = self._entry(side, transposed, worst, other)
        outside = self._pattern is not None and not _holds(self._pattern, row, column)
        detail = f"expected {true:.6g}, got {got:.6g}" + ("; outside the pattern" if outside else "")
        rows = self._matrix.rows.place(row)
        return Finding(side.check, Verdict.DIFFERS, error, allowed, rows, self._matrix.columns.place(column), detail)

    def _across(self, transposed: bool, worst: int) -> int | None:
        """Returns the column in which a row differs most, or the row of a column, from one pass of the other side; None without that."""
        other = self._sides[not transposed]
        layout = self._matrix.columns if transposed else self._matrix.rows
        found = other.compare(_unit(layout.size, worst))
        if found is None:
            return None
        passed, computed, _ = found
        error = np.nan_to_num(np.abs(passed - computed), nan=0.0)
        # Where a pattern lacks an entry, its value turns up in another one of the same colour: both differ, and the user can mend only the first.
        if self._pattern is not None:
            lacking = np.array([not _holds(self._pattern, *((at, worst) if transposed else (worst, at))) for at in np.flatnonzero(error)], bool)
            outside = np.flatnonzero(error)[lacking]
            if outside.size and error[outside].max() > 1e-3 * error.max():
                return int(outside[np.argmax(error[outside])])
        return int(np.argmax(error))

    def _along(self, side: Side, worst: int, vector: np.ndarray) -> int:
        """Returns the same by bisection of the vector, from ``log2`` of its size many passes."""
        entries = np.arange(vector.size)
        while entries.size > 1:
            halves = entries[: entries.size // 2], entries[entries.size // 2 :]
            errors = [self._error(side, worst, half, vector) for half in halves]
            entries = halves[0] if errors[0] >= errors[1] else halves[1]
        return int(entries[0])

    def _error(self, side: Side, worst: int, entries: np.ndarray, vector: np.ndarray) -> float:
        only = np.zeros_like(vector)
        only[entries] = vector[entries]
        found = side.compare(only)
        assert found is not None  # the whole vector had one
        return float(np.nan_to_num(abs(found[0][worst] - found[1][worst])))

    def _entry(self, side: Side, transposed: bool, worst: int, other: int) -> tuple[complex, complex]:
        """Returns an entry of the matrix as the pass has it, and as the matrix has it."""
        layout = self._matrix.rows if transposed else self._matrix.columns
        found = side.compare(_unit(layout.size, other))
        assert found is not None  # there was one before
        return found[0][worst], found[1][worst]

    def _told(self, finding: Finding) -> str:
        if finding.verdict is Verdict.NOT_FINITE:
            return f"the result cannot be verified, it is not finite ({finding.place}); {finding.detail}"
        if "outside the pattern" in finding.detail:
            row, column = finding.place, finding.argument
            figure = finding.detail.removeprefix("expected ").partition(",")[0]
            return (
                f"the pattern misses an entry: the derivative of {row} with respect to {column} is {figure}, and others came out wrong with it. "
                "Add it, or leave sparsity='auto', which finds the pattern."
            )
        where = f"{finding.place}{f' with respect to {finding.argument}' if finding.argument else ''}"
        return f"the result differs from the function's own passes, {where}: {finding.detail}. client.check(f, ...) says which rule is wrong."


def _second(found: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray | None:
    return None if found is None else found[1]


def _unit(size: int, at: int) -> np.ndarray:
    found = np.zeros(size)
    found[at] = 1.0
    return found


def _holds(pattern: Pattern, row: int, column: int) -> bool:
    return column in pattern.indices[pattern.pointers[row] : pattern.pointers[row + 1]]
