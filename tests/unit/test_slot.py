"""Which process a piece of work is given to, and for which it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from jacloom_server.slot import PATIENCE, Run, Slot, State, choose, reserve
from jacloom_server.work import Assignment, Desk, Errand, Lane
from jacloom_worker.launch import Role, Seat


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def errand(loop: asyncio.AbstractEventLoop, *, background: bool = False, since: float = 0.0, served: float = 0.0) -> Errand:
    assignment = Assignment(Desk.TILES, "work", lambda *_: Future(), "f" * 64, background=background)
    return Errand(assignment, Lane(served=served), loop.create_future(), since)


def slots(*roles: Role) -> list[Slot]:
    return [Slot(Seat(role, index), State.READY) for index, role in enumerate(roles)]


def give(slot: Slot, work: Errand) -> None:
    slot.runs.append(Run(work, slot, 0.0, 60.0, loaded=False))


def test_work_in_the_background_waits_for_a_process_that_has_nothing_to_do(loop: asyncio.AbstractEventLoop) -> None:
    (slot,) = slots(Role.NARROW)
    give(slot, errand(loop))
    assert choose(errand(loop), [slot], 0.0) is slot
    assert choose(errand(loop, background=True), [slot], 0.0) is None
    slot.runs.clear()
    assert choose(errand(loop, background=True), [slot], 0.0) is slot


def test_work_in_the_background_does_not_make_do_with_another_role(loop: asyncio.AbstractEventLoop) -> None:
    narrow, wide = slots(Role.NARROW, Role.WIDE)
    narrow.state = State.DOWN
    assert choose(errand(loop), [narrow, wide], 0.0) is wide
    assert choose(errand(loop, background=True), [narrow, wide], 0.0) is None
    assert choose(errand(loop, background=True), [wide], 0.0) is wide, "there is no other role, and will be none"


def test_a_job_that_has_waited_has_its_turn_beside_calls_without_end(loop: asyncio.AbstractEventLoop) -> None:
    (slot,) = slots(Role.NARROW)
    give(slot, errand(loop))
    unit = errand(loop, background=True, since=10.0)
    reserve(unit, [slot], 10.0 + PATIENCE)
    assert choose(errand(loop), [slot], 0.0) is slot, "it has not waited long enough"
    reserve(unit, [slot], 10.1 + PATIENCE)
    assert choose(errand(loop), [slot], 0.0) is None, "the process is kept for the job"
    slot.runs.clear()
    assert choose(unit, [slot], 0.0) is slot
    unit.future.set_result(None)
    assert choose(errand(loop), [slot], 0.0) is slot


def test_a_job_that_was_just_served_does_not_keep_a_process(loop: asyncio.AbstractEventLoop) -> None:
    (slot,) = slots(Role.NARROW)
    give(slot, errand(loop))
    reserve(errand(loop, background=True, since=0.0, served=99.5), [slot], 100.0)
    assert choose(errand(loop), [slot], 100.0) is slot
