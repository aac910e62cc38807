"""The schedule of checkpoints against the least number of repeated steps, found by trying everything."""

from __future__ import annotations

from functools import cache

import pytest

from jacloom_worker.revolve import LEAST_SLOTS, split

_split = cache(lambda length, free, slots: int(split(length, free, slots)))


@cache
def least(length: int, free: int) -> int:
    """Returns how many steps ahead it takes at least to reverse ``length`` steps with ``free`` slots, the first of which holds the start."""
    if length < 2 or free == 1:
        return length * (length - 1) // 2
    return min(first + least(length - first, free - 1) + least(first, free) for first in range(1, length))


@cache
def taken(length: int, free: int, slots: int) -> int:
    """Returns how many steps ahead the schedule takes."""
    first = _split(length, free, slots)
    if length < 2 or first == length:
        return length * (length - 1) // 2
    return first + taken(length - first, free - 1, slots) + taken(first, free, slots)


@pytest.mark.parametrize("slots", [LEAST_SLOTS, 11])
def test_no_schedule_repeats_fewer_steps(slots: int) -> None:
    for length in (*range(2, 20), 37, 45, 46, 64):
        assert taken(length, slots, slots) == least(length, slots)


def test_with_a_slot_for_each_step_none_is_repeated() -> None:
    assert taken(11, 11, 11) == 10


@pytest.mark.parametrize(("length", "free", "expected"), [(1, 8, 1), (5, 1, 5), (2, 2, 1)])
def test_no_checkpoint_where_there_is_no_place_or_no_need(length: int, free: int, expected: int) -> None:
    assert _split(length, free, 8) == expected


def test_the_longest_loop_there_can_be() -> None:
    assert 1 <= _split((1 << 31) - 1, LEAST_SLOTS, LEAST_SLOTS) < (1 << 31) - 1
