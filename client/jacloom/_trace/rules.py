"""Custom derivative rules: traced for the inputs that are perturbed, and tied to a knot where a rule calls its own function.

A rule is traced anew for every order of derivative it may be asked for: the rule of a function mostly calls that function
again, whose rule is then lowered inside it, and so on. The recursion ends where a rule comes back to one that is being
lowered (same content, same Python function, same active inputs), which becomes a reference; or at ``max_rule_order``, beyond
which the rule refuses by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
from jax._src.core import eval_jaxpr
from jax._src.interpreters.ad import Zero
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0
from jax.extend import core

from jacloom._trace.activity import Flags
from jacloom._trace.callbacks import is_check
from jacloom._trace.calling import call_parameters
from jacloom._trace.fingerprint import fingerprint
from jacloom._trace.lower import Body, Lowering
from jacloom._trace.provenance import provenance
from jacloom._trace.types import example, inexact
from jacloom_graph.types import JvpRule, Rule, VjpRule


def custom_jvp(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Writes a call of a function with a forward rule."""
    if is_check(eqn.params["call_jaxpr"]):
        # Its rule hands the tangents on, as nobody gets them where it raises. Here somebody does, and must not take them for numbers.
        return _call(lowering, body, eqn, operands, active)
    return _custom(lowering, body, eqn, operands, active, _jvp_rule)


def custom_vjp(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Writes a call of a function with a reverse rule."""
    return _custom(lowering, body, eqn, operands, active, _vjp_rule)


def _call(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    function = lowering.function(lowering.called(eqn.params["call_jaxpr"], operands), active)
    return body.emit("call", operands, {"function": function}, eqn)


_RuleMaker = Callable[[Lowering, core.JaxprEqn, list[int], Flags], int]


def _custom(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags, make: _RuleMaker) -> list[int]:
    if not any(active):
        return _call(lowering, body, eqn, operands, active)
    return body.emit("custom_call", operands, {"rule": make(lowering, eqn, operands, active)}, eqn)


def _jvp_rule(lowering: Lowering, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> int:
    (_, rule), _ = call_parameters(eqn)
    closed = lowering.called(eqn.params["call_jaxpr"], operands)
    try:
        jaxpr, outputs = _trace_jvp(eqn, rule, active)
        require_forward(jaxpr)
    except Exception as error:  # whatever a user's rule raises is what differentiating has to say
        return refusing(lowering, closed, active, _name(eqn), error)
    jaxpr = lowering.called(jaxpr, operands)
    lowering.uses.note(jaxpr, len(active))

    def derivative() -> JvpRule:
        tangents = tuple(flag for flag in active if flag)
        return JvpRule(lowering.function(jaxpr, (*active, *tangents), "jvp"), outputs)

    return tied(lowering, closed, active, ("jvp", provenance(eqn)), [jaxpr], _name(eqn), derivative)


def _vjp_rule(lowering: Lowering, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> int:
    (_, ahead, back), _ = call_parameters(eqn)
    closed = lowering.called(eqn.params["call_jaxpr"], operands)
    try:
        forward, count = _trace_forward(eqn, ahead, active)
        forward = lowering.called(forward, operands)
        backward, inputs = _trace_backward(eqn, back, active, forward, count)
    except Exception as error:  # as above
        return refusing(lowering, closed, active, _name(eqn), error)
    return reverse_rule(lowering, closed, active, ("vjp", provenance(eqn)), _name(eqn), Reverse(forward, count, backward, inputs))


@dataclass(frozen=True)
class Reverse:
    """The two passes of a reverse rule."""

    forward: core.ClosedJaxpr
    """``(inputs..) -> (residuals.., outputs..)``."""
    residuals: int
    """How many there are."""
    backward: core.ClosedJaxpr
    """``(residuals.., cotangents of inexact outputs..) -> (cotangents..)``."""
    inputs: tuple[int, ...]
    """Those that receive a cotangent."""


def reverse_rule(lowering: Lowering, closed: core.ClosedJaxpr, active: Flags, content: Hashable, name: str, passes: Reverse) -> int:
    """Returns the number of a function's reverse rule."""
    forward, backward = passes.forward, passes.backward

    def derivative() -> VjpRule:
        reached = lowering.activity.outputs(forward.jaxpr, active)[: passes.residuals]
        cotangents = tuple(inexact(var.aval) for var in backward.jaxpr.invars[passes.residuals :])
        return VjpRule(lowering.function(forward, active, "forward"), lowering.function(backward, (*reached, *cotangents), "backward"), passes.inputs)

    return tied(lowering, closed, active, content, [forward, backward], name, derivative)


def tied(
    lowering: Lowering,
    closed: core.ClosedJaxpr,
    active: Flags,
    content: Hashable,
    programs: Sequence[core.ClosedJaxpr],
    name: str,
    derivative: Callable[[], JvpRule | VjpRule],
    max_order: int | None = None,
) -> int:
    """Returns the number of a function's rule: that of the same content which is being lowered already, or was in the same place, or of a new one.

    Args:
        lowering: The graph.
        closed: The function.
        active: Its active inputs.
        content: What tells the rule from others of the function, besides its programs.
        programs: The rule's own functions.
        name: For people.
        derivative: Lowers the rule's own functions.
        max_order: How deep in rules it may lie; default: ``lowering.max_rule_order``.
    """
    numbers = lowering.parameter_numbers
    key = (active, fingerprint(closed, numbers), content, *(fingerprint(each, numbers) for each in programs))
    if key in lowering.open_rules:
        return lowering.open_rules[key]
    # Derivatives of derivatives apply one function in many places, and each would be followed to the highest order.
    places = lowering.uses.inside(closed.jaxpr).union(*(lowering.uses.inside(program.jaxpr) for program in programs))
    exact = (active, content, frozenset(lowering.open_rules), places, *(fingerprint(each, numbers, exact=True) for each in (closed, *programs)))
    if exact in lowering.closed_rules:
        return lowering.closed_rules[exact]
    most = lowering.max_rule_order if max_order is None else max_order
    if len(lowering.open_rules) >= most:
        return _add(lowering, closed, active, name, f"the rule of {name} is known up to derivatives of order {most}")
    number = len(lowering.rules)
    lowering.rules.append(None)
    function = lowering.function(closed, active, name)
    lowering.open_rules[key] = number
    try:
        lowering.rules[number] = Rule(function, active, derivative())
    finally:
        del lowering.open_rules[key]
    lowering.remember(exact, number, (closed, *programs))
    return number


def require_forward(rule: core.ClosedJaxpr) -> None:
    """Checks that a rule's program can be written down.

    Raises:
        TypeError: It differentiates a function with a reverse rule only. JAX traces that without complaint, for a VJP may come of it.
    """
    waiting: list[Any] = [rule.jaxpr]
    while waiting:
        for eqn in waiting.pop().eqns:
            if eqn.primitive.name in MISSING_JVP:
                raise TypeError("it differentiates a function that has a reverse rule only (a custom_vjp), which has no JVP")
            waiting += core.jaxprs_in_params(eqn.params)


MISSING_JVP: Final = ("custom_lin", "call_hi_primitive_linearized")
"""What JAX puts where a function with a reverse rule only would have to be differentiated forward."""


def refusing(lowering: Lowering, closed: core.ClosedJaxpr, active: Flags, name: str, *errors: Exception) -> int:
    """Returns the number of a rule for a function whose own rules raise errors: whoever differentiates it gets the errors' texts."""
    return _add(lowering, closed, active, name, f"the rule of {name} refuses: {'; '.join(map(_text, errors))}")


def _text(error: Exception) -> str:
    # The text is part of the graph's id, so it must be the same in every process: JAX's further lines tell of this machine's files.
    text = _ADDRESS.sub("", next(iter(str(error).strip().splitlines()), ""))[:500]
    return f"{type(error).__name__}: {text}"


_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def _add(lowering: Lowering, closed: core.ClosedJaxpr, active: Flags, name: str, refusal: str) -> int:
    function = lowering.function(closed, active, name)
    lowering.rules.append(Rule(function, active, refusal))
    return len(lowering.rules) - 1


def _name(eqn: core.JaxprEqn) -> str:
    return str(eqn.params["call_jaxpr"].jaxpr.debug_info.func_name)


def _trace_jvp(eqn: core.JaxprEqn, jvp: Any, active: Flags) -> tuple[core.ClosedJaxpr, tuple[int, ...]]:
    """Returns (inputs.., active tangents..) -> (outputs.., tangents..) and which outputs have one."""
    avals = [atom.aval for atom in eqn.invars]
    symbolic = eqn.params["symbolic_zeros"]
    outputs: list[int] = []

    def rule(*args: Any) -> list[Any]:
        primals, given = args[: len(avals)], iter(args[len(avals) :])
        tangents = [next(given) if flag else _no_tangent(aval, symbolic) for aval, flag in zip(avals, active, strict=True)]
        results = jvp.call_wrapped(*primals, *tangents)
        values, found = results[: len(results) // 2], results[len(results) // 2 :]
        outputs[:] = [index for index, tangent in enumerate(found) if not is_zero(tangent)]
        return [*values, *(found[index] for index in outputs)]

    tangents = [aval.to_tangent_aval() for aval, flag in zip(avals, active, strict=True) if flag]
    return _trace_rule(rule, (*avals, *tangents), eqn.invars), tuple(outputs)


def _no_tangent(aval: Any, symbolic: bool) -> Any:
    """Returns what JAX hands a rule for an input that is not perturbed: a symbolic zero where the rule asked for such, else zeros."""
    return SymbolicZero(aval.to_tangent_aval()) if symbolic else zero_tangent(aval)


def zero_tangent(aval: Any) -> Any:
    """Returns a tangent of zero for a value of the type."""
    tangent = aval.to_tangent_aval()
    return np.zeros(tangent.shape, float0) if tangent.dtype == float0 else jax.numpy.zeros(tangent.shape, tangent.dtype)


def is_zero(tangent: Any) -> bool:
    """Returns whether what a rule returns stands for a tangent or cotangent of zero."""
    return isinstance(tangent, (SymbolicZero, Zero)) or tangent is None or getattr(tangent, "dtype", None) == float0


def _trace_forward(eqn: core.JaxprEqn, forward: Any, active: Flags) -> tuple[core.ClosedJaxpr, int]:
    """Returns (inputs..) -> (residuals.., outputs..) and the number of residuals."""
    count = 0

    def rule(*args: Any) -> list[Any]:
        nonlocal count
        flat = [item for pair in zip(args, active, strict=True) for item in pair]
        results = iter(forward.call_wrapped(*flat))
        # JAX leaves out residuals that are inputs; here they are outputs like the others.
        _, _, forwarded = eqn.params["out_trees"]()
        residuals = [next(results) if source is None else args[source] for source in forwarded]
        count = len(residuals)
        return [*residuals, *results]

    return _trace_rule(rule, [atom.aval for atom in eqn.invars], eqn.invars), count


def _trace_backward(
    eqn: core.JaxprEqn, backward: Any, active: Flags, forward: core.ClosedJaxpr, count: int
) -> tuple[core.ClosedJaxpr, tuple[int, ...]]:
    """Returns (residuals.., cotangents of inexact outputs..) -> (cotangents..) and which inputs receive one."""
    outputs: list[Any] = [var.aval for var in eqn.outvars]
    residuals = forward.jaxpr.outvars[:count]
    inputs: list[int] = []

    def rule(*args: Any) -> list[Any]:
        # A rule may branch in Python on a residual that its forward part set to a constant, so constants stay what they are.
        kept = [constant_or(atom, forward, arg) for atom, arg in zip(residuals, args[:count], strict=True)]
        given = iter(args[count:])
        cotangents = [next(given) if inexact(aval) else np.zeros(aval.shape, float0) for aval in outputs]
        found = backward.call_wrapped(*kept, *cotangents)
        if jax.__version_info__ >= (0, 11):  # since then a pair of the cotangents and what the rule logged
            found, _ = found
        inputs[:] = [index for index, (cotangent, flag) in enumerate(zip(found, active, strict=True)) if flag and not is_zero(cotangent)]
        return [found[index] for index in inputs]

    cotangents = [aval.to_tangent_aval() for aval in outputs if inexact(aval)]
    return _trace_rule(rule, (*(atom.aval for atom in residuals), *cotangents), ()), tuple(inputs)


def constant_or(atom: Any, closed: core.ClosedJaxpr, otherwise: Any) -> Any:
    """Returns the constant that a jaxpr's output is, or ``otherwise``."""
    if isinstance(atom, core.Literal):
        return atom.val
    constants = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    return constants.get(atom, otherwise)


def _trace_rule(rule: Callable[..., list[Any]], avals: Sequence[Any], operands: Sequence[Any]) -> core.ClosedJaxpr:
    """Returns the jaxpr of a rule.

    A rule may close over a value of the trace that its call stands in (a parameter of an enclosing jit, say). JAX makes such
    values operands of the call, in ``operands``, and here they become the rule's own inputs of the same place.

    Raises:
        ValueError: if the rule closes over a traced value that is not an operand; JAX cannot differentiate it either.
    """
    closed = jax.make_jaxpr(rule)(*map(example, avals))
    captured = {index: value for index, value in enumerate(closed.consts) if isinstance(value, jax.core.Tracer)}
    if not captured:
        return closed
    positions = {index: _position(value, operands) for index, value in captured.items()}

    def opened(*args: Any) -> list[Any]:
        consts = [args[positions[index]] if index in positions else value for index, value in enumerate(closed.consts)]
        return eval_jaxpr(closed.jaxpr, consts, *args)

    return jax.make_jaxpr(opened)(*map(example, avals))


def _position(tracer: Any, operands: Sequence[Any]) -> int:
    variable = getattr(tracer, "val", None)
    for position, operand in enumerate(operands):
        if operand is variable:
            return position
    raise ValueError(CLOSES_OVER)


CLOSES_OVER = "it closes over a traced value; pass the value as an argument of the function instead"
