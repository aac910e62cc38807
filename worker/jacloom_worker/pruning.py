"""What is left of a jaxpr when only some of its outputs are wanted, and which of its inputs that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr


def pruned(jaxpr: Jaxpr, outputs: Sequence[bool] | None = None) -> Jaxpr:
    """Returns a jaxpr without what some outputs (default: all of them) do not depend on; its inputs stay."""
    left: Jaxpr = dce_jaxpr(jaxpr, _flags(jaxpr, outputs), instantiate=True)[0]
    return left


def without_unused(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Returns a function, traced for arguments of some types, without what its results do not depend on: then it can be batched.

    JAX refuses to batch a JVP that there is not, also where nothing comes of it: a rule that calls its function again, say, whose value is not
    needed.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    flat, structure = jaxpr_as_fun(ClosedJaxpr(pruned(closed.jaxpr), closed.consts)), jax.tree.structure(shapes)
    return lambda *given: jax.tree.unflatten(structure, flat(*jax.tree.leaves(given)))


def needed(jaxpr: Jaxpr, outputs: Sequence[bool] | None = None) -> list[bool]:
    """Returns for each input whether some outputs (default: all of them) depend on it."""
    return list(dce_jaxpr(jaxpr, _flags(jaxpr, outputs))[1])


def _flags(jaxpr: Jaxpr, outputs: Sequence[bool] | None) -> list[bool]:
    return [True] * len(jaxpr.outvars) if outputs is None else list(outputs)
