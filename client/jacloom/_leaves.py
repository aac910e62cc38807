"""What the leaves of arguments are: arrays and numbers that the graph takes as inputs, or values that are fixed while tracing."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np

from jacloom._errors import ArgumentError, ClientStateError
from jacloom_graph import tensor
from jacloom_graph.errors import Fault
from jacloom_graph.types import Type

Key = Hashable
"""Identifies a leaf's type, or a static leaf's value; cheaper to make than a ``Type``."""


@dataclass(frozen=True, slots=True, eq=False)
class Static:
    """A leaf that is not an array: tracing sees its value, and another value is traced anew."""

    value: Any

    def __eq__(self, other: object) -> bool:
        # 1 == True == 1.0, but f(x, 1) and f(x, True) may differ.
        return isinstance(other, Static) and type(self.value) is type(other.value) and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A leaf of arguments of which types alone matter."""

    type: Type

    @property
    def dtype(self) -> str:
        """As ``Type`` has it: that of random keys has no NumPy dtype."""
        return self.type.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def weak_type(self) -> bool:
        return self.type.weak


class _Sort(Enum):
    ARRAY = auto()
    NUMBER = auto()
    JAX = auto()
    STRUCT = auto()
    TRACER = auto()
    CONVERTIBLE = auto()
    STATIC = auto()


_sorts: dict[type, _Sort] = {np.ndarray: _Sort.ARRAY, float: _Sort.NUMBER, complex: _Sort.NUMBER, int: _Sort.STATIC, bool: _Sort.STATIC}


def key(leaf: Any) -> Key:
    """Returns what identifies a leaf's type, or a ``Static`` for a leaf that has none.

    Raises:
        ClientStateError: if JAX is tracing the caller.
        ArgumentError: if the leaf can be neither an input nor a static value.
    """
    kind: type = type(leaf)
    sort = _sorts.get(kind) or _sort(kind)
    if sort is _Sort.ARRAY:
        return leaf.dtype, leaf.shape
    if sort is _Sort.NUMBER:
        return kind
    if sort is _Sort.JAX or sort is _Sort.STRUCT:
        strong = (leaf.dtype, tuple(leaf.shape))
        return (*strong, "weak") if getattr(leaf, "weak_type", False) else strong
    if sort is _Sort.CONVERTIBLE:
        array = _converted(leaf)
        return array.dtype, array.shape
    if sort is _Sort.TRACER:
        raise ClientStateError(
            "jacloom was called with a value that JAX is tracing: a call to the service cannot be part of jax.jit, vmap, grad or scan. "
            "Call it outside, on arrays."
        )
    try:
        hash(leaf)
    except TypeError:
        raise ArgumentError(
            f"arguments must be arrays, numbers, or hashable values that are fixed while tracing; got {kind.__name__}, which has no hash. "
            "Close over it instead of passing it or, if it holds arrays, make its class a JAX pytree (jax.tree_util.register_dataclass)."
        ) from None
    return Static(leaf)


def type_of(leaf: Any) -> Type:
    """Returns the type that a leaf has as an input; Python numbers are float64, complex128, int64 and bool.

    Raises:
        ArgumentError: if graphs have no such dtype.
    """
    kind = type(leaf)
    if kind is float or kind is complex:
        return Type("float64" if kind is float else "complex128", (), weak=True)
    if kind is bool or kind is int:
        return Type("bool" if kind is bool else "int64")
    if kind is Placeholder:
        placed: Type = leaf.type
        return placed
    weak = bool(getattr(leaf, "weak_type", False))
    sort = _sorts.get(kind) or _sort(kind)
    array = _converted(leaf) if sort is _Sort.CONVERTIBLE else leaf
    implementation = _key_implementation(array.dtype)
    if implementation is not None:
        return Type(f"key<{implementation}>", tuple(array.shape))
    try:
        return Type(tensor.dtype_name(np.dtype(array.dtype)), tuple(array.shape), weak)
    except Fault as fault:
        raise ArgumentError(f"{fault.message}. Convert it, for example with x.astype(float)") from None


def is_array(leaf: Any) -> bool:
    """Returns whether a leaf is an input rather than a static value."""
    return (_sorts.get(type(leaf)) or _sort(type(leaf))) is not _Sort.STATIC


def is_shape(leaf: Any) -> bool:
    """Returns whether a leaf has a type but no elements."""
    return (_sorts.get(type(leaf)) or _sort(type(leaf))) is _Sort.STRUCT


def to_array(leaf: Any) -> np.ndarray:
    """Returns the elements of an input leaf; for random keys their raw data. Copies nothing that NumPy can read in place.

    Raises:
        ArgumentError: if the leaf is a shape without elements.
    """
    if type(leaf) is np.ndarray:
        return leaf
    sort = _sorts.get(type(leaf)) or _sort(type(leaf))
    if sort is _Sort.STRUCT:
        raise ArgumentError(f"{leaf} has a type but no elements; pass an array (shapes alone are enough for trace, register and explain)")
    if sort is _Sort.JAX and _key_implementation(leaf.dtype) is not None:
        import jax

        return np.asarray(jax.random.key_data(leaf))
    return _converted(leaf)


def from_array(array: np.ndarray, type_: Type) -> Any:
    """Returns a result as the user gets it: the array itself, or for random keys a JAX key array where JAX is there."""
    implementation = tensor.key_implementation(type_.dtype)
    if implementation is None:
        return array
    try:
        import jax
    except ImportError:
        return array
    return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=implementation)


def remedy(leaf: Any, type_: Type) -> str:
    """Returns how to write what came where an array of some type belongs; empty where there is nothing to say."""
    if isinstance(leaf, tuple | list):
        if len(leaf) == 1 and getattr(leaf[0], "shape", None) == type_.shape:
            return f"pass its item alone, without the {type(leaf).__name__} around it"
        return f"pass np.asarray(..., {type_.dtype!r})"
    if type(leaf) in (bool, int, float, complex):
        return f"pass np.asarray({leaf!r}, {type_.dtype!r})"
    if isinstance(leaf, np.ndarray) and leaf.shape == type_.shape:
        return f"pass it as .astype({type_.dtype!r})"
    return ""


def _key_implementation(dtype: Any) -> str | None:
    jax = sys.modules.get("jax")
    if jax is None or isinstance(dtype, np.dtype) or not jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return None
    return str(dtype._impl.name)


def _converted(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, np.generic) and hasattr(leaf, "__jax_array__"):
        leaf = leaf.__jax_array__()
    return np.asarray(leaf)


def _sort(kind: type) -> _Sort:
    """Sorts a Python type, once for each."""
    jax = sys.modules.get("jax")
    if issubclass(kind, np.ma.MaskedArray):
        raise ArgumentError("arguments must be arrays without masks; got a MaskedArray: pass x.filled(value) or x.data")
    if issubclass(kind, np.ndarray | np.generic):
        sort = _Sort.CONVERTIBLE
    elif jax is not None and issubclass(kind, jax.core.Tracer):
        sort = _Sort.TRACER
    elif jax is not None and issubclass(kind, jax.Array):
        sort = _Sort.JAX
    elif hasattr(kind, "__array__") or hasattr(kind, "__jax_array__"):
        sort = _Sort.CONVERTIBLE
    elif jax is not None and issubclass(kind, jax.ShapeDtypeStruct):
        sort = _Sort.STRUCT
    else:
        sort = _Sort.STATIC
    # A shape without JAX: anything that says its dtype and shape, as instances of a class that declares both.
    if sort is _Sort.STATIC and hasattr(kind, "dtype") and hasattr(kind, "shape"):
        sort = _Sort.STRUCT
    _sorts[kind] = sort
    return sort
