"""Whether a derivative that JAX has traced can run: some refusals come only later, without a place."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params
from jax.interpreters.partial_eval import dce_jaxpr

from jacloom_graph.errors import Fault, Place, Reason

REVERSE_ONLY = "a function here has a reverse rule only (a custom_vjp), so it has no JVP; use reverse mode"
"""What is said of forward mode through such a function, wherever it is noticed."""

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
    jaxpr: Jaxpr = dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars), instantiate=True)[0]
    for eqn in _equations(jaxpr, set()):
        if eqn.primitive.name == "custom_lin":
            scopes = _SCOPE.findall(str(eqn.source_info.name_stack))
            place = Place(int(scopes[-1][0]), int(scopes[-1][1]), "custom_call") if scopes else None
            raise Fault(Reason.MODE_UNAVAILABLE, REVERSE_ONLY, place=place)
    return jaxpr


def _equations(jaxpr: Jaxpr, seen: set[int]) -> Iterator[JaxprEqn]:
    """Yields the equations of a jaxpr and of those within it, each jaxpr once."""
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for eqn in jaxpr.eqns:
        yield eqn
        for body in jaxprs_in_params(eqn.params):
            yield from _equations(body, seen)
