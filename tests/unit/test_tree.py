"""Trees as data: flattening as JAX does, restoring, naming leaves."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tree import LEAF, flatten, leaf_count, paths, tuple_of, unflatten
from jacloom_graph.types import Tree, TreeKind


class Pose(NamedTuple):
    position: Any
    angle: Any


NESTED = st.recursive(
    st.integers() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.builds(Pose, inner, inner)
    ),
    max_leaves=12,
)


@given(NESTED)
def test_containers_come_back(value: Any) -> None:
    leaves, tree = flatten(value)
    back = unflatten(tree, leaves)
    assert back == value
    assert flatten(back) == (leaves, tree)
    assert leaf_count(tree) == len(leaves) == len(paths(tree))


@given(NESTED)
def test_leaves_are_in_the_order_of_jax(value: Any) -> None:
    assert flatten(value)[0] == jax.tree.leaves(value)


def test_leaves_are_found_under_their_paths() -> None:
    args = ({"w": [1, 2], "b": Pose(3, None)}, (), 4)
    leaves, tree = flatten(args)
    assert dict(zip(paths(tree), leaves, strict=True)) == {"args[0]['b'].position": 3, "args[0]['w'][0]": 1, "args[0]['w'][1]": 2, "args[2]": 4}
    assert paths(tree, root="x")[0] == "x[0]['b'].position"
    assert paths(LEAF, root="result") == ["result"]


def test_a_namedtuple_comes_back_with_its_names() -> None:
    leaves, tree = flatten(Pose(1, 2))
    back = unflatten(tree, leaves)
    assert (type(back).__name__, back.position, back.angle) == ("Pose", 1, 2)
    assert type(unflatten(tree, leaves)) is type(back)
    renamed = namedtuple("renamed", ["class", "x"], rename=True)
    assert unflatten(*reversed(flatten(renamed(1, 2))))._fields == ("_0", "x")


def test_a_custom_container_reads_as_a_tuple() -> None:
    assert unflatten(Tree(TreeKind.CUSTOM, (LEAF, tuple_of(1)), name="Module"), [1, 2]) == (1, (2,))


def test_arrays_are_leaves_and_kept_as_they_are() -> None:
    array = np.zeros((0, 3))
    leaves, tree = flatten([array])
    assert leaves[0] is array
    assert tree == Tree(TreeKind.LIST, (LEAF,))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1: 2}, "keys of a dict must be strings, got 1"),
        ([{"a": 1, None: 2}], "keys of a dict must be strings, got None"),
        (OrderedDict(a=1), r"a mapping must be a plain dict, got OrderedDict; pass dict\(...\) of it"),
    ],
)
def test_what_has_no_certain_order_is_refused(value: Any, text: str) -> None:
    with pytest.raises(Fault, match=text) as caught:
        flatten(value)
    assert caught.value.reason is Reason.ARGUMENT_MISMATCH


def test_a_container_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(Fault, match="nested 64 deep; one here goes deeper or contains itself"):
        flatten(loop)


@pytest.mark.parametrize("leaves", [[], [1, 2, 3]])
def test_the_number_of_leaves_must_fit(leaves: list[int]) -> None:
    with pytest.raises(Fault, match=f"the tree has 2 leaves, got {len(leaves)}"):
        unflatten(tuple_of(2), leaves)
