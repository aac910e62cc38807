"""Whether a derivative that JAX has traced can run: some refusals come only later, without a place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from jacloom_graph.errors import Fault, Place, Reason

REVERSE_ONLY = "a function here has a reverse rule only (a custom_vjp), so it has no JVP; use reverse mode"
"""What is said of forward mode through such a function, wherever it is noticed."""

_MISSING_JVP = "custom_lin"
"""What JAX puts where a function with a reverse rule only would have to be differentiated forward."""
_SCOPE = re.compile(r"node(\d+)_(\d+)")


def scope(place: Place) -> str:
    """Returns the name for ``jax.named_scope`` by which ``live`` finds the place of an equation again."""
    return f"node{place.function}_{place.node}"


def live(closed: ClosedJaxpr) -> Jaxpr:
    """Returns a jaxpr without what its outputs do not depend on, as XLA will see it; its inputs stay.

    Raises:
        Fault: MODE_UNAVAILABLE if what is left needs a JVP of a function that has a reverse rule only. JAX traces that without complaint,
            because a VJP may still come of it, and refuses in the compiler.
    """
    jaxpr = pruned(closed)
    refusal = reverse_only(jaxpr)
    if refusal is not None:
        raise refusal
    return jaxpr


def pruned(closed: ClosedJaxpr) -> Jaxpr:
    """Returns a jaxpr without what its outputs do not depend on; its inputs stay."""
    jaxpr: Jaxpr = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)[0]
    return jaxpr


def reverse_only(jaxpr: Jaxpr) -> Fault | None:
    """Returns the fault of a pruned jaxpr that needs a JVP of a function that has a reverse rule only; None if it needs none."""
    for eqn in _equations(jaxpr, set()):
        if eqn.primitive.name == _MISSING_JVP:
            scopes = _SCOPE.findall(str(eqn.source_info.name_stack))
            place = Place(int(scopes[-1][0]), int(scopes[-1][1]), "custom_call") if scopes else None
            return Fault(Reason.MODE_UNAVAILABLE, REVERSE_ONLY, place=place)
    return None


def reaching_reverse_only(jaxpr: Jaxpr) -> list[bool] | None:
    """Returns which inputs of a pruned JVP flow into functions that have a reverse rule only; None where such a function is within a loop or branch.

    Each of those inputs has no derivative of its own, and the others have one: whether a rule is called depends on nothing else.
    """
    operands: list[Any] = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == _MISSING_JVP:
            operands += eqn.invars[eqn.params["num_res"] :]
            continue
        bodies = [body for body in jaxprs_in_params(eqn.params) if reverse_only(body) is not None]
        if not bodies:
            continue
        # Operands of a call are the inputs of its body, one by one; those of a loop or a branch are not.
        flags = reaching_reverse_only(bodies[0]) if eqn.primitive.name == "jit" else None
        if flags is None:
            return None
        operands += [operand for operand, flag in zip(eqn.invars, flags, strict=True) if flag]
    needed = [operand for operand in operands if isinstance(operand, Var)]
    cut = jaxpr.replace(outvars=needed, debug_info=jaxpr.debug_info.with_unknown_names())
    return list(dce_jaxpr(cut, [True] * len(needed))[1])


def _equations(jaxpr: Jaxpr, seen: set[int]) -> Iterator[JaxprEqn]:
    """Yields the equations of a jaxpr and of those within it, each jaxpr once."""
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for eqn in jaxpr.eqns:
        yield eqn
        for body in jaxprs_in_params(eqn.params):
            yield from _equations(body, seen)
