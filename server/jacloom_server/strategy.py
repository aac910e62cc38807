"""From prices to a plan: columns or rows, and how many seeds at a time. Plain functions on plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.limits import MOST_WIDTH
from jacloom_graph.tensor import itemsize
from jacloom_graph.types import Type
from jacloom_worker.protocol import Cost, Survey

WIDTHS: Final = tuple(sorted({1, *(2**power for power in range(1, 13)), *(3 * 2**power for power in range(11))}))
"""Widths that are chosen: few, so that kernels are compiled once, and at most 1.5 apart, so that little of the last tile is padding."""
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
LOOP_SWEEPS: Final = 1
"""How often a loop of unknown length is run again to go back through it: once, unless it takes more steps than there are checkpoints. A tile does so
once for all its rows: measured, 8 rows through 400 steps took as long as one."""
MOST_GRADIENT_COLUMNS: Final = 64
"""Columns of which a gradient is made at most, in one pass."""
GRADIENT_BYTES: Final = 64 << 20
"""Most bytes of intermediates of those columns together."""
NEAR: Final = 1.05
"""Prices this close count as equal; forward mode then wins because it keeps no intermediates."""


class Mode(Enum):
    """Which way derivatives are taken."""

    FORWARD = "forward"
    """By columns: one JVP for each entry of the wrt leaves."""
    REVERSE = "reverse"
    """By rows: one VJP for each entry of the outputs."""


@dataclass(frozen=True, slots=True)
class Considered:
    """A strategy that was weighed."""

    strategy: str
    """As ``Plan.strategy``; of a second derivative both modes."""
    passes: int
    price: float
    """Price of one pass relative to one evaluation of the function; 0 where it is not available."""
    verdict: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How a derivative is computed."""

    strategy: str
    """``"forward"``, ``"reverse"``, ``"single pass"`` or ``"empty"``."""
    mode: Mode | None
    passes: int
    tile: int
    """Seeds per tile; 0 where there are none."""
    tiles: int
    workers: int
    nbytes: int
    seconds: float = 0.0
    """Predicted computing time summed over workers; 0 where it is not known."""
    sweep: float = 0.0
    """The part of it that every tile takes again, however many seeds it has."""
    considered: tuple[Considered, ...] = ()
    inner: Mode | None = None
    """Mode of the first derivative within a second."""
    widest: int = MOST_WIDTH
    """The largest tile whose answer fits the window of tiles."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is to differentiate."""

    wrt: tuple[Type, ...]
    outputs: tuple[Type, ...]
    nbytes: int
    """Size of the answer."""
    loops: bool = False
    """Whether there are loops of unknown length: going back through them takes all their steps again."""

    @property
    def n(self) -> int:
        """Entries of all wrt leaves."""
        return sum(leaf.size for leaf in self.wrt)

    @property
    def m(self) -> int:
        """Entries of all differentiated outputs."""
        return sum(leaf.size for leaf in self.outputs)


def single(nbytes: int, passes: int = 1) -> Plan:
    """Returns the plan of a single pass (an evaluation counts none)."""
    return Plan("single pass", None, passes, 0, 0, 1, nbytes)


def empty(nbytes: int = 0) -> Plan:
    """Returns the plan of a derivative that has no entries."""
    return Plan("empty", None, 0, 0, 0, 0, nbytes)


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
    costs = {Mode.FORWARD: survey.forward, Mode.REVERSE: survey.reverse}
    plans = {each: cost if isinstance(cost, Fault) else _by(each, cost, problem, survey, workers, tile) for each, cost in costs.items()}
    chosen = _choose({each: plan if isinstance(plan, Fault) else plan.seconds for each, plan in plans.items()}, mode)
    plan = plans[chosen]
    assert isinstance(plan, Plan)
    return replace(plan, considered=_weighed(plans, problem, chosen, mode, seconds(survey.value)))


def gradient(problem: Problem, survey: Survey) -> Mode:
    """Returns the cheaper way to the gradient of a function with loops of unknown length.

    Where there is neither, the answer is reverse mode, and its refusal that of the call.
    """
    alike = len({type_.dtype for type_ in (*problem.wrt, *problem.outputs)}) == 1 and not problem.outputs[0].dtype.startswith("complex")
    if isinstance(survey.forward, Fault) or not alike or problem.n > MOST_GRADIENT_COLUMNS or problem.n * survey.forward.peak > GRADIENT_BYTES:
        return Mode.REVERSE
    if isinstance(survey.reverse, Fault):
        return Mode.FORWARD
    value = seconds(survey.value)
    forward, reverse = value + problem.n * seconds(survey.forward), (1 + _sweeps(problem, Mode.REVERSE)) * value + seconds(survey.reverse)
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
    costs = {Mode.REVERSE: survey.reverse, Mode.FORWARD: survey.forward}
    firsts = {mode: cost if isinstance(cost, Fault) else _first(mode, cost, problem, survey) for mode, cost in costs.items()}
    inner = _choose({mode: first if isinstance(first, Fault) else seconds(first) for mode, first in firsts.items()}, None)
    first = firsts[inner]
    assert isinstance(first, Cost)
    # One column costs a forward pass over everything that the whole first derivative does, which is about three times its own price.
    cost = Cost(first.flops * 3, first.bytes * 3, first.peak * 2)
    answer = problem.m * problem.n * max(itemsize(type_.dtype) for type_ in (*problem.wrt, *problem.outputs))
    plan = _tiled(Mode.FORWARD, problem.n, cost, answer, problem.nbytes, workers, tile)
    price = seconds(cost) / max(seconds(survey.value), 1e-12)
    weighed = Considered(f"forward over {inner.value}", problem.n, price, "one column of second derivatives a pass")
    return replace(plan, inner=inner, considered=(weighed,))


def seconds(cost: Cost) -> float:
    """Returns about how long one core takes for one pass."""
    return cost.flops / FLOPS + cost.bytes / BYTES


def resized(plan: Plan, width: int, workers: int) -> Plan:
    """Returns a plan with another width, as far as its tiles still fit the window."""
    width = min(width, plan.widest, fitting(plan.passes))
    tiles = math.ceil(plan.passes / width)
    return replace(plan, tile=width, tiles=tiles, workers=min(workers, tiles), seconds=plan.seconds + (tiles - plan.tiles) * plan.sweep)


def fitting(width: int) -> int:
    """Returns the smallest width to choose that holds ``width`` seeds, or the largest there is."""
    return next((candidate for candidate in WIDTHS if candidate >= width), MOST_WIDTH)


def _by(mode: Mode, cost: Cost, problem: Problem, survey: Survey, workers: int, tile: int) -> Plan:
    """Returns the plan for a Jacobian in one mode."""
    rows = problem.m if mode is Mode.FORWARD else problem.n
    answer = rows * max(itemsize(type_.dtype) for type_ in (*problem.wrt, *problem.outputs))
    plan = _tiled(mode, _passes(problem, mode), cost, answer, problem.nbytes, workers, tile)
    sweep = _sweeps(problem, mode) * seconds(survey.value)
    return replace(plan, seconds=plan.seconds + plan.tiles * sweep, sweep=sweep)


def _first(mode: Mode, cost: Cost, problem: Problem, survey: Survey) -> Cost:
    """Returns what a whole first derivative costs whose passes are computed at once."""
    passes, sweeps = _passes(problem, mode), _sweeps(problem, mode)
    return Cost(cost.flops * passes + survey.value.flops * sweeps, cost.bytes * passes + survey.value.bytes * sweeps, cost.peak * passes)


def _passes(problem: Problem, mode: Mode) -> int:
    return problem.n if mode is Mode.FORWARD else problem.m


def _sweeps(problem: Problem, mode: Mode) -> int:
    """Returns how often the function is computed again for passes that are computed at once."""
    return LOOP_SWEEPS if problem.loops and mode is Mode.REVERSE else 0


def _tiled(mode: Mode, passes: int, cost: Cost, answer: int, nbytes: int, workers: int, tile: int) -> Plan:
    widest = _below(RESULT_BYTES // max(1, answer))
    plan = Plan(mode.value, mode, passes, 0, 0, 0, nbytes, seconds(cost) * passes, widest=widest)
    if tile:
        # Asked for, so taken as it is: its kernel may be compiled already.
        tiles = math.ceil(passes / tile)
        return replace(plan, tile=tile, tiles=tiles, workers=min(workers, tiles))
    return resized(plan, _width(passes, cost, workers), workers)


def _width(passes: int, cost: Cost, workers: int) -> int:
    """Returns a width by rule: two tiles for each worker where the work is worth cutting, none slow, intermediates in cache."""
    one = seconds(cost)
    worth = math.ceil(LEAST_TILE_SECONDS / one) if one > 0 else passes
    prompt = max(LEAST_BATCH, int(MOST_TILE_SECONDS / one)) if one > 0 else passes
    share = math.ceil(passes / (2 * max(1, workers)))
    close = max(1, CACHE_BYTES // max(1, cost.peak))
    return min(fitting(min(prompt, max(worth, share), passes)), _below(close))


def _below(width: int) -> int:
    """Returns the largest width to choose that is not above ``width``."""
    widest: int = max(candidate for candidate in WIDTHS if candidate <= max(1, width))
    return widest


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


def _weighed(plans: dict[Mode, Plan | Fault], problem: Problem, chosen: Mode, asked: Mode | None, value: float) -> tuple[Considered, ...]:
    """Returns what was weighed, the chosen mode first."""
    best = plans[chosen]
    assert isinstance(best, Plan)
    found = []
    for mode in sorted(plans, key=lambda candidate: candidate is not chosen):
        plan, passes = plans[mode], _passes(problem, mode)
        if isinstance(plan, Fault):
            found.append(Considered(mode.value, passes, 0.0, f"not available: {plan}"))
            continue
        if mode is chosen:
            verdict = "asked for" if asked else "cheapest"
        else:
            verdict = f"about {plan.seconds / max(best.seconds, 1e-12):.3g} times the price"
        found.append(Considered(mode.value, passes, plan.seconds / passes / max(value, 1e-12), verdict))
    return tuple(found)


def _unavailable(message: str, *refusals: Fault) -> Fault:
    reasons = "; ".join(dict.fromkeys(refusal.message for refusal in refusals))
    place = next((refusal.place for refusal in refusals if refusal.place is not None), None)
    return Fault(Reason.MODE_UNAVAILABLE, f"{message}: {reasons}", field="options.mode", place=place)
