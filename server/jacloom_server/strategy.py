"""From prices to a plan: columns or rows, and how many seeds at a time. Plain functions on plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from jacloom_graph.answer import Derivative
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import itemsize, nbytes
from jacloom_graph.types import Type
from jacloom_server.plan import WIDTHS, Considered, Leg, Mode, Plan, below, empty, fitting
from jacloom_worker.protocol import Cost, Survey

CACHE_BYTES: Final = 6 << 20
"""Intermediates of one tile. Batches that outgrow the caches slow down: of a scan with 36 KiB a seed 64 to 128 were best, 512 took twice as long."""
RESULT_BYTES: Final = 32 << 20
"""Most bytes that one tile answers with, so that a window of tiles fits the object store."""
LEAST_TILE_SECONDS: Final = 0.002
"""A tile costs about a millisecond on its way; smaller pieces of work are not cut further."""
MOST_TILE_SECONDS: Final = 0.25
"""How long a tile should take at most: a call that is cancelled waits for one."""
LEAST_BATCH: Final = 8
"""Seeds that a tile has however long it takes: fewer leave vector units idle."""
FLOPS: Final = 2e10
BYTES: Final = 5e10
"""What one core does in a second, fitted to matrix products, stencils and scans within a factor of two. Only ratios of prices decide."""
CROWDED: Final = 2.0
"""How much longer seeds take whose intermediates outgrow the caches."""
MOST_GRADIENT_COLUMNS: Final = 64
"""Columns of which a gradient is made at most, in one pass."""
GRADIENT_BYTES: Final = 64 << 20
"""Most bytes of intermediates of those columns together."""
NEAR: Final = 1.05
"""Prices this close count as equal; forward mode then wins because it keeps no intermediates."""
_OVER: Final = 3
"""How many times the price of a computation its forward derivative has, values included."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A strategy to weigh."""

    strategy: str
    passes: int
    seconds: float | Fault
    """Predicted computing time of all passes; or why there are none."""
    exact: bool = True
    """Whether it takes so many passes, or at least so many."""
    measured: bool = False
    """Whether its passes were timed, or their price is estimated."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is to differentiate."""

    wrt: tuple[Type, ...]
    outputs: tuple[Type, ...]
    nbytes: int
    """Size of the answer."""

    @property
    def n(self) -> int:
        """Entries of all wrt leaves."""
        return sum(leaf.size for leaf in self.wrt)

    @property
    def m(self) -> int:
        """Entries of all differentiated outputs."""
        return sum(leaf.size for leaf in self.outputs)


def jacobian(problem: Problem, survey: Survey, *, workers: int, mode: Mode | None = None, tile: int = 0) -> Plan:
    """Returns the plan for a dense Jacobian: the mode whose passes are cheaper in all, unless one is asked for.

    Args:
        problem: Types of leaves and outputs.
        survey: Prices of passes.
        workers: Workers that tiles can be spread over.
        mode: The mode asked for, if any.
        tile: The width asked for; 0 if none.

    Raises:
        Fault: MODE_UNAVAILABLE if the mode asked for, or every mode, is refused, with the reason.
    """
    if not problem.n or not problem.m:
        return empty(problem.nbytes)
    costs = by_mode(survey)
    legs = {each: cost if isinstance(cost, Fault) else leg(each, passes(problem, each), cost, problem, workers, tile) for each, cost in costs.items()}
    times = {each: found if isinstance(found, Fault) else found.seconds for each, found in legs.items()}
    chosen = _choose(times, mode)
    best = legs[chosen]
    assert isinstance(best, Leg)
    candidates = [Candidate(each.value, passes(problem, each), time, measured=measured(costs[each])) for each, time in times.items()]
    considered = weighed(candidates, chosen.value, seconds(survey.value), asked=mode is not None)
    return Plan(chosen.value, problem.nbytes, (best,), min(workers, best.tiles), considered)


def gradient(problem: Problem, survey: Survey) -> Mode:
    """Returns the cheaper way to the gradient of a function with loops of unknown length.

    Where there is neither, the answer is reverse mode, and its refusal that of the call.
    """
    alike = len({type_.dtype for type_ in (*problem.wrt, *problem.outputs)}) == 1 and not problem.outputs[0].dtype.startswith("complex")
    if isinstance(survey.forward, Fault) or not alike or problem.n > MOST_GRADIENT_COLUMNS or problem.n * survey.forward.peak > GRADIENT_BYTES:
        return Mode.REVERSE
    if isinstance(survey.reverse, Fault):
        return Mode.FORWARD
    forward, reverse = sweep(survey.forward) + problem.n * seconds(survey.forward), sweep(survey.reverse) + seconds(survey.reverse)
    return Mode.FORWARD if forward <= reverse * NEAR else Mode.REVERSE


def hessian(problem: Problem, survey: Survey, *, workers: int, tile: int = 0) -> Plan:
    """Returns the plan for dense second derivatives: forward over the cheaper first derivative, one seed per entry of the wrt leaves.

    Raises:
        Fault: MODE_UNAVAILABLE if the function has no first derivative, or forward mode does not go through it.
    """
    if not problem.n or not problem.m:
        return empty(problem.nbytes)
    if survey.second is not None:
        raise survey.second
    costs = second(problem, survey)
    inner = _choose({mode: cost if isinstance(cost, Fault) else seconds(cost) for mode, cost in costs.items()}, None)
    cost = costs[inner]
    assert isinstance(cost, Cost)
    answer = problem.m * problem.n * max(itemsize(type_.dtype) for type_ in (*problem.wrt, *problem.outputs))
    columns = _tiled(Leg(Mode.FORWARD, problem.n), cost, answer, workers, tile)
    price = _relative(seconds(cost), seconds(survey.value))
    verdict = "one column of second derivatives a pass" + (" (measured)" if cost.measured else "")
    alone = Considered(f"forward over {inner.value}", problem.n, price, verdict)
    return Plan(Mode.FORWARD.value, problem.nbytes, (columns,), min(workers, columns.tiles), (alone,), inner)


def batch(problem: Problem, survey: Survey, derivative: Derivative, count: int, *, workers: int, tile: int = 0) -> Plan:
    """Returns the plan for products of the derivative and ``count`` seeds, in tiles.

    Whether there are such products is for the workers to say: a survey follows the conventions for whole Jacobians, by which complex numbers leave
    fewer. Without a price, a pass counts as one evaluation.
    """
    known = survey.forward if derivative is Derivative.JVP else survey.reverse
    cost = survey.value if isinstance(known, Fault) else known
    if derivative is Derivative.HVP:  # forward over all that the gradient does
        cost = replace(cost.times(_OVER, measured=False), peak=cost.peak * 2)
    results = problem.outputs if derivative is Derivative.JVP else problem.wrt
    found = _tiled(Leg(None, count), cost, sum(nbytes(type_) for type_ in results), workers, tile)
    return Plan("batch", problem.nbytes, (found,), min(workers, found.tiles))


def seconds(cost: Cost) -> float:
    """Returns about how long one core takes for one pass, over and above what all passes of a tile share."""
    return cost.flops / FLOPS + cost.bytes / BYTES


def sweep(cost: Cost) -> float:
    """Returns about how long one core takes for what all passes of a tile share."""
    return cost.shared_flops / FLOPS + cost.shared_bytes / BYTES


def by_mode(survey: Survey) -> dict[Mode, Cost | Fault]:
    """Returns what a pass of each mode costs, or why there is none."""
    return {Mode.FORWARD: survey.forward, Mode.REVERSE: survey.reverse}


def second(problem: Problem, survey: Survey) -> dict[Mode, Cost | Fault]:
    """Returns what a column of second derivatives costs by the mode of the first, or why there is none."""
    return {mode: cost if isinstance(cost, Fault) else _over(cost, passes(problem, mode)) for mode, cost in by_mode(survey).items()}


def within(survey: Survey, memory: int | None) -> Survey:
    """Returns a survey in which a mode is refused that does not fit into memory, where the other one does.

    Args:
        survey: Prices of passes.
        memory: Bytes that a worker may use; None for no bound.
    """

    def refused(cost: Cost | Fault) -> Fault | None:
        if memory is None or not isinstance(cost, Cost) or cost.shared_peak <= memory:
            return None
        return Fault(Reason.OUT_OF_MEMORY, f"its passes share {cost.shared_peak:,} bytes, and a worker may use {memory:,}")

    forward, reverse = refused(survey.forward), refused(survey.reverse)
    if forward is not None and isinstance(survey.reverse, Cost) and reverse is None:
        return replace(survey, forward=forward)
    if reverse is not None and isinstance(survey.forward, Cost) and forward is None:
        return replace(survey, reverse=reverse)
    return survey


def measured(cost: Cost | Fault) -> bool:
    """Returns whether a price rests on measurements."""
    return isinstance(cost, Cost) and cost.measured


def passes(problem: Problem, mode: Mode) -> int:
    """Returns how many passes a dense Jacobian takes."""
    return problem.n if mode is Mode.FORWARD else problem.m


def leg(mode: Mode, count: int, cost: Cost, problem: Problem, workers: int, tile: int) -> Leg:
    """Returns passes of one mode, in tiles of a width by rule, or of that asked for."""
    rows = problem.m if mode is Mode.FORWARD else problem.n
    answer = rows * max(itemsize(type_.dtype) for type_ in (*problem.wrt, *problem.outputs))
    return _tiled(Leg(mode, count), cost, answer, workers, tile)


def _over(cost: Cost, count: int) -> Cost:
    """Returns what a forward pass costs over a whole first derivative, whose passes are computed at once."""
    flops, moved = cost.flops * count + cost.shared_flops, cost.bytes * count + cost.shared_bytes
    return Cost(_OVER * flops, _OVER * moved, 2 * cost.peak * count, measured=cost.measured)


def _tiled(leg: Leg, cost: Cost, answer: int, workers: int, tile: int) -> Leg:
    """Returns passes cut into tiles; ``answer``: the bytes that one of them makes."""
    leg = replace(leg, sweep=sweep(cost))
    width, share = _width(leg.passes, cost, leg.sweep, workers), fitting(math.ceil(leg.passes / max(1, workers)))
    # Seeds are cheapest in the widest tiles, so trials alone would end with a single one, and all other workers idle.
    widest = min(max(width, share), below(RESULT_BYTES // max(1, answer)))
    leg = replace(leg, seconds=seconds(cost) * leg.passes, widest=widest)
    # A width that is asked for is taken as it is: its kernel may be compiled already.
    return leg.cut(tile) if tile else leg.resized(width)


def _width(count: int, cost: Cost, sweep: float, workers: int) -> int:
    """Returns a width by rule: two tiles for each worker where the work is worth cutting, none slow, intermediates in cache.

    Every tile computes anew what its seeds share. Where that is most of its work, tiles are wider: down to one a worker, and out of the caches.
    """
    one = seconds(cost)
    worth = math.ceil(LEAST_TILE_SECONDS / one) if one > 0 else count
    prompt = max(LEAST_BATCH, int(MOST_TILE_SECONDS / one)) if one > 0 else count
    share = math.ceil(count / (2 * max(1, workers)))
    close = max(1, CACHE_BYTES // max(1, cost.peak))
    width = min(fitting(min(prompt, max(worth, share), count)), below(close))
    most = fitting(min(max(prompt, int(sweep / one)), math.ceil(count / max(1, workers)))) if one > 0 else width

    def lasts(width: int) -> float:
        rounds = math.ceil(math.ceil(count / width) / max(1, workers))
        return rounds * (sweep + width * one * (CROWDED if width > close else 1.0))

    best: int = min((width, *(wider for wider in WIDTHS if width < wider <= most)), key=lasts)
    return best


def _choose(prices: dict[Mode, float | Fault], asked: Mode | None) -> Mode:
    """Returns the mode asked for, or that of the least price, in seconds for all passes.

    Raises:
        Fault: MODE_UNAVAILABLE.
    """
    if asked is not None:
        price = prices[asked]
        if isinstance(price, Fault):
            other = Mode.REVERSE if asked is Mode.FORWARD else Mode.FORWARD
            another = f"use mode {other.value!r}, or leave the choice to the service"
            instead = "there is no other either" if isinstance(prices[other], Fault) else another
            raise _unavailable(f"the function has no derivative in {asked.value} mode ({instead})", price)
        return asked
    forward, reverse = prices[Mode.FORWARD], prices[Mode.REVERSE]
    if isinstance(forward, Fault) and isinstance(reverse, Fault):
        raise _unavailable("the function has a derivative in neither mode", *(refusal for refusal in prices.values() if isinstance(refusal, Fault)))
    if isinstance(forward, Fault) or isinstance(reverse, Fault):
        return Mode.REVERSE if isinstance(forward, Fault) else Mode.FORWARD
    return Mode.FORWARD if forward <= reverse * NEAR else Mode.REVERSE


def weighed(candidates: Sequence[Candidate], chosen: str, value: float, *, asked: bool) -> tuple[Considered, ...]:
    """Returns what was weighed, the chosen strategy first.

    Args:
        candidates: The strategies.
        chosen: The name of one of them.
        value: Seconds that one evaluation takes.
        asked: Whether it was not chosen, but asked for.
    """
    best = next(candidate for candidate in candidates if candidate.strategy == chosen)
    assert not isinstance(best.seconds, Fault)
    found, least = [], min(each.seconds for each in candidates if each.exact and not isinstance(each.seconds, Fault))
    for candidate in sorted(candidates, key=lambda each: each is not best):
        if isinstance(candidate.seconds, Fault):
            refusal = candidate.seconds
            found.append(Considered(candidate.strategy, candidate.passes, None, f"not available: {refusal.message}", refusal.place))
            continue
        ratio = _compared(candidate.seconds, best.seconds)
        verdict = ratio if candidate.exact else f"at least so many passes, {ratio}"
        if candidate is best:
            # Colourings are weighed by their passes, before they are cut into tiles: another may come out a little cheaper.
            verdict = "asked for" if asked else "cheapest" if best.seconds <= NEAR * least else "fewest passes for their price"
        if candidate.measured:
            verdict += " (measured)"
        price = _relative(candidate.seconds / max(1, candidate.passes), value)
        found.append(Considered(candidate.strategy, candidate.passes, price, verdict, seconds=candidate.seconds))
    return tuple(found)


def _relative(one: float, value: float) -> float | None:
    """Returns what one pass costs in evaluations of the function; None where these cost nothing, as of one that only hands on its argument."""
    return one / value if value else None


def _compared(one: float, best: float) -> str:
    """Returns what something costs in comparison with what was chosen, where either may cost nothing."""
    if one and best:
        return times(one / best)
    return "about the same price" if one == best else "costs more" if one else "costs nothing"


def times(ratio: float) -> str:
    """Returns what something costs in comparison with what was chosen."""
    number = f"{ratio:.3g}" if ratio < 999.5 else f"{ratio:,.0f}"
    return "about the same price" if number == "1" else f"about {number} times the price"


def _unavailable(message: str, *refusals: Fault) -> Fault:
    reasons = "; ".join(dict.fromkeys(refusal.message for refusal in refusals))
    place = next((refusal.place for refusal in refusals if refusal.place is not None), None)
    return Fault(Reason.MODE_UNAVAILABLE, f"{message}: {reasons}", field="options.mode", place=place)
