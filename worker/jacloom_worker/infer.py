"""Types between the graph's language and JAX's, and the types of a function's outputs, found without computing anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from jacloom_graph.tensor import key_implementation, storage
from jacloom_graph.types import Type

Apply = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
"""A function that JAX can trace: ``(large constants, one array per input leaf) -> one array per output leaf``."""


def struct(type_: Type) -> jax.ShapeDtypeStruct:
    """Returns what stands for an argument of a type in abstract evaluation: for keys their raw data, as arguments travel."""
    dtype, shape = storage(type_)
    return jax.ShapeDtypeStruct(shape, dtype, weak_type=type_.weak)  # type: ignore[no-untyped-call, unused-ignore]


def abstract(constants: Sequence[Any]) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Returns what stands for constants in abstract evaluation."""
    return tuple(jax.ShapeDtypeStruct(constant.shape, constant.dtype) for constant in constants)  # type: ignore[no-untyped-call, unused-ignore]


def enter(type_: Type, stored: Any) -> Any:
    """Returns the value of a type from the array that stores it: keys are wrapped, all else is itself."""
    implementation = key_implementation(type_.dtype)
    return stored if implementation is None else jax.random.wrap_key_data(jnp.asarray(stored), impl=implementation)


def leave(value: jax.Array) -> jax.Array:
    """Returns the array that stores a value: for keys their raw data."""
    return jax.random.key_data(value) if _is_key(value) else value


def type_of(value: jax.Array) -> Type:
    """Returns the type of an array, traced or not."""
    if _is_key(value):
        return Type(f"key<{jax.random.key_impl(value)}>", value.shape)
    aval = jax.typeof(value)
    return _type(aval.dtype, aval.shape, bool(aval.weak_type))


@lru_cache(maxsize=4096)
def _type(dtype: Any, shape: tuple[int, ...], weak: bool) -> Type:
    # Asked for every value of a program, of which there are few types: NumPy takes 10 us to name a dtype.
    return Type(dtype.name, shape, weak)


def output_types(apply: Apply, inputs: Sequence[Type], constants: Sequence[Any] = ()) -> tuple[Type, ...]:
    """Returns the types of a function's outputs by abstract evaluation; of constants too only dtype and shape are looked at.

    Whatever ``apply`` raises passes through.
    """
    found: list[Type] = []

    def record(constants: Sequence[Any], *stored: jax.Array) -> None:
        results = apply(constants, [enter(type_, array) for type_, array in zip(inputs, stored, strict=True)])
        found.extend(type_of(jnp.asarray(result)) for result in results)

    jax.eval_shape(record, abstract(constants), *map(struct, inputs))
    return tuple(found)


def _is_key(value: jax.Array) -> bool:
    return _is_key_type(value.dtype)


@lru_cache(maxsize=256)
def _is_key_type(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))
