"""Structures with and without JAX agree."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacloom import ArgumentError
from jacloom._structure import JaxStructure, PlainStructure, Structure, flatten_with_jax, require_match
from jacloom_graph import tree as trees
from jacloom_graph.errors import Fault

Pair = namedtuple("Pair", ["left", "right"])
VALUE = ({"b": 1.0, "a": [2.0, None]}, Pair(3.0, (4.0,)), [])


def flatten_plain(value: Any) -> tuple[list[Any], Structure]:
    leaves, tree = trees.flatten(value)
    return leaves, PlainStructure(tree)


@pytest.fixture(params=[flatten_with_jax, flatten_plain], ids=["jax", "plain"])
def flatten(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_round_trip(flatten: Any) -> None:
    leaves, structure = flatten(VALUE)
    assert leaves == [2.0, 1.0, 3.0, 4.0]
    assert structure.count == 4
    assert structure.unflatten(leaves) == VALUE
    assert flatten(structure.unflatten(leaves))[1] == structure
    assert hash(flatten(VALUE)[1]) == hash(structure)


def test_questions(flatten: Any) -> None:
    _, structure = flatten(VALUE)
    assert (structure.is_pair, structure.is_leaf) == (False, False)
    assert [child.count for child in structure.children] == [2, 2, 0]
    assert [child.is_pair for child in structure.children] == [False, True, False]
    assert [flatten(value)[1].is_pair for value in ((1.0, 2.0), [1.0, (2.0,)], {"a": 1.0, "b": 2.0}, 1.0, None)] == [True, True, False, False, False]
    assert structure.children[1].children[0].is_leaf
    assert not flatten(None)[1].is_leaf
    assert str(structure) == "({'a': [array, None], 'b': array}, Pair(left=array, right=(array,)), [])"
    assert structure.paths("args") == ["args[0]['a'][0]", "args[0]['b']", "args[1].left", "args[1].right[0]"]


def test_without_some_leaves(flatten: Any) -> None:
    _, structure = flatten(VALUE)
    assert structure.without({1, 3}) == flatten(({"b": None, "a": [2.0, None]}, Pair(3.0, (None,)), []))[1]


def test_match(flatten: Any) -> None:
    _, structure = flatten(VALUE)
    leaves = structure.match(({"b": None, "a": [{"deep": 1}, None]}, Pair(3.0, (4.0,)), []))
    assert leaves == [{"deep": 1}, None, 3.0, 4.0]


@pytest.mark.parametrize(
    "value",
    [
        [1.0],
        ({"b": 1.0}, Pair(3.0, (4.0,)), []),
        ({"b": 1.0, "a": [2.0, 5.0]}, Pair(3.0, (4.0,)), []),
        ({"b": 1.0, "a": (2.0, None)}, Pair(3.0, (4.0,)), []),
        (*VALUE, 1.0),
    ],
    ids=["list", "key", "None", "tuple for list", "length"],
)
def test_mismatch(flatten: Any, value: Any) -> None:
    _, structure = flatten(VALUE)
    with pytest.raises(ArgumentError, match=r"tangents: expected \(\{'a': \[array, None\], 'b': array\}, .*, got [(\[]"):
        require_match(structure, value, "tangents")


def test_plain_needs_plain_containers() -> None:
    with pytest.raises(Fault, match="plain dict, got OrderedDict"):
        flatten_plain(OrderedDict(a=1.0))


def test_both_describe_a_graph_alike() -> None:
    import jacloom as jl

    function = jl.trace(lambda value: value, jax.tree.map(np.float64, VALUE))
    assert PlainStructure(function.in_tree) == flatten_plain((VALUE,))[1]
    kinds: tuple[type[Structure], ...] = (JaxStructure, PlainStructure)
    assert {type(flatten_with_jax(jnp.ones(1))[1]), type(flatten_plain(1.0)[1])} == set(kinds)
