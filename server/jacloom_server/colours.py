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
MANY_ENTRIES: Final = 1 << 24
"""So many entries a pattern may have for a sparse result however full it is; more only where they are less than half of the matrix. Beyond that a
dense result takes less memory, on the service and for the caller."""
FEW_ENTRIES: Final = 1 << 20
"""So many entries a pattern may have in any case; more only where they are less than a third of the dense result."""


def worthwhile(dense: Plan) -> bool:
    """Returns whether to look for a pattern, where the result is to be dense and without one would be computed by this plan."""
    return dense.passes > FEW_PASSES and (dense.seconds > LITTLE_SECONDS or dense.nbytes > LITTLE_BYTES)


def most_entries(rows: int, columns: int, *, required: bool) -> int:
    """Returns how many entries a pattern may have to be used; ``required``: for a sparse result, for which there is no other way."""
    least, part = (MANY_ENTRIES, 2) if required else (FEW_ENTRIES, 3)
    return min(MOST_ENTRIES, max(least, rows * columns // part))


def prices(survey: Survey, mode: Mode | None) -> Prices:
    """Returns what passes cost in units of the cheaper one, those of the mode asked for alone if there is one."""
    costs = {each: cost for each, cost in strategy.by_mode(survey).items() if mode in (None, each)}
    passes = {each: seconds(cost) for each, cost in costs.items() if isinstance(cost, Cost)}
    shared = {each: strategy.sweep(cost) for each, cost in costs.items() if isinstance(cost, Cost)}
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
    costs = strategy.by_mode(survey)

    def priced(mode: Mode, count: int) -> Leg:
        cost = costs[mode]
        assert isinstance(cost, Cost)
        return strategy.leg(mode, count, cost, problem, workers, tile)

    legs = [priced(Mode(part.mode), part.passes) for part in found.parts]
    total = sum(leg.seconds for leg in legs)
    candidates = []
    for one in found.weighed:
        used = [priced(mode, count) for mode, count in ((Mode.FORWARD, one.forward), (Mode.REVERSE, one.reverse)) if count]
        timed = all(strategy.measured(costs[leg.mode]) for leg in used if leg.mode is not None)
        candidates.append(Candidate(one.strategy, one.forward + one.reverse, sum(leg.seconds for leg in used), one.exact, timed))
    uncoloured = [
        Candidate(each.value, strategy.passes(problem, each), _seconds(dense, each, costs[each]), measured=strategy.measured(costs[each]))
        for each in (Mode(option.strategy) for option in dense.considered)
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
    ratio = whole.passes / max(1, found.passes)
    verdict = "cheapest: columns of one colour share a pass" + (f"; {found.doubt}" if found.doubt else "")
    name = "coloured" if found.strategy == "coloured forward" else found.strategy
    considered = (
        replace(alone, strategy=f"{name} {alone.strategy}", passes=found.passes, verdict=verdict),
        replace(alone, verdict=strategy.times(ratio)),
    )
    return replace(_coloured(found, legs, nbytes, workers, considered), inner=dense.inner)


def without_colours(dense: Plan, verdict: str, passes: int | None = None, price: float | None = None) -> Plan:
    """Returns a plan without colours that says why there are none, with their passes and the price of one where they were counted."""
    return replace(dense, considered=(*dense.considered, Considered("coloured", passes, price, verdict)))


def _coloured(found: Structure, legs: list[Leg], nbytes: int, workers: int, considered: tuple[Considered, ...]) -> Plan:
    if not legs:
        return replace(empty(nbytes, found), considered=considered)
    busy = min(workers, sum(leg.tiles for leg in legs))
    return Plan(found.strategy, nbytes, tuple(legs), busy, considered, structure=found)


def _seconds(dense: Plan, mode: Mode, cost: Cost | Fault) -> float | Fault:
    """Returns the predicted time of a dense strategy, or why it is not there."""
    if isinstance(cost, Fault):
        return cost
    return next(option.seconds for option in dense.considered if option.strategy == mode.value and option.seconds is not None)
