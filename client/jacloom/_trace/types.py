"""JAX's abstract values as graph types, and arrays as constants."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jax
import numpy as np

from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Constant, Type


class Unrepresentable(Exception):
    """A parameter or a value is such that no graph can hold it; the text says which and why."""


@lru_cache(maxsize=256)
def dtype_name(dtype: Any) -> str:
    """Returns the graph's name for a JAX dtype. Random keys are ``"key<implementation>"``; what has no tangent is booleans, as in compiled code."""
    if dtype == jax.dtypes.float0:
        return "bool"
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return f"key<{key_implementation(dtype)}>"
    name = str(np.dtype(dtype).name)
    if name not in DTYPES:
        raise Unrepresentable(f"it has values of dtype {name}, and a graph has none of less than 8 bits nor of float8; convert them to a wider one")
    return name


def key_implementation(dtype: Any) -> str:
    """Returns the name of a key dtype's implementation, such as ``"threefry2x32"``."""
    return str(dtype._impl.name)


def type_of(aval: Any) -> Type:
    """Returns the graph type of an abstract value with ``shape``, ``dtype`` and perhaps ``weak_type``."""
    return _type(aval.dtype, aval.shape, getattr(aval, "weak_type", False))


@lru_cache(maxsize=4096)
def _type(dtype: Any, shape: tuple[Any, ...], weak: Any) -> Type:
    # A program has thousands of values and a few dozen types, and NumPy takes 10 us to name a dtype.
    return Type(dtype_name(dtype), tuple(int(extent) for extent in shape), bool(weak))


def inexact(aval: Any) -> bool:
    """Returns whether values of the type can have a tangent."""
    return _inexact(aval.dtype)


@lru_cache(maxsize=256)
def _inexact(dtype: Any) -> bool:
    return bool(jax.dtypes.issubdtype(dtype, np.inexact))


def constant(value: Any, *, weak: bool) -> Constant:
    """Returns an array, scalar or key array as a constant of the graph."""
    if isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return Constant(Type(dtype_name(value.dtype), tuple(value.shape)), np.asarray(jax.random.key_data(value)))
    # A Python number among a jaxpr's literals has a dtype of its own, which NumPy does not see.
    array = np.asarray(value, getattr(value, "dtype", None))
    if array.dtype == jax.dtypes.float0:
        array = np.zeros(array.shape, bool)
    if array.flags.writeable or (isinstance(value, np.ndarray) and array.base is not None):
        array = array.copy()  # the caller may change it later, through another view perhaps, and the graph has an id
    return Constant(Type(dtype_name(array.dtype), array.shape, weak), np.ascontiguousarray(array).reshape(array.shape))


def example(aval: Any) -> jax.ShapeDtypeStruct:
    """Returns what stands for a value of the type when a function is traced."""
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=bool(getattr(aval, "weak_type", False)))
