"""A function's derivative at a point against finite differences, entry by entry."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from jacloom import _directions
from jacloom._certificate import Finding, Verdict
from jacloom._line import Line, first_step, power
from jacloom._passes import Passes
from jacloom._votes import NEEDED, Votes
from jacloom_graph.answer import Derivative

CHECK = "finite differences"
_SUSPECTS = "a custom rule, a stop_gradient, or what is rough at a scale below the step, is on the way"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at the finite differences."""

    shorter: float
    """The step's factor is this power of ``eps``, so that it becomes as short as precision allows."""
    relative: bool = False
    """Whether every entry moves in proportion to itself."""


_ATTEMPTS = (Attempt(0), Attempt(0.2), Attempt(0, relative=True), Attempt(0.2, relative=True), Attempt(0.3), Attempt(0.4))
"""What is found to differ is believed when attempts agree: in another direction, with a shorter step. Those further down are for what the first
ones leave open: a step that leads out of the domain, or over much more than the function's own scale; entries much smaller than others of their leaf
have one of their own where all move in proportion."""


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """One attempt's outcome.

    In reverse mode alone there is one row more than outputs: their sum with random weights, for which alone there is something to compare with.
    """

    verdicts: np.ndarray
    """One ``Verdict`` per row."""
    line: Line
    compared: Line
    """Of the rows that are compared: all outputs, or their sum."""
    claimed: np.ndarray
    """The derivative along the direction as the passes say it, one per row that is compared."""
    tangent: np.ndarray
    """The direction."""
    cotangent: np.ndarray
    """Weights of the sum, where it is that which is compared."""
    attempt: Attempt

    def figures(self, row: int) -> tuple[float, float, str]:
        """Returns error, tolerance and figures of a row."""
        at = row - len(self.line.middle) if self.compared is not self.line else row
        if self.verdicts[row] in (Verdict.KINK, Verdict.JUMP):
            line, row = (self.line, row) if row < len(self.line.middle) else (self.compared, at)
            left, right = (side[row] for side in line.sides())
            says = f"; the derivative along the same direction says {self.claimed[at]:.6g}" if at >= 0 else ""
            return abs(right - left), line.rounding[row], f"slope {left:.6g} on one side, {right:.6g} on the other{says}"
        slope, claimed = self.compared.slope[at], self.claimed[at]
        figures = f"along a random direction expected {slope:.8g}, the derivative says {claimed:.8g}"
        return abs(slope - claimed), self.compared.tolerance(self.claimed)[at], figures

    def excess(self, kind: Verdict) -> np.ndarray:
        """Returns how many times its tolerance each row is off, by the measure of one kind of what is bad."""
        both = [self.line] if self.compared is self.line else [self.line, self.compared]
        if kind is Verdict.DIFFERS:
            share = abs(self.compared.slope - self.claimed) / self.compared.tolerance(self.claimed)
            found = np.concatenate([np.zeros_like(line.size) for line in both[:-1]] + [share])
        else:
            sides = [line.sides() for line in both]
            found = np.concatenate([abs(right - left) / line.rounding for line, (left, right) in zip(both, sides, strict=True)])
        return np.asarray(np.nan_to_num(found, nan=0.0))

    def worst(self) -> tuple[float, float]:
        """Returns error and tolerance of the row that holds and is closest to its tolerance."""
        with np.errstate(all="ignore"):
            error, allowed = abs(self.compared.slope - self.claimed), self.compared.tolerance(self.claimed)
            holds = self.verdicts[len(self.verdicts) - len(error) :] == Verdict.HOLDS
            share = np.where(holds & np.isfinite(error) & (allowed > 0), error / allowed, np.where(holds, 0.0, -1.0))
        at = int(np.argmax(share))
        return float(error[at]), float(allowed[at])


class Differences:
    """The comparison, under way."""

    def __init__(self, passes: Passes, generator: np.random.Generator, middle: np.ndarray) -> None:
        """Prepares for a point.

        Args:
            passes: The function there.
            generator: Of random numbers.
            middle: Its value, shape ``(m,)``.
        """
        self._passes = passes
        self._generator = generator
        self._middle = middle
        self._epsilon = max(passes.inputs.epsilon, passes.outputs.epsilon)
        self._step = first_step(self._epsilon)
        self.tangent: np.ndarray | None = None
        """The first direction that was taken, shape ``(n,)``."""
        self.pushed: tuple[np.ndarray, np.ndarray] | None = None
        """Value and JVP along it."""
        self.pulled: tuple[np.ndarray, np.ndarray] | None = None
        """Value and VJP, where there is no forward mode."""

    def findings(self) -> list[Finding]:
        """Compares, in as many attempts as it takes: one, unless it leaves something open.

        Raises:
            ModeUnavailableError: if the function has derivatives in neither mode.
        """
        probes: list[Probe] = []
        votes = None
        for probe in filter(None, map(self._attempt, _ATTEMPTS)):
            votes = Votes(len(probe.verdicts)) if votes is None else votes
            votes.add(probe.verdicts)
            probes.append(probe)
            if votes.settled.all():
                break
        if votes is None:
            return [Finding(CHECK, Verdict.NOT_CHECKED, detail="no step leads away from the point: its entries are not finite")]
        return list(self._findings(votes, probes))

    def _attempt(self, attempt: Attempt) -> Probe | None:
        inputs, point = self._passes.inputs, self._passes.point
        if attempt.relative and not (np.abs(point) < inputs.magnitudes(point)).any() and point.all():
            return None  # it would be as the first one was
        return self._probe(self._direction(attempt), attempt)

    def _direction(self, attempt: Attempt) -> np.ndarray:
        return _directions.direction(self._passes.inputs, self._passes.point, self._generator, relative=attempt.relative)

    def _probe(self, towards: np.ndarray, attempt: Attempt) -> Probe | None:
        """Returns the outcome along one direction; None if its step goes nowhere."""
        passes, step = self._passes, self._step * power(self._epsilon, attempt.shorter)
        tangent = _directions.representable(passes.inputs, passes.point, towards, step)
        if not tangent.any() or not np.isfinite(tangent).all():
            return None
        line = Line.along(lambda length: passes.value(passes.point + length * tangent), self._middle, step, self._epsilon)
        pushed = passes.push(tangent)
        first = self.tangent is None
        if first:
            self.tangent, self.pushed = tangent, pushed
        if pushed is not None:
            return Probe(line.compared(pushed[1]), line, line, pushed[1], tangent, np.zeros(0), attempt)
        return self._summed(line, tangent, attempt, first=first)

    def _summed(self, line: Line, tangent: np.ndarray, attempt: Attempt, *, first: bool) -> Probe:
        passes = self._passes
        verdicts = line.compared(line.slope)
        # What is bad or open in one output would hide all others in the sum.
        left_out = verdicts != Verdict.HOLDS
        cotangent = _directions.weights(passes.outputs, line.slope, self._generator)
        cotangent[left_out] = 0.0
        pulled = passes.pull(cotangent)
        if pulled is None:
            raise passes.refused[Derivative.JVP]
        if first:
            self.pulled = pulled
        claimed, total = np.array([_directions.pairing(pulled[1], tangent)]), line.weighted(cotangent)
        return Probe(np.concatenate([verdicts, total.compared(claimed)]), line, total, claimed, tangent, cotangent, attempt)

    def _findings(self, votes: Votes, probes: list[Probe]) -> Iterator[Finding]:
        verdicts = votes.verdicts()
        rows = {kind: np.flatnonzero(verdicts == kind) for kind in Verdict}
        for kind in NEEDED:
            if rows[kind].size:
                yield self._bad(kind, rows[kind], votes, probes)
        if rows[Verdict.NOT_CHECKED].size:
            share = f"{rows[Verdict.NOT_CHECKED].size:,} of {verdicts.size:,} entries" if verdicts.size > 1 else "it"
            advice = "; arguments of float64 tell more" if self._epsilon > np.finfo(np.float64).eps else ""
            detail = f"{share} cannot be resolved: not finite next to the point, too rough, or hidden by rounding{advice}"
            yield Finding(CHECK, Verdict.NOT_CHECKED, place=self._place(rows[Verdict.NOT_CHECKED][0]), detail=detail)
        held = rows[Verdict.HOLDS].size
        if held == verdicts.size:
            yield Finding(CHECK, Verdict.HOLDS, *probes[-1].worst())
        elif held:
            yield Finding(CHECK, Verdict.HOLDS, detail=f"{held:,} of {verdicts.size:,} entries")

    def _bad(self, kind: Verdict, rows: np.ndarray, votes: Votes, probes: list[Probe]) -> Finding:
        # The first attempt has the longest step, so the least rounding; of what came out there otherwise, any will do.
        row = int(rows[np.argmax(probes[0].excess(kind)[rows])])
        probe = probes[votes.latest(kind, row)]
        error, allowed, figures = probe.figures(row)
        share = f"{rows.size:,} entries in all; " if rows.size > 1 else ""
        advice = f": {_SUSPECTS}" if kind is Verdict.DIFFERS else ""
        place = self._place(row if row < self._passes.outputs.size else self._output(probe))
        return Finding(CHECK, kind, float(error), float(allowed), place, self._argument(row, kind, probe.attempt), f"{share}{figures}{advice}")

    def _argument(self, row: int, kind: Verdict, attempt: Attempt) -> str:
        """Returns the entry of the arguments along which alone a row shows the same in an attempt, or nothing: bisection by ``log2(n)`` probes."""
        layout = self._passes.inputs
        entries = np.arange(layout.size)
        while entries.size > 1:
            first, rest = entries[: entries.size // 2], entries[entries.size // 2 :]
            entries = first if self._shows(row, kind, attempt, first) else rest
        return layout.place(int(entries[0])) if self._shows(row, kind, attempt, entries) else ""

    def _shows(self, row: int, kind: Verdict, attempt: Attempt, entries: np.ndarray) -> bool:
        towards = self._direction(attempt)
        only = np.zeros_like(towards)
        only[entries] = towards[entries]
        probe = self._probe(only, attempt)
        return probe is not None and probe.verdicts[row] is kind

    def _output(self, probe: Probe) -> int:
        """Returns an output whose own derivative differs where a sum's does, by bisection: ``log2(m)`` VJPs."""
        entries = np.flatnonzero(probe.cotangent)
        while entries.size > 1:
            half = entries[: entries.size // 2]
            only = np.zeros_like(probe.cotangent)
            only[half] = probe.cotangent[half]
            pulled, line = self._passes.pull(only), probe.line.weighted(only)
            assert pulled is not None  # the whole sum had one
            claimed = np.array([_directions.pairing(pulled[1], probe.tangent)])
            differs = line.compared(claimed)[0] is Verdict.DIFFERS
            entries = half if differs else entries[entries.size // 2 :]
        return int(entries[0])

    def _place(self, row: int) -> str:
        return self._passes.outputs.place(row) if row < self._passes.outputs.size else "a random combination of the outputs"
