"""Errands of several calls: in order within each, in turns among them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from jacloom_server.turns import Turns
from jacloom_server.work import Assignment, Desk, Errand, Lane


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


Make = Callable[[Lane, str], Errand]


@pytest.fixture
def make(loop: asyncio.AbstractEventLoop) -> Make:
    def made(lane: Lane, label: str) -> Errand:
        return Errand(Assignment(Desk.TILES, label, lambda *_: pytest.fail("nothing is sent")), lane, loop.create_future(), 0.0)

    return made


def handed_out(turns: Turns, room: int, refused: str = "") -> str:
    """Returns the labels of what is taken where there is room for so many, and none for those refused."""
    taken: list[str] = []

    def place(errand: Errand) -> bool:
        if len(taken) == room or errand.assignment.label in refused:
            return False
        taken.append(errand.assignment.label)
        return True

    turns.hand_out(place)
    return "".join(taken)


def filled(make: Make) -> tuple[Turns, Lane, Lane]:
    turns, many, few = Turns(), Lane(), Lane()
    for label in "abcd":
        turns.add(make(many, label))
    for label in "xy":
        turns.add(make(few, label))
    return turns, many, few


def firsts(turns: Turns) -> str:
    return "".join(errand.assignment.label for errand in turns.firsts())


def test_lanes_take_turns_and_go_on_where_they_were(make: Make) -> None:
    turns, many, few = filled(make)
    assert firsts(turns) == "ax"
    assert handed_out(turns, 3) == "axb"
    assert handed_out(turns, 9) == "ycd"
    assert (firsts(turns), len(many.queue), len(few.queue)) == ("", 0, 0)
    assert handed_out(turns, 9) == ""


def test_an_errand_without_a_place_keeps_its_lane_waiting_and_no_other(make: Make) -> None:
    turns, many, _ = filled(make)
    assert handed_out(turns, 9, refused="b") == "axy"
    assert [errand.assignment.label for errand in many.queue] == ["b", "c", "d"]
    assert handed_out(turns, 9) == "bcd"


def test_what_is_put_back_is_first_in_its_lane(make: Make) -> None:
    turns, many, few = filled(make)
    handed_out(turns, 2)
    turns.put_back(make(many, "a"))
    assert handed_out(turns, 9) == "aybcd"
    turns.put_back(make(few, "y"))
    turns.add(make(few, "z"))
    assert handed_out(turns, 9) == "yz"


def test_what_is_taken_out_waits_no_longer(make: Make) -> None:
    turns, _, few = filled(make)
    assert [errand.assignment.label for errand in turns.take_out(lambda errand: errand.assignment.label in "bx")] == ["b", "x"]
    assert [errand.assignment.label for errand in turns.take_out(lambda errand: errand.lane is few)] == ["y"]
    assert firsts(turns) == "a"
    turns.add(make(few, "z"))
    assert handed_out(turns, 9) == "azcd"
