"""A function through the whole path of a graph in one process: trace, bytes, check, raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jacloom._trace import Traced, trace
from jacloom_graph import identity, wire
from jacloom_graph.check import check
from jacloom_worker.raising import Program

Flat = Callable[..., list[Any]]


def through_bytes(
    fun: Callable[..., Any], args: Sequence[Any], *, x64: bool | None = None, active: Sequence[int] | None = None
) -> tuple[Program, Traced]:
    """Returns the program that a worker makes of ``fun``, having compared the id that it computes with the client's."""
    traced = trace(fun, tuple(args), x64=x64, active=active)
    graph = wire.from_bytes(wire.to_bytes(traced.graph))
    check(graph)
    assert identity.graph_id(graph) == traced.id
    return Program(graph), traced


def flat(fun: Callable[..., Any], args: Sequence[Any]) -> Flat:
    """Returns ``fun`` as a function of the leaves of ``args`` to the leaves of its result."""
    tree = jax.tree.structure(tuple(args))

    def of_leaves(*leaves: Any) -> list[Any]:
        return jax.tree.leaves(fun(*jax.tree.unflatten(tree, leaves)))

    return of_leaves


def differentiable(leaf: Any) -> bool:
    """Returns whether a leaf can have a tangent."""
    return bool(jax.dtypes.issubdtype(jax.typeof(leaf).dtype, np.inexact))


def directions(leaves: Sequence[Any], seed: int) -> list[Any]:
    """Returns random tangents for the leaves, float0 where there are none."""
    rng = np.random.default_rng(seed)
    return [_direction(leaf, rng) for leaf in leaves]


def _direction(leaf: Any, rng: np.random.Generator) -> Any:
    aval = jax.typeof(leaf)
    if not differentiable(leaf):
        return np.zeros(aval.shape, jax.dtypes.float0)
    real = rng.normal(size=aval.shape)
    value = real + 1j * rng.normal(size=aval.shape) if jax.dtypes.issubdtype(aval.dtype, np.complexfloating) else real
    return np.asarray(value).astype(aval.dtype)
