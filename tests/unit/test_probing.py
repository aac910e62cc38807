"""When a tile is computed for its time alone: a real pool, whose processes take as long as they are told.

Real ones take as long as they do; ``integration/test_pricing.py`` has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tree import LEAF
from jacloom_graph.types import OPSET, Type
from jacloom_server import pool as pool_module
from jacloom_server import strategy, tuning
from jacloom_server.function import Function
from jacloom_server.plan import Leg, Mode, Plan
from jacloom_server.pool import Pool
from jacloom_server.probing import Contest, contested
from jacloom_server.strategy import Problem
from jacloom_worker import launch
from jacloom_worker.envelope import pack_result
from jacloom_worker.launch import Operand, Role, Seat
from jacloom_worker.protocol import PROTOCOL, Cost, Description, Done, Hello, Kernel, Kind, Survey, Task

COLUMNS, ROWS = (Kernel("f" * 64, kind, (0,), (0,)) for kind in (Kind.FORWARD, Kind.REVERSE))
WRT, OUTPUT = Type("float64", (300,)), Type("float64", (280,))
PROBLEM = Problem((WRT,), (OUTPUT,), 300 * 280 * 8)
LONG = Survey(Cost(1e9, 0, 8), Cost(2e9, 0, 8), Cost(3e9, 0, 8))
"""30 s of columns, 42 s of rows."""
SHORT = Survey(Cost(1e6, 0, 8), Cost(2e6, 0, 8), Cost(3e6, 0, 8))


@dataclass
class Workers:
    """A pool of two processes that say what a tile took, by kind, or what it ends with."""

    pool: Pool
    answers: dict[Kind, float | Fault] = field(default_factory=dict)
    """Seconds of one seed."""
    compile_seconds: float = 0.1
    slow: frozenset[Kind] = frozenset()
    """Kinds of tiles that do not come back until ``release``."""
    tasks: list[Task] = field(default_factory=list)
    ended: int = 0
    """Processes that were ended because their caller had gone."""
    _waiting: list[tuple[Future[Any], Task]] = field(default_factory=list)

    @property
    def kinds(self) -> list[Kind]:
        return [task.kernel.kind for task in self.tasks]

    def release(self) -> None:
        self.slow = frozenset()
        while self._waiting:
            self._answer(*self._waiting.pop())

    def hello(self) -> Future[Hello]:
        future: Future[Hello] = Future()
        future.set_result(Hello(PROTOCOL, OPSET, "", "", 0, "cpu", "scripted"))
        return future

    def run(self, task: Task, operands: Sequence[Operand], lease: float) -> Future[Any]:
        future: Future[Any] = Future()
        self.tasks.append(task)
        self._waiting.append((future, task))
        if task.kernel.kind not in self.slow:
            self._answer(*self._waiting.pop())
        return future

    def kill(self) -> None:
        self.ended += 1

    def _answer(self, future: Future[Any], task: Task) -> None:
        answer = self.answers[task.kernel.kind]
        future.set_result(pack_result(answer if isinstance(answer, Fault) else Done((), answer * task.count, self.compile_seconds), ()))


@pytest.fixture
async def workers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Workers]:
    monkeypatch.setattr(pool_module, "_CANCEL_GRACE", 0.01)
    pool = Pool(lease=60.0, attempts=3, patience=20.0, abreast=2)
    made = Workers(pool)
    monkeypatch.setattr(launch, "start", lambda seat: made)
    pool.seat([Seat(Role.NARROW, 0), Seat(Role.NARROW, 1)])
    await until(lambda: pool.ready() == 2)
    yield made
    pool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def function() -> Function:
    description = Description("f" * 64, (WRT,), (OUTPUT,), LEAF, LEAF, 1, 1, 1, (), loops=False)
    return Function(b"", description, "", datetime.now(UTC))


def asked(workers: Workers, survey: Survey = LONG) -> Contest:
    return Contest(workers.pool, function(), {Mode.FORWARD: COLUMNS, Mode.REVERSE: ROWS}, strategy.by_mode(survey), PROBLEM, survey)


def planned(contest: Contest) -> Plan:
    return strategy.jacobian(PROBLEM, contest.corrected(), workers=2)


async def test_long_work_begins_with_a_tile_of_each_mode_and_follows_what_they_took(workers: Workers) -> None:
    workers.answers = {Kind.FORWARD: 0.2, Kind.REVERSE: 0.02}
    contest = asked(workers)
    before = planned(contest)
    assert await contest.measured(before, COLUMNS, ())
    assert workers.kinds == [Kind.FORWARD, Kind.REVERSE]
    assert all(task.count <= task.kernel.width <= 8 for task in workers.tasks), "small ones"
    after = planned(contest)
    assert (before.mode, after.mode) == (Mode.FORWARD, Mode.REVERSE)
    assert after.seconds == pytest.approx(280 * 0.02)
    assert [option.verdict.endswith("(measured)") for option in after.considered] == [True, True]
    assert not await contest.measured(after, COLUMNS, ()), "once is enough"


async def test_a_call_does_not_wait_for_a_mode_that_takes_as_long_as_all_the_work(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    workers.answers, workers.compile_seconds = {Kind.FORWARD: 0.2, Kind.REVERSE: 0.02}, 0.0
    contest = asked(workers)
    workers.slow = frozenset({Kind.REVERSE})
    monkeypatch.setattr(tuning, "_WORTH_SECONDS", 0.01)
    plan = planned(contest)
    before = replace(plan, legs=(replace(plan.legs[0], seconds=0.1),))
    assert await asyncio.wait_for(contest.measured(before, COLUMNS, ()), 30)
    assert (workers.kinds, planned(contest).mode) == ([Kind.FORWARD, Kind.REVERSE], Mode.FORWARD)
    assert not await contest.measured(before, COLUMNS, ()), "there is one under way"
    workers.release()
    await until(lambda: planned(contest).mode is Mode.REVERSE)
    assert workers.ended == 0


async def test_what_is_soon_done_or_not_in_doubt_is_not_measured(workers: Workers) -> None:
    contest = asked(workers, SHORT)
    assert not await contest.measured(planned(contest), COLUMNS, ())
    far = asked(workers, Survey(LONG.value, LONG.forward, Cost(9e9, 0, 8)))
    assert not await far.measured(planned(far), COLUMNS, ())
    assert workers.tasks == []
    assert contested(planned(contest))
    assert not contested(planned(far))
    assert not contested(strategy.jacobian(PROBLEM, Survey(LONG.value, LONG.forward, Fault(Reason.MODE_UNAVAILABLE, "none")), workers=2))


async def test_small_calls_are_planned_by_estimates_alone_however_far_off_they_are(workers: Workers) -> None:
    contest = asked(workers, SHORT)
    leg = planned(contest).legs[0]
    contest.function.tuner(COLUMNS, "cpu", leg).record(leg.tile, leg.tile, 0.1, 0.05)
    assert contest.corrected() is SHORT


async def test_compiling_that_takes_as_long_as_the_work_is_not_done_for_a_trial(workers: Workers) -> None:
    workers.answers, workers.compile_seconds = {Kind.FORWARD: 0.1, Kind.REVERSE: 0.001}, 10.0
    contest = asked(workers)
    assert await contest.measured(planned(contest), COLUMNS, ())
    assert workers.kinds == [Kind.FORWARD]
    assert planned(contest).mode is Mode.FORWARD


async def test_work_that_comes_again_is_measured_in_the_end(workers: Workers) -> None:
    workers.answers = {Kind.FORWARD: 0.001, Kind.REVERSE: 0.00001}
    contest = asked(workers, SHORT)
    for _ in range(20):
        plan = planned(contest)
        await contest.measured(plan, COLUMNS, ())
        (leg,) = plan.legs
        kernel, a_seed = (COLUMNS, 0.001) if leg.mode is Mode.FORWARD else (ROWS, 0.00001)
        contest.function.tuner(kernel, "cpu", leg).record(leg.tile, leg.tile, a_seed * leg.passes, 0.1)
    assert workers.kinds == [Kind.REVERSE], "columns had been measured on the way"
    assert planned(contest).mode is Mode.REVERSE


async def test_tiles_of_both_modes_in_one_bicoloured_derivative_measure_both(workers: Workers) -> None:
    contest = asked(workers)
    for kernel, leg, a_seed in ((COLUMNS, Leg(Mode.FORWARD, 20, tile=4), 0.2), (ROWS, Leg(Mode.REVERSE, 20, tile=4), 0.02)):
        for _ in range(5):
            contest.function.tuner(replace(kernel, coloured=True), "cpu", leg).record(4, 4, 4 * a_seed, 0.1)
    plan = planned(contest)
    assert (plan.mode, plan.seconds) == (Mode.REVERSE, pytest.approx(280 * 0.02))
    assert [option.verdict.endswith("(measured)") for option in plan.considered] == [True, True]
    assert workers.tasks == []


async def test_tiles_of_second_derivatives_correct_their_price_and_not_that_of_first_ones(workers: Workers) -> None:
    kernels = {mode: replace(COLUMNS, kind=Kind.HESSIAN, inner=mode.value) for mode in Mode}
    known = function()
    first = Contest(workers.pool, known, {Mode.FORWARD: COLUMNS, Mode.REVERSE: ROWS}, strategy.by_mode(LONG), PROBLEM, LONG)
    contest = Contest(workers.pool, known, kernels, strategy.second(PROBLEM, LONG), PROBLEM, LONG)
    before = strategy.hessian(PROBLEM, contest.corrected(), workers=2)
    assert before.inner is Mode.FORWARD
    (leg,) = before.legs
    known.tuner(replace(kernels[before.inner], coloured=True), "cpu", leg).record(leg.tile, leg.tile, leg.tile * 10.0, 0.1)
    after = strategy.hessian(PROBLEM, contest.corrected(), workers=2)
    assert (after.inner, after.seconds) == (before.inner, pytest.approx(300 * 10.0)), "the other mode is taken to be off by as much"
    assert after.considered[0].verdict == f"{before.considered[0].verdict} (measured)"
    assert first.corrected() is LONG


async def test_a_mode_that_fails_is_not_tried_again_and_does_not_fail_the_call(workers: Workers) -> None:
    workers.answers = {Kind.FORWARD: 0.1, Kind.REVERSE: Fault(Reason.POISONED, "it ended three workers")}
    contest = asked(workers)
    assert await contest.measured(planned(contest), COLUMNS, ())
    assert not await contest.measured(planned(contest), COLUMNS, ())
    assert workers.kinds == [Kind.FORWARD, Kind.REVERSE]
    assert planned(contest).mode is Mode.FORWARD


async def test_a_want_of_workers_is_no_verdict(workers: Workers) -> None:
    workers.answers = {Kind.FORWARD: 0.1, Kind.REVERSE: Fault(Reason.NO_WORKERS, "none")}
    contest = asked(workers)
    await contest.measured(planned(contest), COLUMNS, ())
    workers.answers[Kind.REVERSE] = 0.001
    assert await contest.measured(planned(contest), COLUMNS, ())
    assert planned(contest).mode is Mode.REVERSE


async def test_a_call_that_is_cancelled_leaves_the_measuring_to_the_next_and_others_do_not_wait_for_it(workers: Workers) -> None:
    workers.answers, workers.slow = {Kind.FORWARD: 0.1, Kind.REVERSE: 0.001}, frozenset({Kind.FORWARD})
    contest = asked(workers)
    first = asyncio.create_task(contest.measured(planned(contest), COLUMNS, ()))
    await until(lambda: bool(workers.tasks))
    assert not await contest.measured(planned(contest), COLUMNS, ()), "another call is at it"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await until(lambda: workers.ended == 1)  # and its tile with it
    workers.slow = frozenset()
    assert await contest.measured(planned(contest), COLUMNS, ())
    assert planned(contest).mode is Mode.REVERSE
