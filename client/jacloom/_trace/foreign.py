"""Primitives that libraries define for themselves: expanded into what they compute.

The cluster need not have the library. A primitive that the op table does not know is replaced by the trace of its own
implementation, found by asking the primitive and not by a list of names.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from jax.extend import core

from jacloom._trace.activity import Flags
from jacloom._trace.lower import Body, Lowering, unsupported
from jacloom._trace.types import example


def lower_foreign(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Writes a call of the function that an unknown primitive computes.

    Raises:
        Fault: UNSUPPORTED_OP if its implementation cannot be traced.
    """
    try:
        expanded = _implementation(eqn)
    except Exception as error:  # a library's implementation may raise anything
        raise unsupported(
            eqn, f"the op table does not have it, and its implementation cannot be traced ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if any(inner.primitive is eqn.primitive for inner in expanded.jaxpr.eqns):
        raise unsupported(eqn, "the op table does not have it, and its implementation is compiled code")
    function = lowering.function(expanded, active, eqn.primitive.name)
    return body.emit("call", operands, {"function": function}, eqn)


def _implementation(eqn: core.JaxprEqn) -> core.ClosedJaxpr:
    examples = [example(atom.aval) for atom in eqn.invars]
    # Primitives whose functions are parameters of their own kind (a jaxpr) are called with them bound back.
    params: dict[str, Any] = eqn.primitive.get_bind_params(eqn.params)
    return jax.make_jaxpr(partial(eqn.primitive.impl, **params))(*examples)
