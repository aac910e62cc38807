"""Primitives that libraries define for themselves: expanded into what they compute.

The cluster need not have the library. A primitive that the op table does not know is replaced by the trace of its own
implementation, found by asking the primitive and not by a list of names.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.extend import core

from jacloom._trace import lineax
from jacloom._trace.activity import Flags
from jacloom._trace.calling import call_parameters
from jacloom._trace.lower import Body, Lowering, unsupported
from jacloom._trace.types import example
from jacloom_graph.types import Rule


def lower_foreign(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Writes a call of the function that an unknown primitive computes.

    Raises:
        Fault: UNSUPPORTED_OP if its implementation cannot be traced.
    """
    if eqn.primitive.name == "linear_call":
        raise unsupported(eqn, "a graph has no word for the transpose that it brings; write a jax.custom_vjp instead")
    try:
        if lineax.is_solve(eqn.primitive, eqn.params) and any(active):
            expanded = _traced(eqn, lineax.solve(eqn.primitive, eqn.params))
        else:
            expanded = _implementation(eqn)
    except lineax.PseudoInverse:
        rule = Rule(lowering.function(_implementation(eqn), active, eqn.primitive.name), active, _PSEUDO_INVERSE)
        lowering.rules.append(rule)
        return body.emit("custom_call", operands, {"rule": len(lowering.rules) - 1}, eqn)
    except Exception as error:  # a library's implementation may raise anything
        raise unsupported(
            eqn, f"the op table does not have it, and its implementation cannot be traced ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if any(inner.primitive is eqn.primitive for inner in expanded.jaxpr.eqns):
        raise unsupported(eqn, "the op table does not have it, and its implementation is compiled code")
    function = lowering.function(expanded, active, eqn.primitive.name)
    return body.emit("call", operands, {"function": function}, eqn)


_PSEUDO_INVERSE = "a lineax solve has a derivative here where its operator is square and its solver assumes full rank, as LU, Cholesky and CG do"


def _implementation(eqn: core.JaxprEqn) -> core.ClosedJaxpr:
    # Primitives whose functions are parameters of their own kind (a jaxpr) are called with them bound back.
    functions, params = call_parameters(eqn)
    return _traced(eqn, partial(eqn.primitive.impl, *functions, **params))


def _traced(eqn: core.JaxprEqn, function: Callable[..., Any]) -> core.ClosedJaxpr:
    return jax.make_jaxpr(function)(*(example(atom.aval) for atom in eqn.invars))
