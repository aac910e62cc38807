"""Error checks by callback: a branch that does nothing but raise.

Libraries check values at run time by a branch whose callback raises an exception. There is no caller to raise to on a
cluster, so such a branch yields NaN (the largest integer, True) as the libraries' own setting for it does, and a note says so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.extend import core

from jacloom._trace.activity import open_jaxpr
from jacloom._trace.lower import Lowering
from jacloom._trace.types import type_of
from jacloom_graph.types import Constant, Function, Type

_CHECKING_MODULES = ("equinox._errors",)
"""Where callbacks that only raise are defined. A branch with any other callback is refused: it may compute something."""


def is_raising_branch(branch: core.ClosedJaxpr) -> bool:
    """Returns whether every result of a branch comes from a callback that only raises."""
    jaxpr = open_jaxpr(branch)
    callbacks = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "pure_callback"]
    if not callbacks or not all(_only_raises(eqn.params["callback"]) for eqn in callbacks):
        return False
    made: set[Any] = set()
    for eqn in jaxpr.eqns:
        if eqn in callbacks or any(not isinstance(atom, core.Literal) and atom in made for atom in eqn.invars):
            made.update(eqn.outvars)
    return all(not isinstance(atom, core.Literal) and atom in made for atom in jaxpr.outvars)


def lower_raising_branch(lowering: Lowering, branch: core.ClosedJaxpr) -> int:
    """Returns the number of a function that yields not-a-numbers in place of the exception."""
    jaxpr = open_jaxpr(branch)
    outputs = []
    for var in jaxpr.outvars:
        outputs.append(-1 - len(lowering.constants))
        lowering.constants.append(_not_a_number(type_of(var.aval)))
    lowering.notes["an error check was replaced: where it would have raised, the result is NaN"] = None
    number = len(lowering.functions)
    lowering.functions.append(Function("failed check", tuple(type_of(var.aval) for var in jaxpr.invars), (), tuple(outputs)))
    lowering.sources.append([])
    return number


def _only_raises(callback: Any) -> bool:
    function = getattr(callback, "callback_func", callback)
    return str(getattr(function, "__module__", "")).startswith(_CHECKING_MODULES)


def _not_a_number(of: Type) -> Constant:
    dtype = np.dtype(of.dtype)
    value = np.nan if dtype.kind in "fcV" else True if dtype.kind == "b" else np.iinfo(dtype).max
    return Constant(Type(of.dtype, of.shape), np.full(of.shape, value, dtype))
