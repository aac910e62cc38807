"""Leaves as one vector: dtypes, places and sizes."""

from __future__ import annotations

import numpy as np
import pytest

from jacloom._layout import Layout
from jacloom_graph.types import Type

MIXED = Layout((Type("float32", (2, 3)), Type("complex64", ()), Type("bfloat16", (0, 4)), Type("float64", (2,))), ("a['w']", "a['z']", "e", "b"))


def test_leaves_come_back_as_they_went_in() -> None:
    leaves = [np.arange(6, dtype=np.float32).reshape(2, 3), np.complex64(1 + 2j), np.zeros((0, 4)), np.array([7.0, 8.0])]
    vector = MIXED.join([np.asarray(leaf) for leaf in leaves])
    np.testing.assert_array_equal(vector, [0, 1, 2, 3, 4, 5, 1 + 2j, 7, 8])
    again = MIXED.split(vector)
    assert [(leaf.dtype.name, leaf.shape) for leaf in again] == [("float32", (2, 3)), ("complex64", ()), ("bfloat16", (0, 4)), ("float64", (2,))]
    np.testing.assert_array_equal(MIXED.join(again), vector)
    assert (MIXED.size, MIXED.epsilon) == (9, 2.0**-7)


def test_real_leaves_take_real_parts() -> None:
    np.testing.assert_array_equal(MIXED.rounded(np.full(9, 1 / 3 + 1j)).imag, [0, 0, 0, 0, 0, 0, 1, 0, 0])
    assert MIXED.rounded(np.full(9, 1 / 3))[0] == np.float32(1 / 3)
    assert MIXED.real.tolist() == [True] * 6 + [False, True, True]


@pytest.mark.parametrize(("entry", "place"), [(0, "a['w'][0, 0]"), (5, "a['w'][1, 2]"), (6, "a['z']"), (7, "b[0]"), (8, "b[1]")])
def test_places_are_in_the_users_words(entry: int, place: str) -> None:
    assert MIXED.place(entry) == place


def test_magnitudes_are_of_what_is_finite_and_do_not_overflow() -> None:
    layout = Layout((Type("float64", (3,)), Type("float64", (2,)), Type("float64", ())), ("a", "b", "c"))
    np.testing.assert_allclose(layout.magnitudes(np.array([3e200, np.nan, 4e200, 0.0, 0.0, -2.0])), [12.5**0.5 * 1e200] * 3 + [0, 0, 2])


def test_no_leaves_are_a_vector_without_entries() -> None:
    empty = Layout((), ())
    assert (empty.size, empty.epsilon, empty.join([]).shape, empty.split(np.zeros(0))) == (0, 0.0, (0,), [])
