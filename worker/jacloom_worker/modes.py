"""Whether a derivative that JAX has traced can run: some refusals come only later, without a place."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxprs_in_params

from jacloom_graph.errors import Fault, Place, Reason
from jacloom_worker.pruning import needed, pruned

WAYS_OUT = "use reverse mode, or a variant of the function that supports forward mode"
"""What can be done about a first derivative that is refused as ``REVERSE_ONLY``."""
REVERSE_ONLY = f"a function here has a reverse rule only (a custom_vjp), so it has no JVP; {WAYS_OUT}"
"""What is said of forward mode through such a function, wherever it is noticed."""

_MISSING_JVP = "custom_lin"
"""What JAX puts where a function with a reverse rule only would have to be differentiated forward."""
_SCOPE = re.compile(r"node(\d+)_(\d+)_(\w+)")
_RULE = re.compile(r"\brule(\d+)_")


def scope(place: Place) -> str:
    """Returns the name for ``jax.named_scope`` by which the place of an equation is found again."""
    return f"node{place.function}_{place.node}_{place.op}"


def rule_scope(number: int) -> str:
    """Returns the name for ``jax.named_scope`` by which the custom rule of an equation is found again."""
    return f"rule{number}_"


def rule_of(eqn: JaxprEqn) -> int | None:
    """Returns the number, in its graph, of the rule by which an equation that calls a function with one is differentiated."""
    numbers = _RULE.findall(str(eqn.source_info.name_stack))
    return int(numbers[-1]) if numbers else None


def place_of(eqn: JaxprEqn) -> Place | None:
    """Returns the innermost place around an equation that has a scope: that of a node with functions, such as a loop or a custom rule."""
    scopes = _SCOPE.findall(str(eqn.source_info.name_stack))
    return Place(int(scopes[-1][0]), int(scopes[-1][1]), scopes[-1][2]) if scopes else None


def place_of_failure(error: BaseException) -> Place | None:
    """Returns the place of the equation that JAX was looking at when it raised, or None.

    What is evaluated node by node fails at a node. A transpose is made by JAX on its own, long after, and does not say where it was; its frames do.
    """
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        eqn = frame.f_locals.get("eqn")
        place = place_of(eqn) if isinstance(eqn, JaxprEqn) else None
        if place is not None:
            return place
    return None


def live(closed: ClosedJaxpr) -> Jaxpr:
    """Returns a jaxpr without what its outputs do not depend on, as XLA will see it; its inputs stay.

    Raises:
        Fault: MODE_UNAVAILABLE if what is left needs a JVP of a function that has a reverse rule only. JAX traces that without complaint,
            because a VJP may still come of it, and refuses in the compiler.
    """
    jaxpr = pruned(closed.jaxpr)
    refusal = reverse_only(jaxpr)
    if refusal is not None:
        raise refusal
    return jaxpr


def reverse_only(jaxpr: Jaxpr) -> Fault | None:
    """Returns the fault of a pruned jaxpr that needs a JVP of a function that has a reverse rule only; None if it needs none."""
    for eqn in equations(jaxpr, set()):
        if eqn.primitive.name == _MISSING_JVP:
            return Fault(Reason.MODE_UNAVAILABLE, REVERSE_ONLY, place=place_of(eqn))
    return None


def reaching_reverse_only(jaxpr: Jaxpr) -> list[bool] | None:
    """Returns which inputs of a pruned JVP flow into functions that have a reverse rule only.

    Each of those inputs has no derivative of its own, and the others have one: whether a rule is called depends on nothing else. None where such a
    function is within a ``while`` or a branch, which are not looked into.
    """
    operands = _operands(jaxpr)
    return None if operands is None else _needed(jaxpr, operands)


def _operands(jaxpr: Jaxpr) -> list[Any] | None:
    """Returns what is handed to functions with a reverse rule only, as far as it is a value of this jaxpr; or None as above."""
    found: list[Any] = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == _MISSING_JVP:
            found += eqn.invars[eqn.params["num_res"] :]
            continue
        bodies = [body for body in jaxprs_in_params(eqn.params) if reverse_only(body) is not None]
        if not bodies:
            continue
        # The operands of a call, and of a scan, are the inputs of its body one by one.
        inner = _operands(bodies[0]) if eqn.primitive.name in ("jit", "scan") else None
        if inner is None:
            return None
        first, carries = scan_counts(eqn.params) if eqn.primitive.name == "scan" else (0, 0)
        flags = _through_carries(bodies[0], inner, first, carries)
        found += [operand for operand, flag in zip(eqn.invars, flags, strict=True) if flag]
    return found


def _through_carries(body: Jaxpr, wanted: list[Any], first: int, carries: int) -> list[bool]:
    """Returns which inputs of a body flow into some of its values, in any number of rounds; its carries begin at input ``first``."""
    flags = _needed(body, wanted)
    while True:
        handed = [out for out, flag in zip(body.outvars[:carries], flags[first : first + carries], strict=True) if flag]
        grown = _needed(body, [*wanted, *handed])
        if grown == flags:
            return flags
        flags = grown


def _needed(jaxpr: Jaxpr, values: list[Any]) -> list[bool]:
    """Returns which inputs of a jaxpr some of its values depend on."""
    kept = [value for value in values if isinstance(value, Var)]
    cut = jaxpr.replace(outvars=kept, debug_info=jaxpr.debug_info.with_unknown_names())
    return needed(cut)


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many of a scan's operands are constants and how many are carries, given its parameters."""
    if "ft_in" in params:  # JAX 0.11 keeps the three groups of operands in one record
        constants, carries = params["ft_in"].unpack()[:2]
        return len(constants), len(carries)
    return params["num_consts"], params["num_carry"]


def equations(jaxpr: Jaxpr, seen: set[int]) -> Iterator[JaxprEqn]:
    """Yields the equations of a jaxpr and of those within it, each jaxpr once."""
    if id(jaxpr) in seen:
        return
    seen.add(id(jaxpr))
    for eqn in jaxpr.eqns:
        yield eqn
        for body in jaxprs_in_params(eqn.params):
            yield from equations(body, seen)
