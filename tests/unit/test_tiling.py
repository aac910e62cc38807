"""Cutting seeds into tiles, tiles into leaves, matrices into rectangles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jacloom_server.tiling import Cutter, Rectangle, Segment, Tile, rectangles, segments


def test_cutter_hands_out_every_seed_once_and_marks_the_padding() -> None:
    cutter = Cutter(10)
    assert [cutter.take(4), cutter.take(3), cutter.take(8)] == [Tile(0, 4, 4), Tile(4, 3, 3), Tile(7, 3, 8)]
    assert cutter.left == 0
    assert str(Tile(4, 3, 3)) == "seeds 4 to 6"


def test_a_tile_that_was_given_back_is_handed_out_in_other_pieces() -> None:
    cutter = Cutter(9)
    first = cutter.take(4)
    cutter.take(2)
    cutter.give_back(first)
    assert cutter.left == 7
    assert [cutter.take(2), cutter.take(3), cutter.take(3)] == [Tile(0, 2, 2), Tile(2, 2, 3), Tile(6, 3, 3)]
    assert cutter.left == 0


def test_no_seeds() -> None:
    assert Cutter(0).left == 0


@pytest.mark.parametrize(
    ("sizes", "start", "count", "expected"),
    [
        ([3, 1, 2], 0, 6, [Segment(0, 0, 0, 3), Segment(1, 0, 3, 1), Segment(2, 0, 4, 2)]),
        ([3, 1, 2], 2, 3, [Segment(0, 2, 0, 1), Segment(1, 0, 1, 1), Segment(2, 0, 2, 1)]),
        ([0, 5, 0], 1, 2, [Segment(1, 1, 0, 2)]),
        ([4], 4, 0, []),
        ([], 0, 0, []),
    ],
)
def test_segments(sizes: list[int], start: int, count: int, expected: list[Segment]) -> None:
    assert segments(sizes, start, count) == expected


@pytest.mark.parametrize(
    ("shape", "itemsize", "most", "expected"),
    [
        ((5, 3), 8, 48, [Rectangle(0, 2, 0, 3), Rectangle(2, 2, 0, 3), Rectangle(4, 1, 0, 3)]),
        (
            (2, 7),
            8,
            24,
            [Rectangle(0, 1, 0, 3), Rectangle(0, 1, 3, 3), Rectangle(0, 1, 6, 1)] + [Rectangle(1, 1, c, w) for c, w in ((0, 3), (3, 3), (6, 1))],
        ),
        ((2, 2), 16, 8, [Rectangle(row, 1, column, 1) for row in (0, 1) for column in (0, 1)]),
        ((0, 4), 8, 8, []),
        ((4, 0), 8, 8, []),
        ((1, 1), 8, 1 << 20, [Rectangle(0, 1, 0, 1)]),
    ],
)
def test_rectangles(shape: tuple[int, int], itemsize: int, most: int, expected: list[Rectangle]) -> None:
    assert list(rectangles(*shape, itemsize, most)) == expected


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 16), st.integers(1, 200))
def test_rectangles_cover_once_and_stay_small(rows: int, columns: int, itemsize: int, most: int) -> None:
    counts = np.zeros((rows, columns), int)
    for cut in rectangles(rows, columns, itemsize, most):
        counts[cut.row : cut.row + cut.rows, cut.column : cut.column + cut.columns] += 1
        assert cut.rows * cut.columns * itemsize <= max(most, itemsize)
    assert (counts == 1).all()


@given(st.lists(st.integers(0, 6), max_size=5), st.data())
def test_segments_number_entries_as_seeds_do(sizes: list[int], data: st.DataObject) -> None:
    entries = [(leaf, entry) for leaf, size in enumerate(sizes) for entry in range(size)]
    start = data.draw(st.integers(0, len(entries)))
    count = data.draw(st.integers(0, len(entries) - start))
    found = [(cut.leaf, cut.first + step) for cut in segments(sizes, start, count) for step in range(cut.count)]
    assert found == entries[start : start + count]
    assert [cut.at for cut in segments(sizes, start, count)] == list(np.cumsum([0, *(cut.count for cut in segments(sizes, start, count))])[:-1])
