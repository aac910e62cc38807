"""Colourings: few passes, from which every entry of a pattern can be told."""

from __future__ import annotations

import numpy as np
import pytest
from asdex import SparsityPattern
from asdex.coloring import color_symmetric
from scipy.sparse import csr_array
from unit.patterns import arrowhead, banded, box_stencil, brusselator, by_either_or_both, saddle, scattered, star_stencil, told

from jacloom_worker.pattern.colouring import Colouring, by_columns, by_rows, symmetric

PATTERNS = {
    "band": banded(9, (-1, 0, 1)),
    "arrowhead": arrowhead(7),
    "five points": star_stencil(4, 5),
    "nine points": box_stencil(5, 4),
    "two unknowns a point": brusselator(6),
    "saddle point": saddle(12, 5),
    "wide": scattered(30, 50, 0),
    "tall": scattered(50, 30, 1),
    "an entry": csr_array(np.array([[0, 0, 1], [0, 0, 0]], bool)),
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_every_entry_can_be_told(pattern: csr_array) -> None:
    for made in (by_columns, by_rows, by_either_or_both):
        assert told(pattern, made(pattern)).all()
    square = csr_array(pattern.T.astype(np.int64) @ pattern).astype(bool)
    square.sort_indices()
    for whole in (square, pattern if pattern.shape[0] == pattern.shape[1] else square):
        assert told(whole, symmetric(whole), mirrored=True).all()


def test_the_checker_sees_entries_that_mix() -> None:
    pattern = csr_array(np.array([[1, 1, 0], [0, 1, 1]], bool))
    none = np.full(2, -1, np.int32)
    assert told(pattern, Colouring(np.array([0, 0, 1], np.int32), none)).tolist() == [False, False, True, True]
    assert told(pattern, Colouring(np.array([0, -1, 0], np.int32), np.array([0, -1], np.int32))).tolist() == [True, True, False, True]


def test_as_many_passes_as_the_structure_needs() -> None:
    assert by_columns(banded(1000, (-1, 0, 1))).forward == 3
    assert by_rows(banded(1000, (-2, -1, 0, 1, 2))).reverse == 5
    assert by_columns(banded(4, (0,))).forward == 1


def test_an_arrowhead_takes_a_handful_of_passes_where_one_direction_takes_them_all() -> None:
    pattern = arrowhead(2000)
    assert by_columns(pattern).forward == by_rows(pattern).reverse == 2000
    found = by_either_or_both(pattern)
    assert found.forward + found.reverse == 3
    assert told(pattern, found).all()
    several = by_either_or_both(arrowhead(500, 4))
    assert several.forward + several.reverse <= 9


def test_the_price_of_a_pass_decides() -> None:
    pattern = scattered(40, 60, 2)
    columns, rows = by_columns(pattern).forward, by_rows(pattern).reverse
    assert (by_either_or_both(pattern, price=1e6).reverse, by_either_or_both(pattern, price=1e-6).forward) == (0, 0)
    assert by_either_or_both(pattern, price=1e6).forward == columns
    assert by_either_or_both(pattern, price=1e-6).reverse == rows


def test_a_symmetric_pattern_takes_fewer() -> None:
    pattern = arrowhead(50)
    found = symmetric(pattern)
    assert found.forward == 2
    assert told(pattern, found, mirrored=True).all()


def test_a_symmetric_pattern_never_takes_more() -> None:
    # Mirror images save nothing in full blocks: star colouring alone takes 11.
    assert symmetric(box_stencil(20, 21)).forward == by_columns(box_stencil(20, 21)).forward == 9


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 3)])
def test_nothing_to_tell(shape: tuple[int, int]) -> None:
    empty = csr_array(shape, dtype=bool)
    for made in (by_columns, by_rows, by_either_or_both):
        found = made(empty)
        assert (found.forward, found.reverse, found.columns.shape, found.rows.shape) == (0, 0, shape[1:], shape[:1])


@pytest.mark.parametrize("diagonal", ["full", "empty", "random"])
def test_star_colours_beside_those_of_asdex(diagonal: str) -> None:
    random = np.random.default_rng(3)
    fewer = 0
    for size in range(2, 42):
        dense = random.random((size, size)) < random.uniform(0, 0.25)
        dense |= dense.T
        if diagonal != "random":
            dense[np.diag_indices(size)] = diagonal == "full"
        pattern = csr_array(dense)
        found = symmetric(pattern)
        assert told(pattern, found, mirrored=True).all()
        assert set(found.columns[found.columns >= 0]) == set(range(found.forward))
        theirs = color_symmetric(SparsityPattern.from_dense(dense))[1] if pattern.nnz else 0
        assert found.forward <= theirs
        fewer += found.forward < theirs
    assert fewer > 10
