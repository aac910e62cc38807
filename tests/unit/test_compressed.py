"""Entries picked from passes, and those spoilt by their neighbours computed alone."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from jacloom_worker.compressed import Passes, Repair, entries, repair
from jacloom_worker.protocol import Part

ROWS, COLUMNS = 3, 5
MATRIX = np.array([[1.0, 0, 0, 4, 0], [0, 2, 0, 0, 5], [0, 0, 3, 0, 0]])


def part(matrix: np.ndarray, colours: list[int]) -> Part:
    """Returns the forward part whose columns have some colours, all entries of each pass from top to bottom."""
    lines, along, bounds = [], [], [0]
    for number in range(max(colours) + 1):
        for row in range(matrix.shape[0]):
            for column in range(matrix.shape[1]):
                if colours[column] == number and matrix[row, column] != 0:
                    lines.append(row)
                    along.append(column)
        bounds.append(len(lines))
    return Part("forward", np.array(colours, np.int32), np.array(lines, np.int32), np.array(along, np.int32), np.array(bounds))


class Runner:
    """Computes passes over a matrix whose columns spoil the rows of others where they are not finite; counts what it is asked for."""

    def __init__(self, matrix: np.ndarray, *dtypes: object, width: int = 2) -> None:
        self.matrix, self.dtypes, self.width = matrix, dtypes or (np.float64,), width
        self.calls: list[list[int]] = []
        self.alone: set[int] = set()
        """Columns that had a pass for themselves."""

    def __call__(self, colours: np.ndarray) -> Passes:
        self.calls.append(np.flatnonzero(colours >= 0).tolist())
        lines = np.zeros((self.width, self.matrix.shape[0]), self.matrix.dtype)
        for number in range(self.width):
            columns = np.flatnonzero(colours == number)
            self.alone |= set(columns.tolist()) if len(columns) == 1 else set()
            chosen = self.matrix[:, columns]
            lines[number] = chosen.sum(axis=1)
            if not np.isfinite(chosen).all():
                lines[number, np.isfinite(lines[number])] = np.nan
        cuts = np.array_split(lines, len(self.dtypes), axis=1)
        return [cut.astype(dtype) for cut, dtype in zip(cuts, self.dtypes, strict=True)]


COLOURS = [0, 0, 0, 1, 1]


class TestEntries:
    def test_pass_after_pass(self) -> None:
        given = Runner(MATRIX)(np.array(COLOURS))
        whole = part(MATRIX, COLOURS)
        assert entries(given, whole, 0, 2).tolist() == [1, 2, 3, 4, 5]
        assert entries([given[0][1:]], whole, 1, 1).tolist() == [4, 5]
        assert entries(given, whole, 2, 0).tolist() == []
        assert entries(given, whole, 0, 0).dtype == np.float64

    def test_of_several_leaves_in_the_dtype_that_holds_all(self) -> None:
        given = [np.array([[1.5]], ml_dtypes.bfloat16), np.zeros((1, 0), np.float32), np.array([[2.0, 3.0]], np.float32)]
        whole = part(np.diag([1.0, 1, 1]), [0, 0, 0])
        found = entries(given, whole, 0, 1)
        assert (found.dtype, found.tolist()) == (np.float32, [1.5, 2.0, 3.0])

    @pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.complex64])
    def test_in_any_dtype(self, dtype: object) -> None:
        found = entries(Runner(MATRIX, dtype)(np.array(COLOURS)), part(MATRIX, COLOURS), 0, 2)
        assert found.dtype == dtype
        assert found.astype(np.complex64).tolist() == [1, 2, 3, 4, 5]

    def test_a_scalar(self) -> None:
        assert entries([np.array([[7.0]])], part(np.ones((1, 1)), [0]), 0, 1).tolist() == [7.0]


class TestRepair:
    @pytest.mark.parametrize(
        "dtypes", [(np.float64,), (ml_dtypes.bfloat16,), (np.complex128,), (np.float32, np.float64), (ml_dtypes.bfloat16, np.float32)]
    )
    @pytest.mark.parametrize(("width", "passes"), [(1, 1), (2, 2), (3, 2)])
    def test_what_a_neighbour_has_spoilt(self, dtypes: tuple[object, ...], width: int, passes: int) -> None:
        matrix = MATRIX.copy()
        matrix[0, 0] = np.inf
        run = Runner(matrix, *dtypes, width=2)
        found, whole = entries(run(np.array(COLOURS)), part(matrix, COLOURS), 0, 2), part(matrix, COLOURS)
        assert np.isnan(found).tolist() == [False, True, True, False, False]
        run = Runner(matrix, *dtypes, width=width)
        assert repair(found, whole, 0, width, run) == Repair(passes, 0)
        assert found.real.astype(np.float64).tolist() == [np.inf, 2, 3, 4, 5]
        assert [column for call in run.calls for column in call] == [1, 2], "what is infinite is so by itself"

    def test_of_a_later_tile(self) -> None:
        matrix = MATRIX.copy()
        matrix[0, 3] = -np.inf
        run, whole = Runner(matrix), part(matrix, COLOURS)
        found = entries([run(np.array(COLOURS))[0][1:]], whole, 1, 1)
        assert np.isnan(found).tolist() == [False, True]
        assert repair(found, whole, 1, 2, run) == Repair(1, 0)
        assert found.tolist() == [-np.inf, 5]

    def test_nothing_is_computed_where_nothing_is_wrong(self) -> None:
        run = Runner(MATRIX)
        assert repair(np.array([1.0, np.inf, -np.inf]), part(np.diag([1.0, 1, 1]), [0, 0, 0]), 0, 2, run) == Repair(0, 0)
        assert repair(np.zeros(0), part(MATRIX, COLOURS), 2, 2, run) == Repair(0, 0)
        assert run.calls == []

    @pytest.mark.parametrize(("width", "passes"), [(1, 7), (4, 6), (64, 6)])
    def test_a_nan_of_its_own_stays_and_those_after_it_are_repaired(self, width: int, passes: int) -> None:
        matrix = np.diag(np.arange(1.0, 7.0))
        matrix[0, 0] = matrix[1, 1] = np.nan
        run, whole = Runner(matrix, width=width), part(matrix, [0] * 6)
        found = np.full(6, np.nan)
        assert repair(found, whole, 0, width, run) == Repair(passes, 0)
        np.testing.assert_array_equal(found, [np.nan, np.nan, 3, 4, 5, 6])

    @pytest.mark.parametrize(("width", "passes", "runs"), [(1, 21, 21), (8, 26, 4), (64, 80, 2)])
    def test_a_few_among_very_many_are_found_in_few_passes(self, width: int, passes: int, runs: int) -> None:
        matrix = np.diag(np.arange(1.0, 1001.0))
        matrix[700, 700] = np.nan
        run, found = Runner(matrix, width=width), np.full(1000, np.nan)
        taken = repair(found, part(matrix, [0] * 1000), 0, width, run)
        assert (taken.passes <= passes, taken.doubtful) == (True, 0)
        assert len(run.calls) <= runs
        assert np.flatnonzero(found != np.arange(1.0, 1001.0)).tolist() == [700]

    def test_each_pass_is_taken_apart_by_itself(self) -> None:
        matrix = np.diag(np.arange(1.0, 41.0))
        matrix[3, 3] = matrix[30, 30] = np.nan
        run, found = Runner(matrix, width=4), np.full(40, np.nan)
        repair(found, part(matrix, [0] * 20 + [1] * 20), 0, 4, run)
        assert np.flatnonzero(np.isnan(found)).tolist() == [3, 30]

    @pytest.mark.parametrize("width", [1, 5, 64])
    def test_it_ends_where_nothing_heals(self, width: int) -> None:
        matrix = np.diag(np.full(1000, np.nan))
        run, found = Runner(matrix, width=width), np.full(1000, np.nan)
        taken = repair(found, part(matrix, [0] * 1000), 0, width, run)
        assert taken.passes <= 256
        assert np.isnan(found).all()
        assert taken.doubtful == 1000 - len(run.alone)
        few = np.full(30, np.nan)
        assert repair(few, part(matrix[:30, :30], [0] * 30), 0, width, Runner(matrix[:30, :30], width=width)).passes < 60

    def test_no_more_passes_than_are_allowed(self) -> None:
        matrix = np.diag(np.where(np.arange(40) % 5, np.arange(40.0), np.nan))
        run, found = Runner(matrix, width=4), np.full(40, np.nan)
        assert repair(found, part(matrix, [0] * 40), 0, 4, run, most=10) == Repair(10, int(np.isnan(found).sum()))
        assert sum(len(call) for call in run.calls) > 40, "lines in smaller and smaller groups"
        assert repair(found, part(matrix, [0] * 40), 0, 4, run).doubtful == 0
        assert np.flatnonzero(np.isnan(found)).tolist() == list(range(0, 40, 5))
