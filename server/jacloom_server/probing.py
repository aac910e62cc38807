"""Measuring what passes cost: by the tiles that have come back and, where the choice between columns and rows hangs on it, by one of each before."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_server import pricing, strategy, work
from jacloom_server.detached import detached
from jacloom_server.function import Function
from jacloom_server.plan import Leg, Mode, Plan
from jacloom_server.pool import Pool
from jacloom_server.pricing import Correction
from jacloom_server.strategy import Problem
from jacloom_server.tuning import Tuner
from jacloom_server.work import Desk
from jacloom_worker.launch import Operand, Role
from jacloom_worker.protocol import Cost, Done, Kernel, Survey, Task

CLOSE: Final = 4.0
"""A way that is estimated to take so many times as long is not measured."""
_PASSING: Final = frozenset({Reason.NO_WORKERS, Reason.DRAINING})
"""Faults of the moment, not of what was to be measured."""


def platform_of(pool: Pool) -> str:
    """Returns what tiles are computed on; the best width differs by it, and the prices of passes."""
    return "gpu" if pool.ready(Role.GPU) else "cpu"


@dataclass(frozen=True, slots=True)
class Contest:
    """Two ways to a derivative: columns or rows of a Jacobian, forward over one or the other in a Hessian. Tiles of both tell which is cheaper."""

    pool: Pool
    function: Function
    kernels: Mapping[Mode, Kernel]
    """Of either way, not coloured, with their widths left open."""
    costs: Mapping[Mode, Cost | Fault]
    """Of their passes, as estimated."""
    problem: Problem
    survey: Survey
    """Prices as estimated, which those costs follow from."""

    def corrected(self) -> Survey:
        """Returns prices as measured, where measuring has paid; work that is soon done is planned by estimates alone."""
        known = self.function.corrections.get((self._name, self._platform))
        tuners = [tuner for mode in Mode for tuner in self._tuners(mode)]
        if any(tuner.worthwhile(0.0, self._workers) for tuner in tuners):
            known = self.function.correction(self._name, self._platform)
            known.learn(self._factors())
        return self.survey if known is None else known.applied(self.survey)

    async def measured(self, plan: Plan, kernel: Kernel, point: Sequence[Operand], besides: Sequence[Operand] = ()) -> bool:
        """Measures what the choice of a Jacobian's mode rests on, where the work is long enough; returns whether there is anything new to plan by.

        A tile of the plan's own mode tells how long the work is and what compiling costs. If it pays then, a tile of the other mode follows. Where
        that goes wrong, the other mode is taken to be no better, and where it takes as long as all the work would, it is of use to later calls only;
        where the first goes wrong, the call itself will say so.

        Args:
            plan: The plan by what is known.
            kernel: Its kernel, with its width left open.
            point: Where to differentiate.
            besides: What coloured tiles take besides.
        """
        if plan.mode is None or not contested(plan):
            return False
        (leg,), rival = plan.legs, Mode.REVERSE if plan.mode is Mode.FORWARD else Mode.FORWARD
        known = self.function.correction(self._name, self._platform)
        if known.probing or known.failed or rival in known.factors:
            return False
        own = self.function.tuner(kernel, self._platform, leg)
        if not own.worthwhile(plan.seconds, self._workers):
            return False
        known.probing, trial = True, None
        try:
            if own.found is None:
                if not await self._run(kernel, leg, (*point, *besides)):
                    return False
                known.learn(self._factors())
                # Only now is it known how long the work really is, and what compiling takes.
                if not own.worthwhile(plan.seconds * known.factors.get(plan.mode, 1.0), self._workers):
                    return True
            if all(tuner.found is None for tuner in self._tuners(rival)):
                trial = detached(self._trial(known, rival, point))
                # It may take no longer than all the work would. If it does, its worker goes on: to end it would cost what it has compiled.
                patience = plan.seconds * known.factors.get(plan.mode, 1.0) / max(1, self._workers)
                try:
                    await asyncio.wait({trial}, timeout=patience)
                except asyncio.CancelledError:
                    trial.cancel()
                    raise
                return True
            known.learn(self._factors())
            return True
        finally:
            known.probing = trial is not None and not trial.done()

    async def _trial(self, known: Correction, mode: Mode, point: Sequence[Operand]) -> None:
        """Times a tile of a mode, and notes what it took or that it failed, whether or not the call that began it still waits."""
        try:
            known.failed = not await self._run(self.kernels[mode], self._leg(mode, known.applied(self.survey)), point)
            known.learn(self._factors())
        finally:
            known.probing = False

    @property
    def _name(self) -> Kernel:
        return self.kernels[Mode.FORWARD]

    @property
    def _platform(self) -> str:
        return platform_of(self.pool)

    @property
    def _workers(self) -> int:
        return self.pool.workers_for_tiles()

    def _leg(self, mode: Mode, survey: Survey) -> Leg:
        cost = strategy.by_mode(survey)[mode]
        assert isinstance(cost, Cost)
        return strategy.leg(mode, strategy.passes(self.problem, mode), cost, self.problem, self._workers, 0)

    def _tuners(self, mode: Mode) -> list[Tuner]:
        """Returns what is known of the kernels of a mode, without colours and with them."""
        kernels = (replace(self.kernels[mode], coloured=coloured) for coloured in (False, True))
        return [self.function.tuners[kernel, self._platform] for kernel in kernels if (kernel, self._platform) in self.function.tuners]

    def _factors(self) -> Mapping[Mode, float]:
        found: dict[Mode, float] = {}
        for mode, cost in self.costs.items():
            each = [pricing.factor(tuner, cost) for tuner in self._tuners(mode)]
            known = [factor for factor in each if factor is not None]
            if known:
                found[mode] = min(known)
        return found

    async def _run(self, kernel: Kernel, leg: Leg, operands: Sequence[Operand]) -> bool:
        """Computes one tile for its time alone, and notes that; returns False where it failed, and would do so again."""
        tuner = self.function.tuner(kernel, self._platform, leg)
        task = Task(replace(kernel, width=leg.tile), point=secrets.token_hex(8), start=0, count=min(leg.tile, leg.passes))
        with self.pool.lane() as lane:
            assignment = work.compute(Desk.TILES, task, operands, self.function.load, f"a trial of {kernel.kind.value} mode")
            answer = await self.pool.submit(lane, assignment)
        if isinstance(answer, Done):
            tuner.record(leg.tile, task.count, answer.seconds, answer.compile_seconds)
            return True
        return isinstance(answer, Fault) and answer.reason in _PASSING


def contested(plan: Plan) -> bool:
    """Returns whether a strategy that takes passes of the other mode comes close to the one that was chosen for its price."""
    if plan.mode is None or len(plan.considered) < 2:
        return False
    chosen, *others = plan.considered
    rivals = [other.seconds for other in others if other.seconds is not None and not other.strategy.endswith(plan.mode.value)]
    return chosen.seconds is not None and any(seconds < CLOSE * chosen.seconds for seconds in rivals)
