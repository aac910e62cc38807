"""Which leaves are inputs, of which type, and which are fixed while tracing."""

from __future__ import annotations

from enum import Enum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacloom import ArgumentError, ClientStateError
from jacloom import _leaves as leaves
from jacloom._leaves import Static
from jacloom_graph.types import Type


class Colour(Enum):
    RED = 1


class Foreign:
    """An array of another library."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.arange(3, dtype=np.float32)


class Shape:
    """Says what an array is like, as ``jax.ShapeDtypeStruct`` does."""

    shape = (2, 3)
    dtype = np.dtype("float32")


@pytest.mark.parametrize(
    ("leaf", "type_"),
    [
        (2.5, Type("float64", weak=True)),
        (1j, Type("complex128", weak=True)),
        (np.float64(2.5), Type("float64")),
        (np.bool_(True), Type("bool")),
        (np.zeros((0, 2), np.int8), Type("int8", (0, 2))),
        (np.zeros(2, ">f8"), Type("float64", (2,))),
        (jnp.zeros((2, 1), jnp.bfloat16), Type("bfloat16", (2, 1))),
        (jnp.asarray(1.0), Type("float32", weak=True)),
        (jax.random.split(jax.random.key(0), 3), Type("key<threefry2x32>", (3,))),
        (jax.ShapeDtypeStruct((4,), jnp.float16), Type("float16", (4,))),
        (Foreign(), Type("float32", (3,))),
        (Shape(), Type("float32", (2, 3))),
    ],
    ids=lambda value: type(value).__name__,
)
def test_types(leaf: Any, type_: Type) -> None:
    assert leaves.is_array(leaf)
    assert not isinstance(leaves.key(leaf), Static)
    assert leaves.type_of(leaf) == type_


def test_equal_types_have_equal_keys_whatever_holds_them() -> None:
    strong = jnp.zeros(3, jnp.float32)
    assert leaves.key(np.zeros(3, np.float32)) == leaves.key(np.ones(3, np.float32)) != leaves.key(np.zeros(3))
    assert leaves.key(strong) == leaves.key(jax.ShapeDtypeStruct((3,), jnp.float32))
    assert leaves.key(1.0) != leaves.key(np.float64(1.0))


@pytest.mark.parametrize("value", [3, True, "name", b"name", Colour.RED, print, (lambda: 0)], ids=lambda value: type(value).__name__)
def test_static_values(value: Any) -> None:
    assert leaves.key(value) == Static(value)


def test_static_values_of_different_types_differ() -> None:
    assert len({Static(1), Static(True), Static("1")}) == 3
    assert Static(1) == Static(1)


def test_elements() -> None:
    key = jax.random.key(7)
    np.testing.assert_array_equal(leaves.to_array(key), jax.random.key_data(key))
    np.testing.assert_array_equal(leaves.to_array(Foreign()), [0, 1, 2])
    x = np.arange(3)
    assert leaves.to_array(x) is x
    back = leaves.from_array(np.asarray(jax.random.key_data(key)), Type("key<threefry2x32>"))
    assert jnp.issubdtype(back.dtype, jax.dtypes.prng_key)


def test_shapes_have_no_elements() -> None:
    with pytest.raises(ArgumentError, match="no elements; pass an array"):
        leaves.to_array(jax.ShapeDtypeStruct((2,), jnp.float32))


def test_traced_values_are_refused() -> None:
    with pytest.raises(ClientStateError, match=r"cannot be part of jax\.jit"):
        jax.jit(lambda x: leaves.key(x))(1.0)
    with pytest.raises(ClientStateError):
        jax.vmap(lambda x: leaves.key(x))(jnp.ones(2))


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (np.array(["a"]), "float64"),
        (np.zeros(2, "datetime64[s]"), "datetime64"),
        (np.zeros(2, np.longdouble), "Convert it"),
    ],
    ids=["strings", "dates", "long double"],
)
def test_dtypes_that_graphs_lack(leaf: Any, text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        leaves.type_of(leaf)


def test_leaves_that_cannot_be() -> None:
    with pytest.raises(ArgumentError, match=r"MaskedArray: pass x\.filled"):
        leaves.key(np.ma.array([1.0], mask=[True]))
    with pytest.raises(ArgumentError, match="hashable values that are fixed while tracing; got set"):
        leaves.key({1, 2})
