"""Whether a derivative that was computed is what the function's own passes say: random probes, and the entry that is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jacloom import _directions
from jacloom._blocks import Blocks, Products, blocks
from jacloom._caller import callers_level
from jacloom._certificate import Certificate, Finding, Verdict
from jacloom._checking import counted, not_finite
from jacloom._differences import Differences
from jacloom._errors import JacloomWarning, VerificationError
from jacloom._layout import Layout
from jacloom._line import Line, first_step
from jacloom._passes import Passes
from jacloom._prepared import Arrays
from jacloom._query import Query
from jacloom._sparsity import Pattern
from jacloom_graph.answer import Derivative


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A derivative that was computed, and the function to compare it with."""

    passes: Passes
    """The function at the point."""
    derivative: Derivative
    matrix: Blocks
    """What was computed. Of a Hessian of several outputs: their sum with ``weights``."""
    pattern: Pattern | None = None
    """The entries that the user allowed; None where there was no such restriction."""
    weights: np.ndarray | None = None
    """Of the outputs, shape ``(m,)``, where a Hessian is of more than one scalar."""

    def allowed(self, line: int, size: int, *, transposed: bool) -> np.ndarray:
        """Returns which entries of a row, or if ``transposed`` a column, the pattern has; of a Hessian's, one half stands for both."""
        if self.pattern is None:
            return np.ones(size, bool)
        found = np.zeros(size, bool)
        symmetric = self.derivative is Derivative.HESSIAN
        if symmetric or not transposed:
            found[self.pattern.row(line)] = True
        if symmetric or transposed:
            found[self.pattern.column(line)] = True
        return found

    @property
    def epsilon(self) -> float:
        """Of the coarsest dtype in play."""
        return max(self.passes.inputs.epsilon, self.passes.outputs.epsilon)


def computed(passes: Passes, query: Query, found: Arrays) -> Subject:
    """Returns the derivative that an answer is, ready to be compared.

    Args:
        passes: The function at the point.
        query: What was asked.
        found: The answer: of a Jacobian, a gradient or a Hessian.
    """
    second = query.derivative is Derivative.HESSIAN
    rows = passes.inputs if second else passes.outputs
    weights = None
    if second and [type_.shape for type_ in passes.outputs.types] != [()]:
        weights = passes.outputs.rounded(_directions.random(passes.outputs, np.random.default_rng(1)))
    matrix = blocks(found, query.derivative, query.chosen, rows, passes.inputs, weights)
    return Subject(passes, query.derivative, matrix, query.pattern, weights)


def verify(subject: Subject, call: str, *, thorough: bool) -> None:
    """Compares a matrix with random products: ``D v`` with a JVP, or an HVP of a Hessian, or where there is none ``u D`` with a VJP.

    A product sees every entry, those outside a pattern too. Each entry of it may be off by ``sqrt(eps)`` times the sum of the absolute values that
    were added up for it, and by 4 roundings of what is typical of its leaf.

    Args:
        subject: What is compared.
        call: The user's call.
        thorough: Whether both products are made, a gradient is compared with finite differences too, and what cannot be verified is refused.

    Raises:
        VerificationError: if they differ; it names the place.
    """
    if not subject.matrix.rows.size or not subject.matrix.columns.size:
        return
    generator = np.random.default_rng(0)
    with np.errstate(all="ignore"):  # entries that are not finite are told of in words
        findings = _slopes(subject, generator) if subject.weights is not None else _probes(subject, generator, thorough=thorough)
        if thorough and subject.derivative is Derivative.GRADIENT and not any(finding.verdict.bad for finding in findings):
            middle = subject.passes.value(subject.passes.point)
            # At a kink there are several gradients that are right.
            findings += [finding for finding in Differences(subject.passes, generator, middle).findings() if finding.verdict is Verdict.DIFFERS]
    certificate = Certificate(tuple(findings), **counted(subject.passes.counts))
    bad = next((finding for finding in findings if finding.verdict.bad), None)
    if bad is not None and bad.verdict is Verdict.NOT_FINITE and subject.pattern is not None and not thorough:
        text = (
            f"`{call}`: the result is not finite, first at {bad.place}, and what is not cannot be compared with the pattern: there it was believed."
        )
        warnings.warn(f"{text} sparsity='auto' finds the pattern.", JacloomWarning, stacklevel=callers_level())
    if bad is not None and (thorough or bad.verdict is Verdict.DIFFERS):
        raise VerificationError(f"`{call}`: {_told(bad)}", certificate=certificate)
    if thorough and not any(finding.verdict is Verdict.HOLDS for finding in findings):
        reasons = "; ".join(map(str, subject.passes.refused.values())) or "finite differences do not settle here"
        raise VerificationError(f"`{call}`: the result cannot be verified: {reasons}. Leave verify=True out.", certificate=certificate)


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """Products with the matrix from one side, as the matrix says and as the function's own passes say."""

    check: str
    transposed: bool
    computed: Callable[[np.ndarray], Products]
    passed: Callable[[np.ndarray], np.ndarray | None]
    """None where the function has no such pass."""

    def entry(self, worst: int, other: int) -> tuple[int, int]:
        """Returns row and column, given the entry of the product and that of the vector."""
        return (other, worst) if self.transposed else (worst, other)


def _sides(subject: Subject) -> tuple[_Side, _Side]:
    passes, matrix = subject.passes, subject.matrix
    if subject.derivative is Derivative.HESSIAN:
        ahead = _Side("H v and HVP", False, matrix.times, passes.product)
        return ahead, ahead
    return (
        _Side("J v and JVP", False, matrix.times, lambda vector: _second(passes.push(vector))),
        _Side("u J and VJP", True, matrix.times_from_left, lambda vector: _second(passes.pull(vector))),
    )


def _second(found: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray | None:
    return None if found is None else found[1]


def _probes(subject: Subject, generator: np.random.Generator, *, thorough: bool) -> list[Finding]:
    """Returns how random products compare: from both sides if ``thorough``, else from the first for which there is a pass.

    There are no products of passes with a Hessian from the left. Whether it is what those from the right say it is, and symmetric, is as much.
    """
    findings: list[Finding] = []
    # That a gradient's row is what a VJP returns says nothing: it came from one.
    both = thorough and subject.derivative is Derivative.JACOBIAN
    ahead, back = _sides(subject)
    for side, other in ((ahead, back), (back, ahead)):
        if findings and (not both or findings[-1].verdict.bad):
            break
        found = _probe(subject, side, other, generator)
        findings += [found] if found is not None else []
    if thorough and subject.derivative is Derivative.HESSIAN and findings and not findings[-1].verdict.bad:
        findings.append(_symmetry(subject, generator))
    return findings


def _symmetry(subject: Subject, generator: np.random.Generator) -> Finding:
    """Returns whether a Hessian is symmetric, which takes no passes."""
    matrix, check = subject.matrix, "symmetry"
    vector = _directions.random(matrix.rows, generator)
    right, left = matrix.times(vector), matrix.times_from_left(vector)
    error = np.abs(right.values - left.values)
    allowed = _allowed(subject, np.maximum(right.sizes, left.sizes), matrix.rows)
    row = int(np.argmax(np.nan_to_num(error - allowed, nan=-np.inf)))
    if error[row] <= allowed[row]:
        return Finding(check, Verdict.HOLDS, float(error[row]), float(allowed[row]))
    unit = _unit(matrix.rows.size, row)
    along, across = matrix.times_from_left(unit).values, matrix.times(unit).values
    column = int(np.argmax(np.nan_to_num(np.abs(along - across), nan=0.0)))
    places = f"{matrix.rows.place(row)} and {matrix.rows.place(column)}"
    detail = (
        f"{along[column]:.6g} in this order and {across[column]:.6g} in the other: a custom rule on the way is no derivative. It is what the rules "
        "say, as jax.hessian does"
    )
    return Finding(check, Verdict.DIFFERS, float(error[row]), float(allowed[row]), places, detail=detail)


def _allowed(subject: Subject, sizes: np.ndarray, layout: Layout) -> np.ndarray:
    """Returns how far each entry of a product may be off, given the absolute values that were added up for it."""
    found: np.ndarray = np.sqrt(subject.epsilon) * sizes + 4 * subject.epsilon * layout.magnitudes(sizes)
    return found


def _probe(subject: Subject, side: _Side, other: _Side, generator: np.random.Generator) -> Finding | None:
    """Returns how one random product compares; None if the function has no such pass."""
    matrix = subject.matrix
    results, layout = (matrix.columns, matrix.rows) if side.transposed else (matrix.rows, matrix.columns)
    vector = layout.rounded(_directions.random(layout, generator))
    passed = side.passed(vector)
    if passed is None:
        return None
    products = side.computed(vector)
    allowed = _allowed(subject, products.sizes, results)
    error = np.abs(passed - products.values)
    finite = np.isfinite(error)
    excess = np.where(finite, error - allowed, -np.inf)
    worst = int(np.argmax(excess))
    if excess[worst] <= 0:
        return not_finite(side.check, results, error) or Finding(side.check, Verdict.HOLDS, float(error[worst]), float(allowed[worst]))
    at = _culprit(subject, side, other, worst, vector)
    return _wrong(subject, side, worst, at, (float(error[worst]), float(allowed[worst])), (passed[worst], products.values[worst]))


def _wrong(subject: Subject, side: _Side, worst: int, at: int, figures: tuple[float, float], products: tuple[complex, complex]) -> Finding:
    """Returns the finding of an entry ``worst`` of a product that differs because of entry ``at`` of the vector, with what is suspected."""
    matrix, (error, allowed) = subject.matrix, figures
    unit = _unit(matrix.rows.size if side.transposed else matrix.columns.size, at)
    expected, got = side.passed(unit), side.computed(unit).values
    assert expected is not None  # there was one before
    allows = subject.allowed(at, expected.size, transposed=not side.transposed)
    if allows[worst]:
        # What a pattern lacks is added to entries of the same colour, which are in the same row or in the same column.
        gap = np.nan_to_num(np.abs(expected - got), nan=0.0)
        missing = np.flatnonzero(~allows & (gap > 1e-3 * gap.max()))
        worst = int(missing[np.argmax(gap[missing])]) if missing.size else worst
    row, column = side.entry(worst, at)
    place, argument = matrix.rows.place(row), matrix.columns.place(column)
    if subject.derivative is Derivative.HESSIAN:
        place, argument = subject.passes.outputs.place(0), f"{place} and {argument}"
    advice = _WRONG if subject.pattern is None else _FIRST_SUSPECT if allows[worst] else _OUTSIDE
    detail = f"expected {expected[worst]:.6g}, got {got[worst]:.6g}"
    if abs(expected[worst] - got[worst]) <= np.sqrt(subject.epsilon) * abs(got[worst]):
        detail = f"along a random direction expected {products[0]:.6g}, got {products[1]:.6g}, though along it alone both are {got[worst]:.6g}"
        advice = _NONLINEAR
    return Finding(side.check, Verdict.DIFFERS, error, allowed, place, argument, f"{detail}. {advice}")


_OUTSIDE = "The pattern misses this entry, and others may be wrong with it; add it, or leave sparsity='auto', which finds the pattern"
_FIRST_SUSPECT = (
    "The pattern is the first suspect: what it misses is added to other entries. Leave sparsity='auto', which finds the pattern; if that differs, "
    "too, client.check(f, ...) says whether a custom rule is wrong"
)
_WRONG = "client.check(f, ...) says whether a custom rule is wrong; if none is, this is a defect of the service"
_NONLINEAR = (
    "So a pass is not linear in its seed: a custom rule on the way bends it, as one that clips gradients does, and client.check(f, ...) says so. "
    "What was computed is what JAX returns for seeds of one"
)


def _culprit(subject: Subject, side: _Side, other: _Side, worst: int, vector: np.ndarray) -> int:
    """Returns which entry of the vector makes an entry of the product differ: from one pass of the other side or, without that, by bisection."""
    unit = _unit(subject.matrix.columns.size if side.transposed else subject.matrix.rows.size, worst)
    passed = other.passed(unit)
    # An entry that the pattern lacks turns up in another one of its colour. Both differ; the former is what the user can mend.
    outside = ~subject.allowed(worst, vector.size, transposed=side.transposed)
    error = np.full(vector.size, np.nan) if passed is None else np.abs(passed - other.computed(unit).values)
    if subject.derivative is Derivative.HESSIAN or not np.isfinite(error).all():
        # A column says what the row is only where the Hessian is symmetric, and beside what is not finite a pass may have lost the entry.
        return _bisected(side, worst, vector, outside)
    missing = np.flatnonzero(outside & (error > 1e-3 * error.max()))
    return int(missing[np.argmax(error[missing])] if missing.size else np.argmax(error))


def _bisected(side: _Side, worst: int, vector: np.ndarray, outside: np.ndarray) -> int:
    """Returns the same from twice ``log2(n)`` passes; of what is outside the pattern, if that alone makes the entry differ."""

    def error(entries: np.ndarray) -> float:
        only = np.zeros_like(vector)
        only[entries] = vector[entries]
        passed = side.passed(only)
        assert passed is not None  # the whole vector had one
        return float(np.nan_to_num(np.abs(passed[worst] - side.computed(only).values[worst])))

    entries = np.arange(vector.size)
    if outside.any() and error(np.flatnonzero(outside)) > 1e-3 * error(entries):
        entries = np.flatnonzero(outside)
    while entries.size > 1:
        entries = max(np.array_split(entries, 2), key=error)
    return int(entries[0])


def _slopes(subject: Subject, generator: np.random.Generator) -> list[Finding]:
    """Returns how the Hessian of a weighted sum compares with finite differences of that sum's gradient: four VJPs, and one at the point."""
    passes, weights, matrix = subject.passes, subject.weights, subject.matrix
    assert weights is not None
    middle = passes.pull(weights)
    if middle is None:
        return []
    step = first_step(subject.epsilon)
    towards = _directions.direction(passes.inputs, passes.point, generator)
    tangent = _directions.representable(passes.inputs, passes.point, towards, step)

    def gradient(length: float) -> np.ndarray:
        found = passes.pull(weights, passes.point + length * tangent)
        assert found is not None  # there was one at the point
        return found[1]

    line, claimed = Line.along(gradient, middle[1], step, subject.epsilon), matrix.times(tangent).values
    verdicts = line.compared(claimed)
    check = "H v and finite differences of VJPs"
    kinds = [kind for kind in (Verdict.NOT_FINITE, Verdict.DIFFERS, Verdict.HOLDS) if kind in verdicts]
    findings = []
    for kind in kinds[:1]:
        rows = np.flatnonzero(verdicts == kind)
        error, allowed = np.abs(line.slope - claimed)[rows], line.tolerance(claimed)[rows]
        at = int(np.argmax(np.where(allowed > 0, error / allowed, error)))
        detail = f"expected {line.slope[rows[at]]:.6g}, got {claimed[rows[at]]:.6g}, along a random direction"
        if kind.bad:
            argument = matrix.rows.place(rows[at])
            findings.append(Finding(check, kind, float(error[at]), float(allowed[at]), "a random sum of the outputs", argument, detail))
        else:
            findings.append(Finding(check, kind, float(error[at]), float(allowed[at])))
    return findings


def _told(finding: Finding) -> str:
    if finding.check == "symmetry":
        return f"the result is not symmetric, at {finding.place}: {finding.detail}. Leave verify=True out to get it."
    if finding.verdict is Verdict.NOT_FINITE:
        return f"the result cannot be verified because it is not finite, at {finding.place}; {finding.detail}. Leave verify=True out to get it."
    where = finding.place + (f" with respect to {finding.argument}" if finding.argument else "")
    return f"the result is wrong, at {where}: {finding.detail}."


def _unit(size: int, at: int) -> np.ndarray:
    found = np.zeros(size)
    found[at] = 1.0
    return found
