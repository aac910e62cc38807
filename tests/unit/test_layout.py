"""From colours to the order of entries: what passes along them give makes up the matrix again, whatever the colouring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array
from unit.patterns import by_either_or_both

from jacloom_worker import compressed
from jacloom_worker.pattern import colouring
from jacloom_worker.pattern.colouring import Colouring
from jacloom_worker.pattern.layout import arrange
from jacloom_worker.protocol import Part, Structure, Weighed

Colours = Callable[[csr_array], Colouring]


def pattern(*rows: str) -> csr_array:
    return csr_array(np.array([[entry == "x" for entry in row] for row in rows]).reshape(len(rows), -1))


def scattered(m: int, n: int) -> csr_array:
    return csr_array(random_array((m, n), density=0.1, rng=np.random.default_rng(m)).astype(bool))


def arranged(found: csr_array, colours: Colours, strategy: str = "any") -> Structure:
    made = colours(found)
    return arrange(found, made, (Weighed(strategy, made.forward, made.reverse, exact=True),))


def passes_of(part: Part, matrix: np.ndarray) -> np.ndarray:
    """Returns what the passes of a part give: sums of the columns, or rows, of one colour."""
    lines = matrix if part.mode == "forward" else matrix.T
    return np.stack([lines[:, part.colours == number].sum(axis=1) for number in range(part.passes)])


def entries(structure: Structure, matrix: np.ndarray) -> np.ndarray:
    found = [compressed.entries([passes_of(part, matrix)], part, 0, part.passes) for part in structure.parts]
    return np.concatenate([np.zeros(0), *found])


WIDE = pattern("xxxxx", "x....", ".x...")
TALL = csr_array(WIDE.T)
MIXED = pattern("xxxxxx", "xx....", "x.x...", "x..x..", "x...x.", "x....x", "x.....")
ONE = pattern("x")
EMPTY = [csr_array((3, 4), dtype=bool), csr_array((0, 4), dtype=bool), csr_array((3, 0), dtype=bool)]


@pytest.mark.parametrize("colours", [colouring.by_columns, colouring.by_rows, by_either_or_both])
@pytest.mark.parametrize("found", [WIDE, TALL, MIXED, ONE, scattered(20, 31), scattered(31, 20), *EMPTY], ids=lambda found: f"{found.shape}")
def test_passes_make_up_the_matrix(found: csr_array, colours: Colours) -> None:
    structure = arranged(found, colours)
    matrix = found.toarray() * np.arange(1.0, 1 + found.shape[0] * found.shape[1]).reshape(found.shape)
    values = entries(structure, matrix)
    assert (structure.entries, structure.shape) == (found.nnz, found.shape)
    assert sorted(structure.sources.tolist()) == list(range(found.nnz)), "each entry is computed once"
    made = csr_array((values[structure.sources], structure.indices, structure.pointers), found.shape)
    np.testing.assert_array_equal(made.toarray(), matrix)
    for part in structure.parts:
        assert part.passes > 0
        assert (part.bounds[0], part.bounds[-1]) == (0, len(part.lines))


@pytest.mark.parametrize("found", [MIXED, csr_array(MIXED.T)], ids=["tall", "wide"])
def test_a_dense_line_is_computed_as_a_line(found: csr_array) -> None:
    structure = arranged(found, by_either_or_both)
    assert [part.mode for part in structure.parts] == ["forward", "reverse"]
    assert sorted(part.passes for part in structure.parts) == [1, 2]


def test_written_out() -> None:
    structure = arranged(pattern("x.x", ".xx"), colouring.by_columns)
    (part,) = structure.parts
    assert (structure.pointers.tolist(), structure.indices.tolist()) == ([0, 2, 4], [0, 2, 1, 2])
    # The third column is longest, and so the first to be coloured: it has a pass of its own, the others share one.
    assert (part.mode, part.colours.tolist(), part.bounds.tolist()) in (
        ("forward", [1, 1, 0], [0, 2, 4]),
        ("forward", [0, 0, 1], [0, 2, 4]),
    )
    assert [(int(row), int(column)) for row, column in zip(part.lines, part.along, strict=True)] in (
        [(0, 2), (1, 2), (0, 0), (1, 1)],
        [(0, 0), (1, 1), (0, 2), (1, 2)],
    )
    assert (part.lines.dtype, part.along.dtype, part.bounds.dtype, structure.sources.dtype) == (np.int32, np.int32, np.int64, np.int32)


class TestSymmetric:
    ARROW = pattern("xxxxx", "xx...", "x.x..", "x..x.", "x...x")
    BLOCKS = pattern("xxx..", "xx...", "x.x..", "...xx", "...xx")
    LINES = pattern("xx...", "xxx..", ".xxx.", "..xxx", "...xx")

    @pytest.mark.parametrize("found", [ARROW, BLOCKS, LINES, ONE, csr_array((4, 4), dtype=bool), csr_array((0, 0), dtype=bool)])
    def test_an_entry_may_be_read_as_its_mirror_image(self, found: csr_array) -> None:
        structure = arranged(found, colouring.symmetric, "star-coloured")
        half = found.toarray() * np.arange(1.0, 1 + found.shape[0] ** 2).reshape(found.shape)
        matrix = half + half.T
        values = entries(structure, matrix)
        made = csr_array((values[structure.sources], structure.indices, structure.pointers), found.shape)
        np.testing.assert_array_equal(made.toarray(), matrix)
        assert len(values) == structure.entries <= found.nnz

    def test_an_arrowhead_in_two_passes_of_which_few_entries_are_sent(self) -> None:
        structure = arranged(self.ARROW, colouring.symmetric, "star-coloured")
        assert (structure.passes, structure.entries, len(structure.indices)) == (2, 9, 13)

    @pytest.mark.parametrize(("found", "pairs"), [(ARROW, 9), (BLOCKS, 8), (LINES, 9)])
    def test_of_two_mirror_images_one_is_sent(self, found: csr_array, pairs: int) -> None:
        for colours in (colouring.symmetric, colouring.by_columns):
            assert arranged(found, colours, "star-coloured").entries == pairs

    def test_nothing_takes_no_pass(self) -> None:
        assert arranged(csr_array((4, 4), dtype=bool), colouring.symmetric, "star-coloured").parts == ()


class TestDigest:
    def test_the_same_for_the_same(self) -> None:
        first, second = (arranged(scattered(20, 31), colouring.by_columns) for _ in range(2))
        assert first.digest == second.digest
        assert len(first.digest) == 64
        assert replace(second, strategy="other").digest == first.digest

    @pytest.mark.parametrize("found", [pattern("x..", ".x."), pattern(".x..", "..x.", "x...", "...x")], ids=["diagonal", "permuted"])
    def test_another_mode_is_another_structure_though_entries_come_in_the_same_order(self, found: csr_array) -> None:
        columns, rows = arranged(found, colouring.by_columns), arranged(found, colouring.by_rows)
        assert columns.sources.tolist() == rows.sources.tolist()
        assert columns.parts[0].bounds.tolist() == rows.parts[0].bounds.tolist()
        assert columns.digest != rows.digest

    def test_other_entries_shapes_and_colours_are_others(self) -> None:
        wide = arranged(pattern("x..", ".x."), colouring.by_columns)
        apart = Colouring(np.array([1, 0, -1], np.int32), np.full(2, -1, np.int32))
        others = [
            arranged(pattern("x..", "..x"), colouring.by_columns),
            arranged(pattern("x...", ".x.."), colouring.by_columns),
            arranged(pattern("x..", ".x.", "..."), colouring.by_columns),
            arranged(pattern("x..", ".x."), lambda _: apart),
        ]
        assert len({wide.digest, *(other.digest for other in others)}) == 5
