"""Primitives that libraries define for themselves: expanded into what they compute, with the derivatives that they bring.

The cluster need not have the library. A primitive that the op table does not know is replaced by the trace of its own implementation, found by
asking the primitive and not by a list of names. Its rule for tangents, and its transpose where that rule applies it to tangents, become a rule of
the graph: a library may cut its implementation off from differentiation (lineax's ``linear_solve``), or refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import ad

from jacloom._trace.activity import Flags
from jacloom._trace.calling import call_parameters
from jacloom._trace.fingerprint import fingerprint
from jacloom._trace.lower import Body, Lowering, unsupported
from jacloom._trace.lowered import implementation
from jacloom._trace.rules import is_zero, refusing, tied, zero_tangent
from jacloom._trace.tangents import note_linear, reached
from jacloom._trace.types import example, inexact
from jacloom_graph.types import JvpRule, TransposeRule


def lower_foreign(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Writes a call of the function that an unknown primitive computes.

    Raises:
        Fault: UNSUPPORTED_OP if its implementation cannot be traced.
    """
    known: Mapping[int, Any] = {}
    try:
        try:
            expanded = _implementation(eqn, known)
        except jax.errors.ConcretizationTypeError:
            # It reads the value of an operand in Python, which says what to compute. That of a constant is there to be read.
            known = _constants(lowering, operands)
            if not known:
                raise
            expanded = _implementation(eqn, known)
    except RecursionError as error:  # it calls itself by being compiled
        raise unsupported(eqn, _COMPILED) from error
    except Exception as error:  # a library's implementation may raise anything
        raise unsupported(
            eqn, f"the op table does not have it, and its implementation cannot be traced ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    if any(inner.primitive is eqn.primitive for inner in expanded.jaxpr.eqns):
        raise unsupported(eqn, _COMPILED)
    if any(active) and eqn.primitive in ad.primitive_jvps:
        return body.emit("custom_call", operands, {"rule": _rule(lowering, eqn, expanded, active, known)}, eqn)
    linear = lowering.linear.get(id(eqn), ())
    if any(active) and len(linear) == 1:
        rule = _linear_rule(lowering, eqn, expanded, active, *linear)
        if rule is not None:
            return body.emit("custom_call", operands, {"rule": rule}, eqn)
    return body.emit("call", operands, {"function": lowering.function(expanded, active, eqn.primitive.name)}, eqn)


_COMPILED = "the op table does not have it, and its implementation is compiled code"


def _implementation(eqn: core.JaxprEqn, known: Mapping[int, Any]) -> core.ClosedJaxpr:
    # Primitives whose functions are parameters of their own kind (a jaxpr) are called with them bound back.
    functions, params = call_parameters(eqn)
    function = partial(implementation(eqn.primitive), *functions, **params)
    return _traced(lambda *args: function(*_with(known, args)), [atom.aval for atom in eqn.invars])


def _constants(lowering: Lowering, operands: Sequence[int]) -> dict[int, Any]:
    """Returns the values of those operands that are constants of the graph, by position."""
    found = {index: lowering.constants[-1 - operand] for index, operand in enumerate(operands) if operand < 0}
    return {index: constant.data for index, constant in found.items() if not constant.type.dtype.startswith("key")}


def _with(known: Mapping[int, Any], args: Sequence[Any]) -> tuple[Any, ...]:
    # A tuple, as JAX hands them to rules: some rules map over them, and lists are other trees.
    return tuple(known.get(index, arg) for index, arg in enumerate(args))


def _rule(lowering: Lowering, eqn: core.JaxprEqn, expanded: core.ClosedJaxpr, active: Flags, known: Mapping[int, Any]) -> int:
    """Returns the number of the rule that the primitive brings."""
    name = eqn.primitive.name
    try:
        jvp = _trace_jvp(eqn, active, known)
    except Exception as error:  # whatever a library's rule raises is what differentiating has to say
        return refusing(lowering, expanded, active, name, error)

    linear = _linear_inputs(eqn.primitive, jvp.jaxpr, len(eqn.invars))
    transpose = _trace_transpose(eqn, linear, jvp.outputs) if linear and eqn.primitive in ad.primitive_transposes else None
    return _tied(lowering, eqn, expanded, active, jvp, linear, transpose)


def _linear_rule(lowering: Lowering, eqn: core.JaxprEqn, expanded: core.ClosedJaxpr, active: Flags, linear: tuple[int, ...]) -> int | None:
    """Returns the number of the rule of a primitive that has a transpose only: for tangents, it is differentiated as what it computes.

    None if one of the two cannot be traced: it stays what it computes, in both modes.
    """
    inputs = expanded.in_avals
    function = core.jaxpr_as_fun(expanded)

    def rule(*args: Any) -> list[Any]:
        given = iter(args[len(inputs) :])
        tangents = [next(given) if flag else zero_tangent(aval) for aval, flag in zip(inputs, active, strict=True)]
        values, found = jax.jvp(function, args[: len(inputs)], tuple(tangents))
        return [*values, *(found[index] for index in outputs)]

    outputs = tuple(index for index, aval in enumerate(expanded.out_avals) if inexact(aval))
    try:
        jaxpr = _traced(rule, [*inputs, *(aval.to_tangent_aval() for aval, flag in zip(inputs, active, strict=True) if flag)])
    except Exception:  # a library's implementation may be anything
        return None
    transpose = _trace_transpose(eqn, linear, outputs)
    return None if transpose is None else _tied(lowering, eqn, expanded, active, _Jvp(jaxpr, outputs), linear, transpose)


def _tied(
    lowering: Lowering,
    eqn: core.JaxprEqn,
    expanded: core.ClosedJaxpr,
    active: Flags,
    jvp: _Jvp,
    linear: tuple[int, ...],
    transpose: core.ClosedJaxpr | None,
) -> int:
    name = eqn.primitive.name

    def derivative() -> JvpRule:
        tangents = tuple(flag for flag in active if flag)
        note_linear(lowering, jvp.jaxpr, len(active))
        function = lowering.function(jvp.jaxpr, (*active, *tangents), f"{name} jvp")
        if transpose is None:
            return JvpRule(function, jvp.outputs)
        rest = tuple(flag for index, flag in enumerate(active) if index not in linear)
        transposed = lowering.function(transpose, (*rest, *(True for _ in jvp.outputs)), f"{name} transpose")
        return JvpRule(function, jvp.outputs, TransposeRule(transposed, linear))

    content = ("foreign", id(eqn.primitive), fingerprint(jvp.jaxpr), None if transpose is None else fingerprint(transpose))
    return tied(lowering, expanded, active, content, name, derivative)


@dataclass(frozen=True)
class _Jvp:
    jaxpr: core.ClosedJaxpr
    """``(inputs.., active tangents..) -> (outputs.., tangents..)``."""
    outputs: tuple[int, ...]
    """The outputs that have a tangent."""


def _trace_jvp(eqn: core.JaxprEqn, active: Flags, known: Mapping[int, Any]) -> _Jvp:
    avals = [atom.aval for atom in eqn.invars]
    outputs: list[int] = []

    def rule(*args: Any) -> list[Any]:
        given = iter(args[len(avals) :])
        tangents = [next(given) if flag else ad.Zero(aval.to_tangent_aval()) for aval, flag in zip(avals, active, strict=True)]
        results = ad.primitive_jvps[eqn.primitive](_with(known, args[: len(avals)]), tangents, **eqn.params)
        values, found = results if eqn.primitive.multiple_results else ([results[0]], [results[1]])
        outputs[:] = [index for index, tangent in enumerate(found) if not is_zero(tangent)]
        return [*values, *(found[index] for index in outputs)]

    tangents = [aval.to_tangent_aval() for aval, flag in zip(avals, active, strict=True) if flag]
    return _Jvp(_traced(rule, [*avals, *tangents]), tuple(outputs))


def _linear_inputs(primitive: Any, closed: core.ClosedJaxpr, primals: int) -> tuple[int, ...]:
    """Returns the operands in which tangents reach the primitive within its own rule, if they are always the same: there it is linear."""
    tangents = range(primals, len(closed.jaxpr.invars))
    found = {positions for eqn, positions in reached(closed.jaxpr, tangents) if eqn.primitive is primitive}
    return found.pop() if len(found) == 1 else ()


def _trace_transpose(eqn: core.JaxprEqn, linear: tuple[int, ...], outputs: tuple[int, ...]) -> core.ClosedJaxpr | None:
    """Returns ``(inputs that are not linear.., cotangents of outputs..) -> cotangents of the linear inputs``.

    None if it cannot be traced: a batch of calls may be linear in an operand that it shares, and in its rule stand for a batch of other operands,
    which has a transpose of its own. What is transposed then is the body.
    """
    avals = [atom.aval for atom in eqn.invars]
    results = [var.aval for var in eqn.outvars]

    def rule(*args: Any) -> list[Any]:
        given = iter(args)
        inputs = [ad.UndefinedPrimal(aval) if index in linear else next(given) for index, aval in enumerate(avals)]
        cotangents = [next(given) if index in outputs else ad.Zero(aval.to_tangent_aval()) for index, aval in enumerate(results)]
        cotangent = cotangents if eqn.primitive.multiple_results else cotangents[0]
        found = ad.primitive_transposes[eqn.primitive](cotangent, *inputs, **eqn.params)
        zeros = [ad.Zero(avals[index].to_tangent_aval()) for index in linear]
        # None is JAX's word for no cotangent, too.
        return [ad.instantiate_zeros(zero if found[index] is None else found[index]) for index, zero in zip(linear, zeros, strict=True)]

    rest = [aval for index, aval in enumerate(avals) if index not in linear]
    try:
        return _traced(rule, [*rest, *(results[index].to_tangent_aval() for index in outputs)])
    except Exception:  # a library's transpose may raise anything
        return None


def _traced(function: Callable[..., Any], avals: Sequence[Any]) -> core.ClosedJaxpr:
    return jax.make_jaxpr(function)(*map(example, avals))
