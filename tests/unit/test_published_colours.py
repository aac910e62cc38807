"""Counts of colours next to those that were published, and to the least that there can be.

The table is that of ColPack (Gebremedhin, Nguyen, Patwary and Pothen, "ColPack: Software for graph coloring and related problems in scientific
computing", 2013, tables VI and VII) and, where only a natural order is given, of "What Color Is Your Jacobian?" (Gebremedhin, Manne and Pothen,
2005, table 3.2), as SparseMatrixColorings.jl has them in its tests. The rule: no more colours than the best of the three orders that we try. The
matrices are those of the SuiteSparse collection and not kept here; ``--matrices FOLDER`` compares those in a folder.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, mmread
from scipy.sparse import csr_array
from unit.patterns import arrowhead, banded, box_stencil, brusselator, saddle, star_stencil, told

from jacloom_worker.pattern.colouring import by_both, by_columns, by_rows, symmetric

with (Path(__file__).parent / "published_colours.csv").open() as file:
    PUBLISHED = list(csv.DictReader(file))


def stored(folder: Path, name: str) -> csr_array | None:
    """Returns the pattern of a matrix, explicit zeros included, or None if the folder does not have it."""
    if (found := folder / f"{name}.mat").exists():
        problem = loadmat(found)["Problem"][0, 0]
        parts = [csr_array(problem[part]) for part in ("A", "Zeros") if part in problem.dtype.names]
    elif (found := folder / f"{name}.mtx").exists():
        parts = [csr_array(mmread(found))]
    else:
        return None
    whole = [csr_array((np.ones(part.nnz, np.int8), part.indices, part.indptr), part.shape) for part in parts]
    return csr_array(sum(whole[1:], whole[0])).astype(bool)


@pytest.mark.parametrize("row", PUBLISHED, ids=[f"{row['matrix']}-{row['lines']}" for row in PUBLISHED])
def test_never_more_than_published(row: dict[str, str], request: pytest.FixtureRequest) -> None:
    folder = request.config.getoption("--matrices")
    pattern = None if folder is None else stored(folder, row["matrix"].rpartition("/")[2])
    if pattern is None:
        pytest.skip("needs this matrix in the folder that --matrices names")
    assert (*pattern.shape, pattern.nnz) == tuple(int(row[key]) for key in ("rows", "columns", "entries"))
    found = by_columns(pattern) if row["lines"] == "columns" else by_rows(pattern)
    assert told(pattern, found).all()
    assert found.forward + found.reverse <= min(int(row[order]) for order in ("natural", "largest_first", "smallest_last") if row[order])


class TestLeast:
    """Patterns by construction, coloured with the fewest colours there are: as many as the longest line has entries."""

    @pytest.mark.parametrize("width", [5, 11, 21])
    def test_bands(self, width: int) -> None:
        # Direct recovery of a band, symmetric or not, takes its width: Coleman and Moré (1984); star colours 2 * (width // 2) + 1.
        pattern = banded(5000, range(-(width // 2), width // 2 + 1))
        assert by_columns(pattern).forward == by_rows(pattern).reverse == symmetric(pattern).forward == width

    def test_boxes_of_grids(self) -> None:
        assert by_columns(box_stencil(50, 40)).forward == symmetric(box_stencil(50, 40)).forward == 9
        assert by_columns(box_stencil(15, 14, 13)).forward == symmetric(box_stencil(15, 14, 13)).forward == 27

    def test_star_colours_of_a_plane_grid(self) -> None:
        # Fertin, Raspaud and Reed, "Star coloring of graphs" (2004): five for all but the smallest grids.
        assert symmetric(star_stencil(30, 40)).forward == 5

    def test_a_closed_chain(self) -> None:
        # Three columns follow each other round and round only where three divides their number.
        for size, least in ((999, 3), (1000, 4), (1001, 4)):
            assert by_columns(star_stencil(size, periodic=True)).forward == least


class TestGreedy:
    """Patterns whose least is below what greedy orders reach: no more than these, which were published or are the best of the orders alone."""

    def test_points_of_a_plane_grid(self) -> None:
        assert by_columns(star_stencil(100, 100)).forward <= 7
        assert by_columns(star_stencil(100, 100, periodic=True)).forward <= 9

    def test_points_of_a_grid_in_space(self) -> None:
        assert by_columns(star_stencil(20, 20, 20)).forward <= 11
        assert symmetric(star_stencil(20, 20, 20)).forward <= 11

    def test_two_unknowns_at_each_point(self) -> None:
        # The orders alone take 11 or 12; the rest is saved by colouring again.
        assert by_columns(brusselator(128)).forward <= 10


class TestExamples:
    """Examples of the papers and of SparseMatrixColorings.jl, with their counts."""

    def test_star_colours(self) -> None:
        what_color_4_1 = [[0, 1], [0, 1, 2, 4, 5], [1, 2, 3], [2, 3, 5], [1, 4], [1, 3, 5]]
        efficient_1 = [[0, 1, 6], [0, 1, 2, 4], [1, 2, 3, 5], [2, 3, 9], [1, 4, 5, 7], [2, 4, 5, 8], [0, 6, 7], [4, 6, 7, 8], [5, 7, 8, 9], [3, 8, 9]]
        for rows, count in ((what_color_4_1, 3), (efficient_1, 5)):
            dense = np.zeros((len(rows), len(rows)), bool)
            for row, columns in enumerate(rows):
                dense[row, columns] = True
            assert (dense == dense.T).all()
            pattern = csr_array(dense)
            found = symmetric(pattern)
            assert told(pattern, found, mirrored=True).all()
            assert found.forward <= count

    @pytest.mark.parametrize(("name", "count"), [("antidiagonal", 1), ("triangle", 3), ("frame", 4), ("arrowhead", 3), ("saddle", 5)])
    def test_colours_of_both_directions(self, name: str, count: int) -> None:
        frame = np.zeros((10, 20), bool)
        frame[[0, -1]], frame[:, [0, -1]] = True, True
        pattern = {
            "antidiagonal": csr_array(np.eye(4, dtype=bool)[::-1]),
            "triangle": csr_array(np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]], bool)),
            "frame": csr_array(frame),
            "arrowhead": arrowhead(10_000),
            "saddle": saddle(60, 20),
        }[name]
        found = by_both(pattern, by_columns(pattern))
        assert told(pattern, found).all()
        assert found.forward + found.reverse <= count
