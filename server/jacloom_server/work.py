"""A piece of work for a worker process, and the queue of one call's pieces."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from jacloom_worker.launch import Handle, Operand, Result
from jacloom_worker.protocol import Load, Prices, Task
from jacloom_worker.unit import Recipe, Site, Unit


class Desk(Enum):
    """Who a piece of work is for."""

    CLERK = "clerk"
    """Questions about functions."""
    TILES = "tiles"
    """One-thread workers and GPUs, many pieces side by side."""
    PASSES = "passes"
    """The workers with all threads, and GPUs: one pass, as soon as possible."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a process is asked to do."""

    desk: Desk
    label: str
    """What it is, for people: ``"seeds 64 to 127"``."""
    send: Callable[[Handle, float, bool], Future[Any]]
    """Asks a process, given the seconds that it may take and whether the function must go along because the process may not hold it."""
    function: str = ""
    """Id of the function that the process must hold, if any."""
    background: bool = False
    """Only for a process that has nothing else to do: so whoever calls meanwhile waits for one such piece of work at most."""
    attempts: int | None = None
    """Processes that it may end before it is given up. Default: as many as the pool allows."""


def compute(desk: Desk, task: Task, operands: Sequence[Operand], load: Callable[[], Load], label: str) -> Assignment:
    """Returns a tile or a single pass as an assignment; ``load`` yields the function for processes that do not hold it."""

    def send(handle: Handle, lease: float, loading: bool) -> Future[Any]:
        return handle.run(replace(task, load=load()) if loading else task, operands, lease)

    return Assignment(desk, label, send, task.kernel.function)


def diagnose(task: Task, operands: Sequence[Operand], load: Callable[[], Load]) -> Assignment:
    """Returns the question what is wrong with a function at a point; its answer is a ``Diagnosis``. The function always goes along."""
    return Assignment(Desk.PASSES, "the diagnosis", lambda handle, lease, _: handle.diagnose(replace(task, load=load()), operands, lease))


def structure(task: Task, prices: Prices, most: int, given: Sequence[Operand], load: Callable[[], Load]) -> Assignment:
    """Returns the question which entries a derivative has; its answer is a ``Structure`` or ``Dense``. The function always goes along."""

    def send(handle: Handle, lease: float, _: bool) -> Future[Any]:
        return handle.structure(replace(task, load=load()), prices, most, given, lease)

    return Assignment(Desk.PASSES, "the sparsity pattern", send)


def write(recipe: Recipe, unit: Unit, attempt: Callable[[], Site], operands: Sequence[Operand], load: Callable[[], Load]) -> Assignment:
    """Returns a unit of a job; its answer is ``Written``. Attempts are the job's business: what ends a process is not sent to another.

    Args:
        recipe: What units of the job compute.
        unit: Which one.
        attempt: Called each time that it is sent: a process that was thought lost may still write, and must not do so where another does.
        operands: Of a sparse derivative, see ``Recipe.entries``.
        load: Yields the function for processes that do not hold it.
    """

    def send(handle: Handle, lease: float, loading: bool) -> Future[Any]:
        return handle.write(recipe, unit, attempt(), operands, load() if loading else None, lease)

    return Assignment(Desk.TILES, str(unit), send, recipe.function, background=True, attempts=1)


def pace(recipe: Recipe, unit: Unit, site: Site, operands: Sequence[Operand], load: Callable[[], Load]) -> Assignment:
    """Returns the question how many points of a job are best computed at once; its answer is a ``Pace``. See ``write``.

    Args:
        recipe: For one point after the other, tile by tile.
        unit: The points to try.
        site: Where they are.
        operands: As for ``write``.
        load: As for ``write``.
    """

    def send(handle: Handle, lease: float, loading: bool) -> Future[Any]:
        return handle.pace(recipe, unit, site, operands, load() if loading else None, lease)

    return Assignment(Desk.TILES, "measuring how many points to compute at once", send, recipe.function, background=True, attempts=1)


def describe(graph: Load) -> Assignment:
    """Returns the question what a graph is; its answer is a ``Description``."""
    return Assignment(Desk.CLERK, "reading the graph", lambda handle, lease, _: handle.describe(graph, lease))


def validate(graph: Load) -> Assignment:
    """Returns the question of which types a graph's values are; its answer is a ``Validation``."""
    return Assignment(Desk.CLERK, "checking the graph", lambda handle, lease, _: handle.validate(graph, lease))


def survey(graph: Load, wrt: tuple[int, ...], outputs: tuple[int, ...], holomorphic: bool, second: bool) -> Assignment:
    """Returns the question which derivatives a function has, and their price; its answer is a ``Survey``."""
    return Assignment(Desk.CLERK, "surveying the function", lambda handle, lease, _: handle.survey(graph, lease, wrt, outputs, holomorphic, second))


def derivatives(graph: Load) -> Assignment:
    """Returns the question in which modes a function can be differentiated; its answer is a ``DerivativeReport``."""
    return Assignment(Desk.CLERK, "asking for the function's derivatives", lambda handle, lease, _: handle.derivatives(graph, lease))


@dataclass(eq=False, slots=True)
class Errand:
    """An assignment on its way through the pool."""

    assignment: Assignment
    lane: Lane
    future: asyncio.Future[Result]
    since: float
    """Loop time at which it was put into the queue."""
    deaths: int = 0
    """Processes that ended while they worked on it."""
    outages: int = 0
    """Times that its outcome was lost although the process may live."""

    def settle(self, result: Result) -> None:
        """Ends the errand, unless its caller has gone."""
        if not self.future.done():
            self.future.set_result(result)


@dataclass(eq=False, slots=True)
class Lane:
    """The queue of one call. Lanes take turns, so that a call with many tiles does not keep others waiting."""

    queue: deque[Errand] = field(default_factory=deque)
    retries: int = 0
    """Errands that were run again."""
    seats: set[str] = field(default_factory=set)
    """Names of the seats that worked for it."""
    served: float = 0.0
    """Loop time at which one of them was sent last."""
    closed: bool = False
