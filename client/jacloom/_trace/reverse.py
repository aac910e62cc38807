"""Primitives with a reverse rule only, as JAX's high ones may be: the rule of a graph that JAX's own reverse mode makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax._src.interpreters import ad
from jax.dtypes import float0
from jax.extend import core

from jacloom._trace.activity import Flags
from jacloom._trace.calling import call_parameters
from jacloom._trace.known import KnownOperands
from jacloom._trace.lower import Lowering
from jacloom._trace.rules import Reverse, constant_or
from jacloom._trace.types import example, inexact


def has_linearization(primitive: core.Primitive) -> bool:
    """Returns whether JAX's reverse mode asks the primitive itself for its forward pass, and does not derive one from its rule for tangents."""
    return primitive in ad.primitive_linearizations


def trace_reverse(lowering: Lowering, eqn: core.JaxprEqn, operands: Sequence[int], active: Flags, known: KnownOperands) -> Reverse:
    """Returns the passes of the primitive's own rule, whatever its interface is: they are those of ``jax.vjp``.

    Raises:
        Exception: Anything that the rule raises.
    """
    functions, params = call_parameters(eqn)
    avals = [atom.aval for atom in eqn.invars]
    outputs: list[Any] = [var.aval for var in eqn.outvars]
    structure: Any = None
    count = 0

    def ahead(*args: Any) -> list[Any]:
        nonlocal structure, count
        inputs = [known.get(index, arg) for index, arg in enumerate(args)]

        def called(*perturbed: Any) -> list[Any]:
            given = iter(perturbed)
            results = eqn.primitive.bind(*functions, *(next(given) if flag else value for value, flag in zip(inputs, active, strict=True)), **params)
            return list(results) if eqn.primitive.multiple_results else [results]

        results, pulled = jax.vjp(called, *(value for value, flag in zip(inputs, active, strict=True) if flag))
        residuals, structure = jax.tree.flatten(pulled)
        count = len(residuals)
        return [*residuals, *results]

    forward = lowering.called(jax.make_jaxpr(ahead)(*map(example, avals)), operands)
    residuals = forward.jaxpr.outvars[:count]

    def back(*args: Any) -> list[Any]:
        kept = [constant_or(atom, forward, arg) for atom, arg in zip(residuals, args[:count], strict=True)]
        given = iter(args[count:])
        cotangents = [next(given) if inexact(aval) else np.zeros(aval.shape, float0) for aval in outputs]
        return list(jax.tree.unflatten(structure, kept)(cotangents))

    taken = [*(atom.aval for atom in residuals), *(aval.to_tangent_aval() for aval in outputs if inexact(aval))]
    inputs = tuple(index for index, flag in enumerate(active) if flag)
    return Reverse(forward, count, jax.make_jaxpr(back)(*map(example, taken)), inputs)
