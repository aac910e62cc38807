"""Derivatives of one node by itself, at concrete operands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacloom_graph.errors import Fault
from jacloom_worker.watched import Watched

Apply = Callable[[Sequence[Any]], Sequence[Any]]
"""``operands -> results``: a node, evaluated on arrays."""


def moved(apply: Apply, operands: Sequence[Watched]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Returns a node's results and their tangents, along the operands' own; None for tangents that are zero by structure."""
    values = [each.value for each in operands]
    if any(each.tangent is not None for each in operands):
        try:
            return pushed(apply, values, [each.tangent for each in operands])
        except Fault:
            results = apply(values)
            # Something must go on, so that nodes further on count as differentiated.
            return results, [np.ones(result.shape, result.dtype) if jnp.issubdtype(result.dtype, jnp.inexact) else None for result in results]
    results = apply(values)
    return results, [None] * len(results)


def steepness(apply: Apply, operands: Sequence[Watched]) -> list[tuple[int, Any]]:
    """Returns a node's derivative along ones, of each operand that moves: pairs of a result's number and its derivative.

    Where the node has none forward, the cotangents of its operands for ones at all results; they belong to no one result, and count as the first's.
    """
    values, moving = [each.value for each in operands], [each.tangent is not None for each in operands]
    if not any(moving):
        return []
    ones = [np.ones(value.shape, value.dtype) if moves else None for value, moves in zip(values, moving, strict=True)]
    try:
        return [(result, slope) for result, slope in enumerate(pushed(apply, values, ones)[1]) if slope is not None]
    except Fault:
        return [(0, slope) for slope in pulled(apply, values, moving)]


def pushed(apply: Apply, values: Sequence[Any], tangents: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Returns a node's results, and their derivatives along tangents of the operands; None for tangents that are zero by structure.

    Raises:
        Fault: The node has no derivative forward.
    """
    moving = {at: tangent for at, tangent in enumerate(tangents) if tangent is not None}
    moves: list[bool] = []

    def function(*active: Any) -> list[Any]:
        results = list(apply(_replaced(values, moving, active)))
        # What has no tangent, JAX hands back as plain values; outside it would have been filled with zeros.
        moves[:] = [isinstance(result, jax.core.Tracer) for result in results]
        return results

    results, out = jax.jvp(function, [values[at] for at in moving], list(moving.values()))
    return results, [tangent if flag else None for tangent, flag in zip(out, moves, strict=True)]


def pulled(apply: Apply, values: Sequence[Any], moving: Sequence[bool]) -> list[Any]:
    """Returns ones times a node's derivative by the operands that move, for nodes that have it in reverse only; nothing where there is none."""
    chosen = [at for at, flag in enumerate(moving) if flag]

    def function(*active: Any) -> list[Any]:
        return [result for result in apply(_replaced(values, chosen, active)) if jnp.issubdtype(result.dtype, jnp.inexact)]

    try:
        results, pull = jax.vjp(function, *(values[at] for at in chosen))
        return list(pull([jnp.ones_like(result) for result in results]))
    except (Fault, TypeError, ValueError, NotImplementedError):
        return []


def _replaced(values: Sequence[Any], places: Iterable[int], active: Sequence[Any]) -> list[Any]:
    arguments = list(values)
    for at, value in zip(places, active, strict=True):
        arguments[at] = value
    return arguments
