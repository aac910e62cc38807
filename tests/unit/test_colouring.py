"""Colourings: few passes, from which every entry of a pattern can be told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array, eye_array, random_array

from jacloom_worker.pattern.colouring import Colouring, by_both, by_columns, by_rows, symmetric


def banded(size: int, offsets: tuple[int, ...]) -> csr_array:
    found = csr_array((size, size), dtype=bool)
    for offset in offsets:
        found = found + eye_array(size, k=offset, dtype=bool, format="csr")
    return csr_array(found)


def arrowhead(size: int, lines: int = 1) -> csr_array:
    """Returns a diagonal with some dense rows and as many dense columns."""
    inside = np.arange(size)
    rows = np.concatenate([inside, np.repeat(np.arange(lines), size), np.tile(inside, lines)])
    columns = np.concatenate([inside, np.tile(inside, lines), np.repeat(np.arange(lines), size)])
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))


def grid(side: int) -> csr_array:
    """Returns the five-point stencil on a square grid."""
    place = np.arange(side * side).reshape(side, side)
    pairs = [(place, place), (place[1:], place[:-1]), (place[:-1], place[1:]), (place[:, 1:], place[:, :-1]), (place[:, :-1], place[:, 1:])]
    rows, columns = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(side * side, side * side))


def scattered(m: int, n: int, seed: int) -> csr_array:
    return csr_array(random_array((m, n), density=0.05, rng=np.random.default_rng(seed)).astype(bool))


def told(pattern: csr_array, found: Colouring, mirrored: bool = False) -> np.ndarray:
    """Returns for each entry whether some pass gives it alone."""
    entries = pattern.tocoo()
    rows, columns = entries.row.astype(np.int64), entries.col.astype(np.int64)

    def alone(line: np.ndarray, colour: np.ndarray) -> np.ndarray:
        keys = np.where(colour >= 0, line << 32 | colour, -1)
        _, places, counts = np.unique(keys, return_inverse=True, return_counts=True)
        return (counts[places] == 1) & (keys >= 0)

    forward = alone(rows, found.columns[columns])
    if mirrored:  # the entry (j, i) stands in for (i, j)
        order = np.lexsort((rows, columns))
        mirror = np.empty_like(order)
        mirror[np.lexsort((columns, rows))] = order
        return forward | forward[mirror]
    return forward | alone(columns, found.rows[rows])


@pytest.mark.parametrize("pattern", [banded(9, (-1, 0, 1)), arrowhead(7), grid(4), scattered(30, 50, 0), scattered(50, 30, 1)])
def test_every_entry_can_be_told(pattern: csr_array) -> None:
    for made in (by_columns, by_rows, by_both):
        assert told(pattern, made(pattern)).all()


def test_as_many_passes_as_the_structure_needs() -> None:
    assert by_columns(banded(1000, (-1, 0, 1))).forward == 3
    assert by_rows(banded(1000, (-2, -1, 0, 1, 2))).reverse == 5
    assert by_columns(banded(4, (0,))).forward == 1


def test_the_five_point_stencil() -> None:
    # Five is the least: the middle of a stencil has five columns in its row. Largest first, as published for it, comes to a few more.
    assert 5 <= by_columns(grid(30)).forward <= 8


def test_an_arrowhead_takes_a_handful_of_passes_where_one_direction_takes_them_all() -> None:
    pattern = arrowhead(2000)
    assert by_columns(pattern).forward == by_rows(pattern).reverse == 2000
    found = by_both(pattern)
    assert found.forward + found.reverse == 3
    assert told(pattern, found).all()
    several = by_both(arrowhead(500, 4))
    assert several.forward + several.reverse <= 9


def test_the_price_of_a_pass_decides() -> None:
    pattern = scattered(40, 60, 2)
    columns, rows = by_columns(pattern).forward, by_rows(pattern).reverse
    assert (by_both(pattern, price=1e6).reverse, by_both(pattern, price=1e-6).forward) == (0, 0)
    assert by_both(pattern, price=1e6).forward == columns
    assert by_both(pattern, price=1e-6).reverse == rows


def test_a_symmetric_pattern_takes_fewer() -> None:
    pattern = arrowhead(50)
    found = symmetric(pattern)
    assert found.forward == 2
    assert told(pattern, found, mirrored=True).all()
    assert symmetric(grid(12)).forward <= by_columns(grid(12)).forward
    assert told(grid(12), symmetric(grid(12)), mirrored=True).all()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3)])
def test_nothing_to_tell(shape: tuple[int, int]) -> None:
    empty = csr_array(shape, dtype=bool)
    for made in (by_columns, by_rows, by_both):
        found = made(empty)
        assert (found.forward, found.reverse, found.columns.shape, found.rows.shape) == (0, 0, shape[1:], shape[:1])
