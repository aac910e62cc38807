"""Prices as measured: what tiles took, held against what the survey foretold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from jacloom_graph.errors import Fault
from jacloom_server import strategy
from jacloom_server.plan import Mode
from jacloom_server.tuning import Tuner
from jacloom_worker.protocol import NEAR, Cost, Survey


@dataclass(eq=False, slots=True)
class Correction:
    """How many times as long as estimated the passes of a function take, by mode (of second derivatives, that of the first): what plans go by.

    A mode that was not measured counts as estimated too low by as much as the other: the estimate is wrong about a machine, and about a function,
    more than about the ratio of both modes. So one measurement alone never overrules the choice.
    """

    factors: Mapping[Mode, float] = field(default_factory=dict)
    failed: bool = False
    """Whether one of them could not be measured, and is not tried again."""
    probing: bool = False
    """Whether a call is at it."""

    def learn(self, found: Mapping[Mode, float]) -> None:
        """Takes over factors that were measured, unless they are near those in use: what tiles take wanders, and plans are not to."""
        if any(mode not in self.factors or not _near(found[mode], self.factors[mode]) for mode in found):
            self.factors = {**self.factors, **found}

    def applied(self, survey: Survey) -> Survey:
        """Returns a survey with prices as measured."""
        if not self.factors:
            return survey
        least = min(self.factors.values())

        def corrected(mode: Mode, cost: Cost) -> Cost:
            return cost.times(self.factors.get(mode, least), measured=mode in self.factors)

        return replace(
            survey,
            value=survey.value.times(least, measured=False),
            forward=corrected(Mode.FORWARD, survey.forward) if isinstance(survey.forward, Cost) else survey.forward,
            reverse=corrected(Mode.REVERSE, survey.reverse) if isinstance(survey.reverse, Cost) else survey.reverse,
        )


def factor(tuner: Tuner, cost: Cost | Fault) -> float | None:
    """Returns how many times as long as estimated the tiles of a kernel took; None where none has come back, or none was expected to take any time.

    Args:
        tuner: Of the kernel.
        cost: What one of its passes is estimated to cost.
    """
    if tuner.found is None or not isinstance(cost, Cost):
        return None
    width, seconds = tuner.found
    expected = strategy.sweep(cost) + width * strategy.seconds(cost)
    return seconds * width / expected if expected > 0 else None


def _near(one: float, other: float) -> bool:
    return abs(math.log(one / other)) < math.log(NEAR) if one > 0 and other > 0 else one == other
