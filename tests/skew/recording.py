"""What one version of JAX made of a case: the graph's id, and the numbers that the same version computed without Jacloom."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from skew.catalogue import Case, spread

import jacloom as jl
from jacloom_graph.tensor import INEXACT, storage
from jacloom_graph.types import Type

Arrays = tuple[np.ndarray, ...]
"""As they travel: keys are their raw data."""

_LISTS = ("leaves", "tangents", "cotangents", "value", "jvp", "vjp")
_WIDE = frozenset({"float64", "complex128", "int64", "uint64"})


@dataclass(frozen=True)
class Recording:
    """A point, what a function and its derivatives are there, and who says so."""

    id: str
    """The function's id, 64 hex digits."""
    producer: str
    """The versions of Jacloom and JAX."""
    leaves: Arrays
    """One per input leaf."""
    tangents: Arrays
    """One per differentiable input leaf."""
    cotangents: Arrays
    """One per differentiable output leaf."""
    value: Arrays
    """One per output leaf."""
    jvp: Arrays | None
    """One per differentiable output leaf; None where JAX has no JVP."""
    vjp: Arrays | None
    """One per differentiable input leaf; None where JAX has no VJP."""


def differentiable(types: Sequence[Type]) -> tuple[int, ...]:
    """Returns which leaves of the given types have derivatives."""
    return tuple(index for index, type_ in enumerate(types) if type_.dtype in INEXACT)


def trace(case: Case) -> jl.Function:
    """Returns a case as a graph, as traced where nobody has touched JAX's settings."""
    with jax.enable_x64(False):
        return jl.trace(case.function, *case.arguments)


def record(case: Case, function: jl.Function) -> Recording:
    """Returns what the installed JAX computes for a case, and for fixed directions through it, when it compiles the function itself."""
    leaves, tree = jax.tree.flatten(case.arguments)
    wrt, outputs = differentiable(function.inputs), differentiable(function.outputs)

    def flat(leaves: Sequence[Any]) -> list[Any]:
        return jax.tree.leaves(case.function(*jax.tree.unflatten(tree, leaves)))

    def restricted(*active: Any) -> list[Any]:
        given = dict(zip(wrt, active, strict=True))
        results = flat([given.get(index, leaf) for index, leaf in enumerate(leaves)])
        return [jax.numpy.asarray(results[index]) for index in outputs]

    active = [leaves[index] for index in wrt]
    tangents = [_direction(function.inputs[index], 17 + index) for index in wrt]
    cotangents = [_direction(function.outputs[index], 71 + index) for index in outputs]
    with jax.enable_x64(any(type_.dtype in _WIDE for type_ in function.inputs)):
        value = jax.jit(flat)(leaves)
        jvp = jax.jit(lambda given: jax.jvp(restricted, active, given)[1])(tangents) if case.forward else None
        vjp = jax.jit(lambda given: jax.vjp(restricted, *active)[1](given))(cotangents) if case.reverse else None
        found = {"leaves": leaves, "tangents": tangents, "cotangents": cotangents, "value": value, "jvp": jvp, "vjp": vjp}
        lists = {name: None if found[name] is None else _raw(found[name], types) for name, types in _types(function).items()}
        return Recording(function.id, function.graph.producer, **lists)  # type: ignore[arg-type]  # only derivatives may be None


def save(recording: Recording, path: Path) -> None:
    """Writes a recording to an ``.npz`` file: each list of arrays as their bytes in a row, for which the graph has the types."""
    lists = {name: getattr(recording, name) for name in _LISTS}
    rows = {name: np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8) for name, arrays in lists.items() if arrays is not None}
    np.savez_compressed(path, id=recording.id, producer=recording.producer, **rows)


def load(path: Path, function: jl.Function) -> Recording:
    """Returns the recording that ``save`` wrote for a function."""
    with np.load(path) as file:
        lists = {name: _split(types, file[name].tobytes()) if name in file else None for name, types in _types(function).items()}
        return Recording(str(file["id"]), str(file["producer"]), **lists)  # type: ignore[arg-type]  # as above


def _split(types: Sequence[Type], data: bytes) -> Arrays:
    """Returns arrays of the given types from their bytes in a row."""
    arrays, first = [], 0
    for type_ in types:
        dtype, shape = storage(type_)
        arrays.append(np.frombuffer(data, dtype, math.prod(shape), first).reshape(shape))
        first += arrays[-1].nbytes
    assert first == len(data)
    return tuple(arrays)


def _types(function: jl.Function) -> dict[str, Sequence[Type]]:
    """Returns the types of the arrays of each list of a recording."""
    active = [function.inputs[index] for index in differentiable(function.inputs)]
    moved = [function.outputs[index] for index in differentiable(function.outputs)]
    return {"leaves": function.inputs, "tangents": active, "cotangents": moved, "value": function.outputs, "jvp": moved, "vjp": active}


def _direction(type_: Type, start: int) -> Any:
    dtype, shape = storage(type_)
    real = spread(*shape, start=start)
    return np.asarray(real * (1 - 0.5j) if dtype.kind == "c" else real).astype(dtype)


def _raw(values: Sequence[Any], types: Sequence[Type]) -> Arrays:
    """Returns values, which must be of the given types, as the arrays that store them."""
    arrays = []
    for value, type_ in zip(values, types, strict=True):
        keyed = isinstance(value, jax.Array) and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
        arrays.append(np.asarray(jax.random.key_data(value) if keyed else value))
        assert (arrays[-1].dtype, arrays[-1].shape) == storage(type_)
    return tuple(arrays)
