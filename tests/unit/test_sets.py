"""Sets of seed entries: the same behaviour whether they are kept as words of bits or as rows of a matrix."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from jacloom_worker.pattern import sets as made
from jacloom_worker.pattern.sets import Rows, Sets, TooDense, Words, reduce, union

PLENTY = 1 << 20


@pytest.fixture(params=[Words, Rows])
def kind(request: pytest.FixtureRequest) -> type[Sets]:
    """How sets are kept."""
    return request.param


def content(sets: Sets, ids: np.ndarray) -> list[set[int]]:
    matrix = sets.matrix(ids.ravel())
    return [set(matrix.indices[first:last].tolist()) for first, last in pairwise(matrix.indptr)]


class TestBoth:
    def test_begins_with_the_empty_set_and_one_set_for_each_entry(self, kind: type[Sets]) -> None:
        assert content(kind(3, PLENTY), np.arange(4)) == [set(), {0}, {1}, {2}]

    def test_unites_groups_of_any_length(self, kind: type[Sets]) -> None:
        sets = kind(5, PLENTY)
        ids = sets.unite(np.array([0, 3, 3, 4, 6]), np.array([1, 3, 1, 4, 0, 5]))
        assert content(sets, ids) == [{0, 2}, set(), {3}, {4}]

    def test_unites_what_was_united_before(self, kind: type[Sets]) -> None:
        sets = kind(5, PLENTY)
        first = sets.unite(np.array([0, 2, 4]), np.array([1, 2, 3, 4]))
        assert content(sets, sets.unite(np.array([0, 3]), np.array([first[0], 5, first[1]]))) == [{0, 1, 2, 3, 4}]

    def test_a_union_that_adds_nothing_keeps_its_number(self, kind: type[Sets]) -> None:
        sets = kind(5, PLENTY)
        pair = sets.join(np.array([1, 2]), np.array([2, 3]))
        assert sets.join(pair, np.array([2, 2])).tolist() == pair.tolist()

    def test_pairs_in_either_order_have_one_number(self, kind: type[Sets]) -> None:
        sets = kind(200, PLENTY)
        left, right = np.arange(1, 100), np.arange(101, 200)
        both = sets.join(np.concatenate([left, right]), np.concatenate([right, left]))
        assert both[:99].tolist() == both[99:].tolist()
        assert len(set(both.tolist())) == 99

    def test_the_matrix_has_rows_as_asked_for_sorted_and_without_repetitions(self, kind: type[Sets]) -> None:
        sets = kind(70, PLENTY)  # more than one word of a machine
        (wide,) = sets.unite(np.array([0, 4]), np.array([70, 1, 70, 3]))
        matrix = sets.matrix(np.array([0, wide, 2, wide]))
        assert matrix.shape == (4, 70)
        assert matrix.dtype == bool
        assert matrix.indptr.tolist() == [0, 0, 3, 4, 7]
        assert matrix.indices.tolist() == [0, 2, 69, 1, 0, 2, 69]

    def test_no_rows_and_no_entries(self, kind: type[Sets]) -> None:
        assert kind(3, PLENTY).matrix(np.zeros(0, np.int64)).shape == (0, 3)
        assert kind(0, PLENTY).matrix(np.zeros(2, np.int64)).shape == (2, 0)

    def test_agrees_with_sets_of_python(self, kind: type[Sets]) -> None:
        rng = np.random.default_rng(0)
        sets = kind(40, PLENTY)
        known = [set(), *({entry} for entry in range(40))]
        ids = np.arange(41)
        for _ in range(6):
            sizes = rng.integers(0, 5, 30)
            members = rng.choice(ids, sizes.sum())
            starts = np.concatenate([[0], np.cumsum(sizes)])
            made_ids = sets.unite(starts, members)
            place = dict(zip(ids.tolist(), known, strict=True))
            groups = [members[first:last].tolist() for first, last in pairwise(starts)]
            expected = [set().union(*(place[member] for member in group)) for group in groups]
            assert content(sets, made_ids) == expected
            ids, where = np.unique(np.concatenate([ids, made_ids]), return_index=True)
            known = [[*known, *expected][index] for index in where]

    def test_too_many_elements_are_refused(self, kind: type[Sets]) -> None:
        lengths = np.arange(2, 65)
        members = np.concatenate([np.arange(1, length + 1) for length in lengths])
        with pytest.raises(TooDense):
            kind(64, 100).unite(np.concatenate([[0], np.cumsum(lengths)]), members)


class Counting(Rows):
    """Counts the elements of the sets that it forms unions of."""

    work = 0

    def _united(self, starts: np.ndarray, members: np.ndarray, largest: np.ndarray) -> np.ndarray:
        self.work += int(self._lengths(members).sum())
        return super()._united(starts, members, largest)


@pytest.mark.parametrize("left_out", [0, 3])
def test_what_is_part_of_another_set_is_not_united_with_it(left_out: int) -> None:
    # As in x * sum(x[k:]): every entry meets the set of nearly all.
    size = 500
    sets = Counting(size, PLENTY)
    singles = np.arange(1, size + 1)
    (most,) = sets.unite(np.array([0, size - left_out]), singles[left_out:])
    sets.work = 0
    united = union(sets, [singles, np.full(size, most)])
    assert sets.work == left_out * (size - left_out + 1)
    assert content(sets, united) == [{*range(left_out, size), entry} for entry in range(size)]
    assert set(united[left_out:].tolist()) == {most}


def test_pairs_of_any_sets_are_united_as_if_each_were_looked_at_alone() -> None:
    rng = np.random.default_rng(1)
    sets = Rows(60, PLENTY)
    sizes = rng.integers(1, 9, 40)
    ids = sets.unite(np.concatenate([[0], np.cumsum(sizes)]), rng.integers(1, 61, sizes.sum()))
    wide = sets.unite(np.array([0, 50, 90]), np.concatenate([np.arange(1, 51), np.arange(21, 61)]))
    left, right = np.concatenate([ids, ids]), np.repeat(wide, 40)
    known = content(sets, np.concatenate([left, right]))
    assert content(sets, sets.join(left, right)) == [one | other for one, other in zip(known[:80], known[80:], strict=True)]


def test_few_entries_are_words_and_many_are_rows() -> None:
    assert type(made.make(made.FEW, PLENTY)) is Words
    assert type(made.make(made.FEW + 1, PLENTY)) is Rows


def test_union_entry_by_entry_whatever_the_order_in_memory() -> None:
    sets = made.make(6, PLENTY)
    left, right = np.arange(1, 7).reshape(3, 2).T, np.full((2, 3), 1)
    assert content(sets, union(sets, [left, right])) == [{0}, {0, 2}, {0, 4}, {0, 1}, {0, 3}, {0, 5}]


def test_union_of_scalars_is_a_scalar() -> None:
    sets = made.make(2, PLENTY)
    result = union(sets, [np.array(1), np.array(2)])
    assert result.shape == ()
    assert content(sets, result) == [{0, 1}]


def test_reduce_unites_along_the_last_axis() -> None:
    sets = made.make(6, PLENTY)
    assert content(sets, reduce(sets, np.arange(1, 7).reshape(2, 3))) == [{0, 1, 2}, {3, 4, 5}]
    assert reduce(sets, np.zeros((2, 0), np.int64)).tolist() == [0, 0]
    assert reduce(sets, np.array([[2, 2], [0, 0]])).tolist() == [2, 0]
