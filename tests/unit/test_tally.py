"""Which points are done, from the units that are: as they come, and as a ledger remembers them."""

from __future__ import annotations

import numpy as np

from jacloom_server.jobs.division import Division
from jacloom_server.jobs.states import Counts, Landed, UnitRow, UnitState
from jacloom_server.jobs.tally import DONE, FAILED, NOT_DONE, NOT_FINITE, Tally


def landed(number: int, *finite: bool) -> Landed:
    return Landed(number, "an-attempt", (), np.array(finite))


def committed(number: int, *finite: bool) -> UnitRow:
    return UnitRow(number, UnitState.COMMITTED, 0, "", "", np.array(finite), ())


def test_units_of_points() -> None:
    tally = Tally(Division(points=5, count=2))
    assert tally.committed([landed(0, True, False), landed(2, True)]) == Counts(points_done=3, points_not_finite=1, units_done=2)
    assert tally.failed(1) == Counts(points_failed=2, units_failed=1)
    assert tally.status.tolist() == [DONE, NOT_FINITE, FAILED, FAILED, DONE]
    assert list(tally.pending()) == []


def test_a_point_of_several_units_is_done_with_the_last_of_them() -> None:
    tally = Tally(Division(points=2, count=1, slabs=((0, 4), (4, 4), (8, 1))))
    assert tally.committed([landed(1, False)]) == Counts(units_done=1)
    assert tally.committed([landed(0, True)]) == Counts(units_done=1)
    assert tally.status.tolist() == [NOT_DONE, NOT_DONE]
    assert tally.committed([landed(2, True), landed(3, True)]) == Counts(points_done=1, points_not_finite=1, units_done=2)
    assert tally.status.tolist() == [NOT_FINITE, NOT_DONE]
    assert list(tally.pending()) == [4, 5]


def test_a_point_with_a_failed_unit_has_failed_whatever_comes_after() -> None:
    tally = Tally(Division(points=1, count=1, slabs=((0, 4), (4, 4), (8, 1))))
    assert tally.failed(1) == Counts(points_failed=1, units_failed=1)
    assert tally.committed([landed(0, True), landed(2, True)]) == Counts(units_done=2)
    assert tally.status.tolist() == [FAILED]


def test_a_unit_that_is_lost_is_pending_again() -> None:
    tally = Tally(Division(points=4, count=2))
    tally.committed([landed(0, True, False), landed(1, True, True)])
    assert tally.lost([0]) == Counts(points_done=-2, points_not_finite=-1, units_done=-1)
    assert list(tally.pending()) == [0]
    assert tally.committed([landed(0, True, True)]) == Counts(points_done=2, units_done=1)


def test_a_lost_unit_of_a_point_with_others_is_counted_once() -> None:
    tally = Tally(Division(points=1, count=1, slabs=((0, 4), (4, 4))))
    tally.committed([landed(0, True), landed(1, True)])
    assert tally.lost([0, 1]) == Counts(points_done=-1, units_done=-2)
    assert tally.committed([landed(0, True)]) == Counts(units_done=1)
    assert tally.committed([landed(1, True)]) == Counts(points_done=1, units_done=1)


def test_a_point_with_a_failed_unit_stays_failed_when_another_of_its_units_is_lost() -> None:
    tally = Tally(Division(points=1, count=1, slabs=((0, 4), (4, 4))))
    tally.committed([landed(0, True)])
    tally.failed(1)
    assert tally.lost([0]) == Counts(units_done=-1)
    assert tally.committed([landed(0, True)]) == Counts(units_done=1)
    assert tally.status.tolist() == [FAILED]


def test_a_tally_of_what_a_ledger_remembers_is_that_of_what_came() -> None:
    division = Division(points=7, count=2)
    came = Tally(division)
    came.committed([landed(1, False, True), landed(3, True)])
    came.failed(0)
    rows = [UnitRow(0, UnitState.FAILED, 3, "POISONED", "", None, ()), committed(1, False, True), UnitRow(2, UnitState.PENDING, 1, "", "", None, ())]
    again = Tally(division, [*rows, committed(3, True)])
    np.testing.assert_array_equal(again.status, came.status)
    assert list(again.pending()) == list(came.pending()) == [2]


def test_changes_are_taken_once() -> None:
    tally = Tally(Division(points=9, count=3))
    assert tally.take_changed()[1].tolist() == [NOT_DONE] * 9
    assert len(tally.take_changed()[1]) == 0
    tally.committed([landed(1, True, True, True)])
    first, status = tally.take_changed()
    assert (first, status.tolist()) == (3, [DONE] * 3)
    tally.give_back(first, len(status))
    assert tally.take_changed()[0] == 3


def test_changes_are_taken_with_the_whole_chunks_that_they_are_in() -> None:
    tally = Tally(Division(points=9, count=1))
    tally.take_changed(4)
    tally.committed([landed(5, True)])
    first, status = tally.take_changed(4)
    assert (first, status.tolist()) == (4, [NOT_DONE, DONE, NOT_DONE, NOT_DONE])
    tally.committed([landed(8, True)])
    assert tally.take_changed(4)[0] == 8
