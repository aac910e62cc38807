"""Whether a function's derivatives at a point are right: its own passes against each other, and against finite differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jacloom import _directions
from jacloom._certificate import Certificate, Finding, Verdict
from jacloom._line import Line, first_step
from jacloom._passes import Passes
from jacloom_graph.answer import Derivative

_DIFFERENCES, _ADJOINT, _VALUE = "finite differences", "adjoint identity", "value"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at the finite differences."""

    shorter: float
    """Factor of the step."""
    relative: bool = False
    """Whether every entry moves in proportion to itself."""


_ATTEMPTS = (Attempt(1.0), Attempt(2.0**-3), Attempt(1.0, relative=True), Attempt(2.0**-12), Attempt(2.0**-15))
"""What is found to differ is believed when two attempts agree: in another direction, with a shorter step. Those further down are for what the first
ones leave open: a step that leads out of the domain, or over much more than the function's own scale."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """One attempt's outcome. In reverse mode alone there is one row more: the sum of all outputs with random weights."""

    verdicts: list[Verdict]
    line: Line
    claimed: np.ndarray
    """The derivative along the direction as the passes say it, one per row that is compared."""
    compared: Line
    """The line of those rows."""
    summed: bool
    """Whether what is compared is the weighted sum alone."""

    def described(self, row: int) -> tuple[float, float, str]:
        """Returns error, tolerance and figures of a row."""
        at = row - len(self.line.middle) if self.summed else row
        if self.verdicts[row] in (Verdict.KINK, Verdict.JUMP) and not (self.summed and at == 0):
            left, right = (side[row] for side in self.line.sides())
            figures = f"slope {left:.6g} on one side, {right:.6g} on the other"
            if not self.summed:
                figures += f", the derivative along the same direction is {self.claimed[row]:.6g}"
            return float(abs(right - left)), float(self.line.tolerance(self.line.slope)[row]), figures
        slope, claimed = self.compared.slope[at], self.claimed[at]
        return float(abs(slope - claimed)), float(self.compared.tolerance(self.claimed)[at]), f"expected {slope:.8g}, the derivative says {claimed:.8g}"


def certify(passes: Passes, seed: int = 0) -> Certificate:
    """Returns what holds of a function's derivatives at a point, found in five evaluations, one JVP and one VJP; where that leaves doubts, in more.

    1. The value is finite, and the derivative's passes yield it as well.
    2. Finite differences along a random direction equal the JVP, entry by entry, or in reverse mode alone the VJP's product with the direction.
    3. The adjoint identity ``<u, J v> = <J^T u, v>`` holds up to ``sqrt(eps) (sum |u_i (J v)_i| + sum |(J^T u)_j v_j|)``.

    Args:
        passes: The function at the point.
        seed: Of the random directions.

    Raises:
        ModeUnavailableError: if the function has derivatives in neither mode.
    """
    if not passes.inputs.size or not passes.outputs.size:
        return Certificate((Finding(_DIFFERENCES, Verdict.HOLDS, detail="nothing to differentiate"),))
    generator = np.random.default_rng(seed)
    middle = passes.value(passes.point)
    checking = Checking(passes, generator, middle)
    differences = checking.differences()
    findings = [_finite(passes, middle), *checking.values(), *differences, checking.adjoint()]
    return Certificate(tuple(findings), **counted(passes.counts))


def counted(counts: Counter[Derivative]) -> dict[str, int]:
    """Returns the passes made as a certificate has them."""
    names = {"evaluations": Derivative.EVALUATE, "jvps": Derivative.JVP, "vjps": Derivative.VJP, "hvps": Derivative.HVP}
    return {name: counts[derivative] for name, derivative in names.items()}


def not_finite(passes: Passes, check: str, entries: np.ndarray, layout_is_outputs: bool = True) -> Finding | None:
    """Returns the finding about the first entry that is not finite, or None."""
    bad = np.flatnonzero(~np.isfinite(entries))
    if not bad.size:
        return None
    layout = passes.outputs if layout_is_outputs else passes.inputs
    share = f"{bad.size:,} of {entries.size:,} entries; " if entries.size > 1 else ""
    return Finding(check, Verdict.NOT_FINITE, place=layout.place(int(bad[0])), detail=f"{share}client.diagnose says which operation makes it so")


def _finite(passes: Passes, middle: np.ndarray) -> Finding:
    return not_finite(passes, "value is finite", middle) or Finding("value is finite", Verdict.HOLDS)


class Checking:
    """One check under way: what it has found out along the first direction serves the checks that follow."""

    def __init__(self, passes: Passes, generator: np.random.Generator, middle: np.ndarray) -> None:
        self._passes = passes
        self._generator = generator
        self._middle = middle
        self._epsilon = max(passes.inputs.epsilon, passes.outputs.epsilon)
        self._step = first_step(self._epsilon)
        self._tangent: np.ndarray | None = None
        self._pushed: tuple[np.ndarray, np.ndarray] | None = None
        self._pulled: tuple[np.ndarray, np.ndarray] | None = None
        self._cotangent: np.ndarray | None = None

    def differences(self) -> Iterator[Finding]:
        """Compares with finite differences, in as many attempts as it takes."""
        votes: list[Counter[Verdict]] = []
        told: dict[int, Probe] = {}
        last = None
        for attempt in _ATTEMPTS:
            probe = self._attempt(attempt)
            if probe is None:
                continue
            last = probe
            votes = votes or [Counter() for _ in probe.verdicts]
            for row, verdict in enumerate(probe.verdicts):
                if not _settled(votes[row]):
                    votes[row][verdict] += 1
                    if verdict.bad and row not in told:
                        told[row] = probe
            if all(map(_settled, votes)):
                break
        return self._told([_verdict(each) for each in votes], told, last)

    def values(self) -> Iterator[Finding]:
        """Compares the values that come along with the derivatives."""
        for mode, found in (("JVP", self._pushed), ("VJP", self._pulled)):
            if found is None:
                continue
            error = np.abs(found[0] - self._middle)
            allowed = np.sqrt(self._epsilon) * np.maximum(np.abs(self._middle), self._passes.outputs.magnitudes(self._middle))
            finite = np.isfinite(self._middle)
            worst = _worst(error, allowed, finite)
            if worst is not None:
                detail = f"f returns {self._middle[worst]:.8g}, the pass returns {found[0][worst]:.8g}: a rule with another value than its function"
                place = self._passes.outputs.place(worst)
                yield Finding(f"{_VALUE} of the {mode}", Verdict.DIFFERS, float(error[worst]), float(allowed[worst]), place, detail=detail)

    def adjoint(self) -> Finding:
        """Compares forward with reverse mode, along the first direction."""
        passes = self._passes
        if self._tangent is None or self._pushed is None:
            return self._no_adjoint()
        tangent, pushed = self._tangent, self._pushed[1]
        bad = not_finite(passes, "JVP is finite", pushed) if np.isfinite(self._middle).all() else None
        if bad is not None:
            return bad
        if not np.isfinite(pushed).all():
            return Finding(_ADJOINT, Verdict.NOT_CHECKED, detail="the JVP is not finite")
        self._cotangent = _directions.weights(passes.outputs, pushed, self._generator)
        self._pulled = passes.pull(self._cotangent)
        if self._pulled is None:
            return self._no_adjoint()
        pulled = self._pulled[1]
        bad = not_finite(passes, "VJP is finite", pulled, layout_is_outputs=False)
        if bad is not None:
            return bad
        ahead, back = _directions.pairing(self._cotangent, pushed), _directions.pairing(pulled, tangent)
        scale = float(np.sum(np.abs(self._cotangent * pushed)) + np.sum(np.abs(pulled * tangent)))
        error, allowed = abs(ahead - back), float(np.sqrt(self._epsilon) * scale)
        if error <= allowed:
            return Finding(_ADJOINT, Verdict.HOLDS, error, allowed)
        detail = f"<u, J v> = {ahead:.8g} by forward mode, <J^T u, v> = {back:.8g} by reverse mode: one of them has a wrong rule"
        return Finding(_ADJOINT, Verdict.DIFFERS, error, allowed, detail=detail)

    def _no_adjoint(self) -> Finding:
        missing = self._passes.refused.get(Derivative.JVP) or self._passes.refused.get(Derivative.VJP)
        mode = "forward" if Derivative.JVP in self._passes.refused else "reverse"
        return Finding(_ADJOINT, Verdict.NOT_CHECKED, detail=f"{mode} mode is not available: {missing}")

    def _attempt(self, attempt: Attempt) -> Probe | None:
        inputs, point = self._passes.inputs, self._passes.point
        towards = _directions.direction(inputs, point, self._generator, relative=attempt.relative)
        if attempt.relative and np.array_equal(np.abs(point), np.maximum(np.abs(point), inputs.magnitudes(point))):
            return None  # the first attempt was as this one would be
        return self._probe(towards, self._step * attempt.shorter)

    def _probe(self, towards: np.ndarray, step: float) -> Probe | None:
        """Returns the outcome along one direction; None if its step goes nowhere."""
        passes = self._passes
        tangent = _directions.representable(passes.inputs, passes.point, towards, step)
        if not tangent.any():
            return None
        first = self._tangent is None
        line = Line.along(lambda length: passes.value(passes.point + length * tangent), self._middle, step, self._epsilon)
        pushed = passes.push(tangent)
        if first:
            self._tangent, self._pushed = tangent, pushed
        if pushed is not None:
            claimed = pushed[1]
            return Probe(line.compared(claimed, passes.outputs.magnitudes(claimed)), line, claimed, line, summed=False)
        return self._summed(line, tangent, first)

    def _summed(self, line: Line, tangent: np.ndarray, first: bool) -> Probe:
        passes = self._passes
        with np.errstate(all="ignore"):
            slope = line.slope
            verdicts = line.compared(slope, passes.outputs.magnitudes(slope))
        cotangent = _directions.weights(passes.outputs, slope, self._generator)
        cotangent[[verdict.bad for verdict in verdicts]] = 0.0
        # What cannot be resolved in one output would hide all others in the sum.
        cotangent[~np.isfinite(slope)] = 0.0
        pulled = passes.pull(cotangent)
        if pulled is None:
            raise passes.refused[Derivative.JVP]
        if first:
            self._pulled = pulled
        total = line.weighted(cotangent)
        claimed = np.array([_directions.pairing(pulled[1], tangent)])
        verdicts = [verdict if verdict.bad else Verdict.HOLDS for verdict in verdicts]
        return Probe([*verdicts, *total.compared(claimed, np.abs(claimed))], line, claimed, total, summed=True)

    def _told(self, verdicts: list[Verdict], told: dict[int, Probe], last: Probe | None) -> Iterator[Finding]:
        passes = self._passes
        if last is None:
            yield Finding(_DIFFERENCES, Verdict.NOT_CHECKED, detail="no step leads away from the point: its entries are zero or not finite")
            return
        for kind in (Verdict.DIFFERS, Verdict.KINK, Verdict.JUMP):
            rows = [row for row, verdict in enumerate(verdicts) if verdict is kind]
            if not rows:
                continue
            row = max(rows, key=lambda at: _excess(told[at].described(at)))
            error, allowed, figures = told[row].described(row)
            argument = self._blame(row, kind)
            share = f"{len(rows):,} of {len(verdicts):,} entries; " if len(rows) > 1 else ""
            advice = "" if kind is not Verdict.DIFFERS else ": a custom rule that this entry depends on is wrong"
            yield Finding(_DIFFERENCES, kind, error, allowed, self._place(row), argument, f"{share}{figures}{advice}")
        open_ = [row for row, verdict in enumerate(verdicts) if verdict is Verdict.NOT_CHECKED]
        if open_:
            share = f"{len(open_):,} of {len(verdicts):,} entries" if len(verdicts) > 1 else "the value"
            detail = f"{share} cannot be resolved: not finite next to the point, or hidden by rounding, or too rough"
            yield Finding(_DIFFERENCES, Verdict.NOT_CHECKED, place=self._place(open_[0]), detail=detail)
        elif all(verdict in (Verdict.HOLDS, Verdict.NOT_FINITE) for verdict in verdicts) and Verdict.HOLDS in verdicts:
            with np.errstate(all="ignore"):
                error_, allowed_ = np.abs(last.compared.slope - last.claimed), last.compared.tolerance(last.claimed)
            finite = np.flatnonzero(np.isfinite(error_) & (allowed_ > 0))
            worst = int(finite[np.argmax(error_[finite] / allowed_[finite])]) if finite.size else None
            figures_ = (float(error_[worst]), float(allowed_[worst])) if worst is not None else (0.0, 0.0)
            yield Finding(_DIFFERENCES, Verdict.HOLDS, *figures_)

    def _blame(self, row: int, kind: Verdict) -> str:
        """Returns the entry of the arguments along which a row alone shows the same, by bisection: ``log2(n)`` probes. Empty if there is none."""
        passes = self._passes
        entries = np.arange(passes.inputs.size)
        while entries.size > 1:
            half = entries[: entries.size // 2]
            entries = half if self._shows(row, kind, half) else entries[entries.size // 2 :]
        return passes.inputs.place(int(entries[0])) if passes.inputs.size > 1 and self._shows(row, kind, entries) else ""

    def _shows(self, row: int, kind: Verdict, entries: np.ndarray) -> bool:
        towards = _directions.direction(self._passes.inputs, self._passes.point, self._generator)
        only = np.zeros_like(towards)
        only[entries] = towards[entries]
        probe = self._probe(only, self._step)
        return probe is not None and probe.verdicts[row] is kind

    def _place(self, row: int) -> str:
        return self._passes.outputs.place(row) if row < self._passes.outputs.size else "the outputs, weighted at random,"


def _settled(votes: Counter[Verdict]) -> bool:
    bad = [count for verdict, count in votes.items() if verdict.bad]
    return votes[Verdict.NOT_FINITE] > 0 or max(bad, default=0) >= 2 or (not bad and votes[Verdict.HOLDS] > 0)


def _verdict(votes: Counter[Verdict]) -> Verdict:
    if not _settled(votes):
        return Verdict.NOT_CHECKED
    if votes[Verdict.NOT_FINITE]:
        return Verdict.NOT_FINITE
    bad = [verdict for verdict, count in votes.items() if verdict.bad and count >= 2]
    return bad[0] if bad else Verdict.HOLDS


def _worst(error: np.ndarray, allowed: np.ndarray, among: np.ndarray) -> int | None:
    """Returns the entry that exceeds what is allowed by most, or None."""
    excess = np.where(among, error - allowed, -np.inf)
    excess = np.where(np.isnan(excess), np.inf, excess)
    worst = int(np.argmax(excess))
    return worst if excess[worst] > 0 else None


def _excess(described: tuple[float, float, str]) -> float:
    error, allowed, _ = described
    return error / allowed if allowed > 0 else np.inf
