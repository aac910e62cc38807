"""How jobs are cut: every seed of every point in exactly one unit, every unit whole chunks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jacloom_server.jobs.division import CHUNK_BYTES, UNIT_SECONDS, Division, leaf_slabs, points_a_unit, slabs

SHAPES = st.lists(st.integers(1, 7), max_size=4).map(tuple)


@given(SHAPES, st.integers(1, 400))
def test_slabs_of_a_leaf_are_its_chunks_one_after_the_other(shape: tuple[int, ...], seeds: int) -> None:
    chunk, ranges = leaf_slabs(shape, seeds)
    assert len(chunk) == len(shape)
    assert math.prod(chunk) <= seeds or math.prod(chunk) == 1
    numbers = np.arange(math.prod(shape)).reshape(shape)
    found = []
    for start, count in ranges:
        first = np.unravel_index(start, shape)
        # A slab is a box that begins where a chunk does, and ends where it does or at the edge of the array.
        assert all(at % extent == 0 for at, extent in zip(first, chunk, strict=True))
        box = numbers[tuple(slice(at, at + extent) for at, extent in zip(first, chunk, strict=True))]
        np.testing.assert_array_equal(box.ravel(), np.arange(start, start + count))
        found.append(count)
    assert sum(found) == numbers.size
    assert [start for start, _ in ranges] == list(np.cumsum([0, *found])[:-1])


def test_slabs_of_several_leaves_number_the_entries_of_all() -> None:
    chunks, ranges = slabs([(3, 1000), (), (0, 5), (70,)], 64)
    assert chunks == [(1, 64), (), (1, 5), (64,)]
    assert ranges[:2] == ((0, 64), (64, 64))
    assert ranges[15] == (960, 40)
    assert ranges[16] == (1000, 64)
    assert ranges[-3:] == ((3000, 1), (3001, 64), (3065, 6))
    assert sum(count for _, count in ranges) == 3071


def test_units_of_points() -> None:
    division = Division(points=10, count=4)
    assert division.units == 3
    assert [(division.unit(number).first, division.unit(number).count) for number in range(3)] == [(0, 4), (4, 4), (8, 2)]
    assert division.units_of(3, 2) == range(2)
    assert division.units_of(8, 2) == range(2, 3)
    assert division.units_of(8, 0) == range(0)


def test_units_of_seeds() -> None:
    division = Division(points=2, count=1, slabs=((0, 5), (5, 3)))
    assert division.units == 4
    assert [(unit.first, unit.count, unit.start, unit.seeds) for unit in map(division.unit, range(4))] == [
        (0, 1, 0, 5),
        (0, 1, 5, 3),
        (1, 1, 0, 5),
        (1, 1, 5, 3),
    ]
    assert division.units_of(1, 1) == range(2, 4)


@pytest.mark.parametrize(
    ("points", "seconds", "nbytes", "together", "workers", "expected"),
    [
        (100_000, UNIT_SECONDS / 1000, 8, 64, 2, 960),  # as long as a unit should take, in whole calls
        (100_000, 1e-9, CHUNK_BYTES // 100, 8, 2, 96),  # as much as a chunk should have
        (80, 1e-6, 8, 64, 2, 10),  # so that all workers have some
        (3, 100.0, 8, 1, 2, 1),  # never none
    ],
)
def test_points_of_a_unit(points: int, seconds: float, nbytes: int, together: int, workers: int, expected: int) -> None:
    assert points_a_unit(points, seconds, nbytes, together, workers) == expected
