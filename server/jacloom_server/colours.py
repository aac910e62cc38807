"""From the sparsity of a derivative to a plan: whether its colours are worth it, and in how large tiles they are computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from jacloom_graph.errors import Fault
from jacloom_server import strategy
from jacloom_server.plan import Considered, Leg, Mode, Plan, empty
from jacloom_server.strategy import NEAR, Candidate, Problem, seconds
from jacloom_worker.protocol import Cost, Dense, Prices, Structure, Survey

FEW_PASSES: Final = 4
"""A dense derivative of so few passes is not looked at: colours save nothing worth the search."""
LITTLE_SECONDS: Final = 0.002
LITTLE_BYTES: Final = 1 << 18
"""Nor is one that takes no longer than this, with a result no larger."""
MOST_ENTRIES: Final = 1 << 27
"""Entries that a pattern may have. Finding it takes some thirty bytes for each."""
FEW_ENTRIES: Final = 1 << 20
"""So many entries a pattern may have in any case; more only where they are less than a third of the dense result."""


def worthwhile(dense: Plan) -> bool:
    """Returns whether to look for a pattern, where the result is to be dense and without one would be computed by this plan."""
    return dense.passes > FEW_PASSES and (dense.seconds > LITTLE_SECONDS or dense.nbytes > LITTLE_BYTES)


def most_entries(rows: int, columns: int, *, required: bool) -> int:
    """Returns how many entries a pattern may have to be used; ``required``: for a sparse result, for which there is no other way."""
    return MOST_ENTRIES if required else min(MOST_ENTRIES, max(FEW_ENTRIES, rows * columns // 3))


def prices(problem: Problem, survey: Survey, mode: Mode | None) -> Prices:
    """Returns what passes cost in units of the cheaper one, those of the mode asked for alone if there is one."""
    costs = {each: cost for each, cost in ((Mode.FORWARD, survey.forward), (Mode.REVERSE, survey.reverse)) if mode in (None, each)}
    passes = {each: seconds(cost) for each, cost in costs.items() if isinstance(cost, Cost)}
    shared = {each: strategy.sweep(each, cost, problem, survey) for each, cost in costs.items() if isinstance(cost, Cost)}
    least = min(passes.values())

    def relative(price: float) -> float:
        return float(f"{price / least:.2g}") if least else 1.0

    forward, reverse = (relative(passes[each]) if each in passes else None for each in Mode)
    return Prices(forward, reverse, *(relative(shared.get(each, 0.0)) for each in Mode))


def jacobian(
    dense: Plan, problem: Problem, survey: Survey, found: Structure | Dense, nbytes: int, *, workers: int, tile: int, required: bool, asked: bool
) -> Plan:
    """Returns the plan for a Jacobian with a pattern: by its colours, or dense if they do not pay.

    Args:
        dense: The plan without it.
        problem: Types of leaves and outputs.
        survey: Prices of passes.
        found: The pattern, if there is one to use.
        nbytes: Bytes of the entries.
        workers: Workers that tiles can be spread over.
        tile: The width asked for; 0 if none.
        required: Use the pattern in any case.
        asked: Whether the mode was asked for.
    """
    if isinstance(found, Dense):
        return without_colours(dense, f"not considered: {found.reason}")
    costs = {Mode.FORWARD: survey.forward, Mode.REVERSE: survey.reverse}

    def priced(mode: Mode, count: int) -> Leg:
        cost = costs[mode]
        assert isinstance(cost, Cost)
        return strategy.leg(mode, count, cost, problem, survey, workers, tile)

    legs = [priced(Mode(part.mode), part.passes) for part in found.parts]
    total = sum(leg.seconds for leg in legs)
    candidates = []
    for one in found.weighed:
        used = [priced(mode, count) for mode, count in ((Mode.FORWARD, one.forward), (Mode.REVERSE, one.reverse)) if count]
        timed = all(strategy.measured(costs[leg.mode]) for leg in used if leg.mode is not None)
        candidates.append(Candidate(one.strategy, one.forward + one.reverse, sum(leg.seconds for leg in used), one.exact, timed))
    uncoloured = [
        Candidate(option.strategy, option.passes, _seconds(option, survey), measured=strategy.measured(costs[Mode(option.strategy)]))
        for option in dense.considered
    ]
    value = seconds(survey.value)
    if required or total * NEAR < dense.seconds:
        considered = strategy.weighed([*candidates, *uncoloured], found.strategy, value, asked=asked)
        return _coloured(found, legs, nbytes, workers, considered)
    considered = strategy.weighed([*uncoloured, *candidates], dense.strategy, value, asked=asked)
    return replace(dense, considered=considered)


def hessian(dense: Plan, found: Structure | Dense, nbytes: int, *, workers: int, tile: int, required: bool) -> Plan:
    """Returns the plan for the second derivatives of a scalar with a pattern; arguments as for ``jacobian``."""
    if isinstance(found, Dense):
        return without_colours(dense, f"not considered: {found.reason}")
    if not required and found.passes * NEAR >= dense.passes:
        verdict = "no fewer passes" + (f"; {found.doubt}" if found.doubt else "")
        return without_colours(dense, verdict, found.passes, dense.considered[0].price)
    (alone,) = dense.considered
    (whole,) = dense.legs
    legs = []
    for part in found.parts:
        leg = Leg(Mode.FORWARD, part.passes, seconds=whole.seconds * part.passes / whole.passes, widest=whole.widest)
        legs.append(leg.cut(tile) if tile else leg.resized(whole.tile))
    ratio = alone.passes / max(1, found.passes)
    verdict = "cheapest: columns of one colour share a pass" + (f"; {found.doubt}" if found.doubt else "")
    name = "coloured" if found.strategy == "coloured forward" else found.strategy
    considered = (
        replace(alone, strategy=f"{name} {alone.strategy}", passes=found.passes, verdict=verdict),
        replace(alone, verdict=strategy.times(ratio)),
    )
    return replace(_coloured(found, legs, nbytes, workers, considered), inner=dense.inner)


def without_colours(dense: Plan, verdict: str, passes: int = 0, price: float = 0.0) -> Plan:
    """Returns a plan without colours that says why there are none; 0 passes where they were not counted."""
    return replace(dense, considered=(*dense.considered, Considered("coloured", passes, price, verdict)))


def _coloured(found: Structure, legs: list[Leg], nbytes: int, workers: int, considered: tuple[Considered, ...]) -> Plan:
    if not legs:
        return replace(empty(nbytes, found), considered=considered)
    busy = min(workers, sum(leg.tiles for leg in legs))
    return Plan(found.strategy, nbytes, tuple(legs), busy, considered, structure=found)


def _seconds(option: Considered, survey: Survey) -> float | Fault:
    """Returns the predicted time of a dense strategy, or why it is not there."""
    refusal = survey.forward if option.strategy == Mode.FORWARD.value else survey.reverse
    return refusal if isinstance(refusal, Fault) else option.price * option.passes * seconds(survey.value)
