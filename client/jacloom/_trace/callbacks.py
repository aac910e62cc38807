"""Error checks by callback: a branch that does nothing but raise.

Libraries check values at run time by a branch whose callback raises an exception. There is no caller to raise to on a
cluster, so such a branch yields NaN (the largest integer, True) as the libraries' own setting for it does, and a note says so. Which functions of
the graph stand for failed checks is remembered, so that a NaN of theirs can be told from others.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jacloom._trace.activity import open_jaxpr
from jacloom._trace.lower import Lowering
from jacloom._trace.types import example, inexact, type_of
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


def is_check(closed: core.ClosedJaxpr) -> bool:
    """Returns whether a function does nothing but return its arguments or raise, so that its derivative needs no rule."""
    *before, last = closed.jaxpr.eqns or [None]
    if last is None or last.primitive.name != "cond" or not _among(closed.jaxpr.outvars, last.outvars):
        return False
    if any(inexact(var.aval) for eqn in before for var in eqn.outvars):
        return False
    raising = [is_raising_branch(branch) for branch in last.params["branches"]]
    others = [branch for branch, raises in zip(last.params["branches"], raising, strict=True) if not raises]
    return any(raising) and all(map(is_passing_branch, others))


def is_passing_branch(branch: core.ClosedJaxpr) -> bool:
    """Returns whether a branch does nothing but return arguments."""
    return not branch.jaxpr.eqns and _among(branch.jaxpr.outvars, branch.jaxpr.invars)


def _among(atoms: Sequence[Any], variables: Sequence[Any]) -> bool:
    return all(not isinstance(atom, core.Literal) and atom in variables for atom in atoms)


def lower_raising_branch(lowering: Lowering, branch: core.ClosedJaxpr, passing: core.ClosedJaxpr | None) -> int:
    """Returns the number of a function that yields not-a-numbers in place of the exception.

    Args:
        lowering: The graph.
        branch: The branch that raises.
        passing: The one that is taken where nothing is wrong, if it returns arguments. Of real results the function then returns the same, to be
            multiplied by NaN with ``poisoning``: a constant would cut reverse mode off, and say that derivatives are zero.
    """
    jaxpr = open_jaxpr(branch)
    arguments = {} if passing is None else {var: index for index, var in enumerate(passing.jaxpr.invars)}
    outputs = []
    for place, var in enumerate(jaxpr.outvars):
        argument = None if passing is None or not _is_real(var.aval) else arguments[passing.jaxpr.outvars[place]]
        if argument is None:
            argument = -1 - len(lowering.constants)
            lowering.constants.append(_not_a_number(type_of(var.aval)))
        outputs.append(argument)
    number = len(lowering.functions)
    lowering.checks[number] = check_text(branch)
    lowering.functions.append(Function("failed check", tuple(type_of(var.aval) for var in jaxpr.invars), (), tuple(outputs)))
    lowering.sources.append([])
    return number


def check_text(branch: core.ClosedJaxpr) -> str:
    """Returns what a branch that raises would say, or an empty text where that depends on values or is not found."""
    for eqn in open_jaxpr(branch).eqns:
        if eqn.primitive.name == "pure_callback":
            texts = [text for text in _closure(_function(eqn.params["callback"])).get("msgs", ()) if text]
            return str(texts[0]) if len(texts) == 1 else ""
    return ""


def poisoning(eqn: core.JaxprEqn, raising: Sequence[bool]) -> core.ClosedJaxpr:
    """Returns ``(index, results of a branch..) -> results`` that multiplies by NaN where the branch was one that raises, and else by one.

    Such a branch alone yields a constant, whose derivative is zero: numbers that look right would come of a value that is not there. Complex results
    stay as they are, because an infinite one times one is none.
    """
    factors = [np.nan if raises else 1.0 for raises in raising]

    def poisoned(index: Any, *results: Any) -> list[Any]:
        return [
            result * jax.lax.select_n(index, *(jnp.asarray(factor, result.dtype) for factor in factors)) if _is_real(result) else result
            for result in results
        ]

    avals = [eqn.invars[0].aval, *(var.aval for var in eqn.outvars)]
    return jax.make_jaxpr(poisoned)(*map(example, avals))


def _is_real(result: Any) -> bool:
    return bool(jnp.issubdtype(result.dtype, jnp.floating))


def _only_raises(callback: Any) -> bool:
    return str(getattr(_function(callback), "__module__", "")).startswith(_CHECKING_MODULES)


def _function(callback: Any) -> Any:
    """Returns the library's function in JAX's wrapping."""
    return getattr(callback, "callback_func", callback)


def _closure(function: Any) -> dict[str, Any]:
    """Returns what a function closes over, by name."""
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):  # no Python function, or a variable that is not assigned yet
        return {}


def _not_a_number(of: Type) -> Constant:
    dtype = np.dtype(of.dtype)
    value = np.nan if dtype.kind in "fcV" else True if dtype.kind == "b" else np.iinfo(dtype).max
    return Constant(Type(of.dtype, of.shape), np.full(of.shape, value, dtype))
