"""Whether the service chooses well: its own choice beside every way that a user can force."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import jacloom as jl
from benchmarks.measure import Goal, Report, in_turn, settle
from benchmarks.shapes import Shape, shapes
from jacloom import Client

_BOUND: Final = 1.3
_SHORT: Final = 0.2
"""Seconds of the best way, below which the choice is shown beside the others and has no goal: other work on the machine decides there."""
_FAR: Final = 4.0
"""A way that takes so many times as long is no rival, and not waited for."""
_LEARNING: Final = 4.0
"""Seconds, or four calls, or forty, in which the service may compile, and try widths and modes."""
_HOPELESS: Final = 100.0
"""Nor is one tried at all that is predicted to take so many times as long: prices would have to be wrong by that much."""
_COMPILES: Final = 10.0
"""Seconds beyond that for a first call."""


def choice(client: Client) -> Report:
    """Every shape's Jacobian by choice and by each forced way; the goal is for those that take a while."""
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    goals = []
    for shape in shapes():
        medians, ranges = _compared(client, shape)
        best = min(medians, key=lambda way: medians[way])
        figures |= {f"{shape.name}: {way}": seconds for way, seconds in medians.items()}
        spread |= {f"{shape.name}: {way}": range_ for way, range_ in ranges.items()}
        if medians[best] >= _SHORT:
            goals.append(Goal(f"{shape.name}: at most {_BOUND} x {best}", medians[_CHOICE] / medians[best], _BOUND, "x"))
    return Report("the choice beside forced ways", figures, tuple(goals), spread)


_CHOICE: Final = "choice"


def _compared(client: Client, shape: Shape) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Returns the medians of the choice and of the ways that come near it, and their least and greatest."""
    ways = dict(_ways(shape))

    def computing(way: str, most: float | None = None) -> Callable[[], Any]:
        derivative = client.jacobian(shape.function, **ways[way], timeout=most)
        return lambda: derivative(shape.point)

    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 4 or (time.perf_counter() - started < _LEARNING and len(times) < 40):
        times.append(_timed(computing(_CHOICE)))
    seconds = min(times)
    near = {_CHOICE: computing(_CHOICE)}
    for way in _distinct(client, shape, ways):
        try:
            _timed(computing(way, _FAR * seconds + _COMPILES))
            if _timed(computing(way, _FAR * seconds + _COMPILES)) < _FAR * seconds:
                near[way] = computing(way)
        except jl.DeadlineExceeded:
            settle(20)  # a worker that does not stop is replaced
    return in_turn(near, rounds=round(min(40, max(5, 1 / seconds))), warm=1)


def _distinct(client: Client, shape: Shape, ways: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the forced ways that differ in strategy or passes, without those that are hopeless however wrong their predicted time is."""
    plans = {way: client.explain(shape.function, shape.point, **options) for way, options in ways.items()}
    chosen, seen, found = plans.pop(_CHOICE).seconds or 0.0, set(), []
    for way, plan in plans.items():
        if (plan.strategy, plan.passes) not in seen and (plan.seconds or 0.0) < _HOPELESS * max(chosen, 1e-3):
            seen.add((plan.strategy, plan.passes))
            found.append(way)
    return found


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _ways(shape: Shape) -> Mapping[str, Mapping[str, Any]]:
    """Returns the options of the choice, then of each way that a user can force."""
    output = "dense" if shape.dense else "csr"
    found: dict[str, dict[str, Any]] = {_CHOICE: {}}
    for mode in ("forward", "reverse"):
        found[mode] = {"mode": mode}
        if shape.dense:
            found[f"{mode}, dense"] = {"mode": mode, "sparsity": "dense"}
        if shape.pattern is not None:
            found[f"{mode}, given pattern"] = {"mode": mode, "sparsity": shape.pattern}
    if shape.pattern is not None:
        found["given pattern"] = {"sparsity": shape.pattern}
    return {name: {"output": output} | options for name, options in found.items()}
