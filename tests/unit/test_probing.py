"""When a tile is computed for its time alone, with workers that take as long as told."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_server import strategy, tuning
from jacloom_server.function import Function
from jacloom_server.plan import Mode, Plan
from jacloom_server.probing import Question, contested
from jacloom_server.strategy import Problem
from jacloom_server.work import Assignment, Lane
from jacloom_worker.protocol import Cost, Done, Kernel, Kind, Survey, Task

COLUMNS = Kernel("f" * 64, Kind.FORWARD, (0,), (0,))
PROBLEM = Problem((Type("float64", (300,)),), (Type("float64", (280,)),), 300 * 280 * 8)
LONG = Survey(Cost(1e9, 0, 8), Cost(2e9, 0, 8), Cost(3e9, 0, 8))
"""30 s of columns, 42 s of rows."""
SHORT = Survey(Cost(1e6, 0, 8), Cost(2e6, 0, 8), Cost(3e6, 0, 8))


class Workers:
    """Stands for the pool: says what a tile took, by kind, or what it ends with."""

    def __init__(self, compile_seconds: float = 0.1, **answers: float | Fault) -> None:
        self.answers = answers
        self.compile_seconds = compile_seconds
        self.tasks: list[Task] = []
        self.closed = 0
        self.slow: Kind | None = None
        """The kind of tiles that come back later."""
        self.later = asyncio.Event()
        self.held = asyncio.Event()
        self.held.set()

    def ready(self, *_: object) -> int:
        return 0

    def workers_for_tiles(self) -> int:
        return 2

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        try:
            yield Lane()
        finally:
            self.closed += 1

    async def submit(self, _: Lane, assignment: Assignment) -> Done | Fault:
        assignment.send(SimpleNamespace(run=self._run), 1.0, False)  # type: ignore[arg-type]
        await self.held.wait()
        if self.tasks[-1].kernel.kind is self.slow:
            await self.later.wait()
        (task,) = self.tasks[-1:]
        answer = self.answers[task.kernel.kind.value]
        return answer if isinstance(answer, Fault) else Done((), answer * task.count, self.compile_seconds)

    def _run(self, task: Task, operands: object, lease: float) -> Future[Any]:
        self.tasks.append(task)
        return Future()

    @property
    def kinds(self) -> list[str]:
        return [task.kernel.kind.value for task in self.tasks]


def function() -> Any:
    made = SimpleNamespace(tuners=OrderedDict(), corrections=OrderedDict(), load=lambda: None)
    made.tuner = lambda *args: Function.tuner(made, *args)
    made.correction = lambda *args: Function.correction(made, *args)
    return made


def asked(workers: Workers, survey: Survey = LONG, known: Any = None) -> Question:
    return Question(workers, known or function(), COLUMNS, PROBLEM, survey)  # type: ignore[arg-type]


def planned(question: Question) -> Plan:
    return strategy.jacobian(PROBLEM, question.corrected(), workers=2)


async def test_long_work_begins_with_a_tile_of_each_mode_and_follows_what_they_took() -> None:
    workers = Workers(forward=0.2, reverse=0.02)
    question = asked(workers)
    before = planned(question)
    assert await question.measured(before, COLUMNS, ())
    assert workers.kinds == ["forward", "reverse"]
    assert all(task.count <= task.kernel.width <= 8 for task in workers.tasks), "small ones"
    after = planned(question)
    assert (before.mode, after.mode) == (Mode.FORWARD, Mode.REVERSE)
    assert after.seconds == pytest.approx(280 * 0.02)
    assert [option.verdict.endswith("(measured)") for option in after.considered] == [True, True]
    assert not await question.measured(after, COLUMNS, ()), "once is enough"


async def test_a_call_does_not_wait_for_a_mode_that_takes_as_long_as_all_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(0.0, forward=0.2, reverse=0.02)
    question = asked(workers)
    workers.slow, workers.later = Kind.REVERSE, asyncio.Event()
    monkeypatch.setattr(tuning, "_WORTH_SECONDS", 0.01)
    plan = planned(question)
    before = replace(plan, legs=(replace(plan.legs[0], seconds=0.1),))
    assert await asyncio.wait_for(question.measured(before, COLUMNS, ()), 30)
    assert (workers.kinds, workers.closed, planned(question).mode) == (["forward", "reverse"], 1, Mode.FORWARD)
    assert not await question.measured(before, COLUMNS, ()), "there is one under way"
    workers.later.set()
    while workers.closed < 2:
        await asyncio.sleep(0.01)
    assert planned(question).mode is Mode.REVERSE


async def test_what_is_soon_done_or_not_in_doubt_is_not_measured() -> None:
    workers = Workers()
    question = asked(workers, SHORT)
    assert not await question.measured(planned(question), COLUMNS, ())
    far = asked(workers, Survey(LONG.value, LONG.forward, Cost(9e9, 0, 8)))
    assert not await far.measured(planned(far), COLUMNS, ())
    assert workers.tasks == []
    assert contested(planned(question))
    assert not contested(planned(far))
    assert not contested(strategy.jacobian(PROBLEM, Survey(LONG.value, LONG.forward, Fault(Reason.MODE_UNAVAILABLE, "none")), workers=2))


async def test_small_calls_are_planned_by_estimates_alone_however_far_off_they_are() -> None:
    question = asked(Workers(), SHORT)
    leg = planned(question).legs[0]
    question.function.tuner(COLUMNS, "cpu", leg).record(leg.tile, leg.tile, 0.1, 0.05)
    assert question.corrected() is SHORT


async def test_compiling_that_takes_as_long_as_the_work_is_not_done_for_a_trial() -> None:
    workers = Workers(compile_seconds=10.0, forward=0.1, reverse=0.001)
    question = asked(workers)
    assert await question.measured(planned(question), COLUMNS, ())
    assert workers.kinds == ["forward"]
    assert planned(question).mode is Mode.FORWARD


async def test_work_that_comes_again_is_measured_in_the_end() -> None:
    workers = Workers(forward=0.001, reverse=0.00001)
    question = asked(workers, SHORT)
    for _ in range(20):
        plan = planned(question)
        await question.measured(plan, COLUMNS, ())
        (leg,) = plan.legs
        kernel = COLUMNS if leg.mode is Mode.FORWARD else Kernel(COLUMNS.function, Kind.REVERSE, (0,), (0,))
        a_seed = 0.001 if leg.mode is Mode.FORWARD else 0.00001
        question.function.tuner(kernel, "cpu", leg).record(leg.tile, leg.tile, a_seed * leg.passes, 0.1)
    assert workers.kinds == ["reverse"], "columns had been measured on the way"
    assert planned(question).mode is Mode.REVERSE


async def test_a_mode_that_fails_is_not_tried_again_and_does_not_fail_the_call() -> None:
    workers = Workers(forward=0.1, reverse=Fault(Reason.POISONED, "it ended three workers"))
    question = asked(workers)
    assert await question.measured(planned(question), COLUMNS, ())
    assert not await question.measured(planned(question), COLUMNS, ())
    assert workers.kinds == ["forward", "reverse"]
    assert planned(question).mode is Mode.FORWARD


async def test_a_want_of_workers_is_no_verdict() -> None:
    workers = Workers(forward=0.1, reverse=Fault(Reason.NO_WORKERS, "none"))
    question = asked(workers)
    await question.measured(planned(question), COLUMNS, ())
    workers.answers["reverse"] = 0.001
    assert await question.measured(planned(question), COLUMNS, ())
    assert planned(question).mode is Mode.REVERSE


async def test_a_call_that_is_cancelled_leaves_the_measuring_to_the_next_and_others_do_not_wait_for_it() -> None:
    workers = Workers(forward=0.1, reverse=0.001)
    workers.held.clear()
    question = asked(workers)
    first = asyncio.create_task(question.measured(planned(question), COLUMNS, ()))
    await asyncio.sleep(0)
    assert not await question.measured(planned(question), COLUMNS, ()), "another call is at it"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert workers.closed == 1, "and its tile with it"
    workers.held.set()
    assert await question.measured(planned(question), COLUMNS, ())
    assert planned(question).mode is Mode.REVERSE
