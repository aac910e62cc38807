"""Primitives that libraries define for themselves: expanded into what they compute, with the derivatives that they bring.

The cluster need not have the library. A primitive that the op table does not know is replaced by the trace of its own implementation, found by
asking the primitive and not by a list of names. Its rule for tangents, and its transposes where rules apply it to tangents, become a rule of the
graph: a library may cut its implementation off from differentiation (lineax's ``linear_solve``), or refuse it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import jax
from jax.extend import core
from jax.interpreters import ad

from jacloom._trace.activity import Flags
from jacloom._trace.calling import call_parameters
from jacloom._trace.closures import closed_over, variable
from jacloom._trace.known import KnownOperands, ValueWanted
from jacloom._trace.lower import Body, Lowering, unsupported
from jacloom._trace.lowered import implementation, is_high
from jacloom._trace.reverse import has_linearization, trace_reverse
from jacloom._trace.rules import CLOSES_OVER, is_zero, refusing, require_forward, reverse_rule, tied, zero_tangent
from jacloom._trace.types import example, inexact
from jacloom._trace.uses import Operands
from jacloom_graph.types import JvpRule, TransposeRule

_Traced = TypeVar("_Traced")


def lower_foreign(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Writes a call of the function that an unknown primitive computes.

    Raises:
        Fault: UNSUPPORTED_OP if its implementation cannot be traced.
    """
    try:
        expanded, known = _expanded(lowering, eqn, operands)
    except jax.errors.ConcretizationTypeError as error:
        if not lowering.specialise:
            raise ValueWanted from error
        raise unsupported(eqn, _READS) from error
    except RecursionError as error:  # it calls itself by being compiled
        raise unsupported(eqn, _COMPILED) from error
    except Exception as error:  # a library's implementation may raise anything
        why = f"its implementation cannot be traced ({type(error).__name__}: {str(error)[:200]})"
        raise unsupported(eqn, f"the op table does not have it, and {why}; use a version of it in jnp or jax.lax") from error
    if not is_high(eqn) and any(inner.primitive is eqn.primitive for inner in expanded.jaxpr.eqns):
        raise unsupported(eqn, _COMPILED)
    rule = _rule(lowering, body, eqn, operands, expanded, active, known) if any(active) else None
    if rule is None:
        return body.emit("call", operands, {"function": lowering.function(expanded, active, eqn.primitive.name)}, eqn)
    number, further = rule
    return body.emit("custom_call", [*operands, *further], {"rule": number}, eqn)


_MAX_ORDER = 3
"""How many derivatives deep the rules of primitives are followed: two that are asked for, and what reverse mode transposes of the second. Solvers
grow fast with it: GMRES takes 4, 12 and 38 s to trace for 2, 3 and 4."""
_READS = (
    "the op table does not have it, and its implementation reads the value of an operand in Python, which says what to compute and is not known yet; "
    "have it computed from what the function closes over and not from its arguments, loop state or results"
)
_COMPILED = (
    "the op table does not have it, and its implementation is compiled code, which stays on this machine; use a version of it in jnp or jax.lax, "
    "which a package with kernels of its own often has as a reference or as implementation='xla'"
)


def _expanded(lowering: Lowering, eqn: core.JaxprEqn, operands: Sequence[int]) -> tuple[core.ClosedJaxpr, KnownOperands]:
    """Returns what a primitive computes, and the values of the operands that had to be read for it."""
    try:
        expanded = lowering.once.traced(eqn, "implementation", lambda: _implementation(eqn, {}))
        return lowering.called(expanded, operands), {}
    except jax.errors.ConcretizationTypeError:
        # It reads the value of an operand in Python, which says what to compute. That of a constant is there to be read.
        known = lowering.known(operands)
        return _implementation(eqn, known), known


def _implementation(eqn: core.JaxprEqn, known: KnownOperands) -> core.ClosedJaxpr:
    # Primitives whose functions are parameters of their own kind (a jaxpr) are called with them bound back.
    functions, params = call_parameters(eqn)
    function = partial(implementation(eqn), *functions, **params)
    return _traced(lambda *args: function(*_with(known, args)), [atom.aval for atom in eqn.invars])


def _with(known: KnownOperands, args: Sequence[Any]) -> tuple[Any, ...]:
    # A tuple, as JAX hands them to rules: some rules map over them, and lists are other trees.
    return tuple(known.get(index, arg) for index, arg in enumerate(args))


def _rule(
    lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: Sequence[int], expanded: core.ClosedJaxpr, active: Flags, known: KnownOperands
) -> tuple[int, list[int]] | None:
    """Returns the number of the rule that the primitive brings, and the operands that the rule needs besides the primitive's own.

    None if it brings none, and is differentiated as what it computes.
    """
    name = eqn.primitive.name
    outer = set(lowering.uses.of(eqn))
    if eqn.primitive in ad.primitive_jvps:
        try:
            jvp = _once(lowering, eqn, known, ("jvp", active), lambda: _trace_jvp(eqn, active, known))
            jvp = replace(jvp, jaxpr=lowering.called(jvp.jaxpr, operands))
            require_forward(jvp.jaxpr)
        except Exception as error:  # whatever a library's rule raises is what differentiating has to say
            return _reverse_rule(lowering, eqn, operands, expanded, active, known, error), []
    elif outer:
        # A library may compute a tangent by a primitive that JAX only ever transposes: it stands in a rule and nowhere else.
        try:
            jvp = _body_jvp(expanded, active)
        except Exception:  # a library's implementation may be anything
            return None
    else:
        return None

    # It is linear where its own rule applies it to tangents, and where the rule in which it stands does.
    uses = outer.union(operands for primitive, operands in lowering.uses.note(jvp.jaxpr, len(active)) if primitive is eqn.primitive)
    transposes: dict[Operands, core.ClosedJaxpr] = {}
    if eqn.primitive in ad.primitive_transposes:
        found = {
            linear: _once(lowering, eqn, known, ("transpose", linear, jvp.outputs), partial(_trace_transpose, eqn, linear, jvp.outputs, known))
            for linear in sorted(uses)
        }
        rest = {linear: [operand for index, operand in enumerate(operands) if index not in linear] for linear in found}
        transposes = {linear: lowering.called(transpose, rest[linear]) for linear, transpose in found.items() if transpose is not None}
    if not transposes and eqn.primitive not in ad.primitive_jvps:
        return None

    captured = closed_over([jvp.jaxpr, *transposes.values()])
    added = [body.env[variable(value)] for value in captured if variable(value) in body.env and variable(value) not in body.alive]
    if len(added) < len(captured):
        # A rule that refuses would not do: where it is linear, the body would be transposed in place of it.
        raise unsupported(eqn, f"its rule is none that a graph can hold: {CLOSES_OVER}")
    if captured:
        count = len(active)
        transposes = {linear: lowering.opened(transpose, captured, count - len(linear)) for linear, transpose in transposes.items()}
        expanded, jvp = lowering.opened(expanded, captured, count), replace(jvp, jaxpr=lowering.opened(jvp.jaxpr, captured, count))
        active = (*active, *(False for _ in captured))
        lowering.uses.note(jvp.jaxpr, len(active))

    def derivative() -> JvpRule:
        tangents = tuple(flag for flag in active if flag)
        function = lowering.function(jvp.jaxpr, (*active, *tangents), f"{name} jvp")
        return JvpRule(function, jvp.outputs, tuple(map(transposed, transposes)))

    def transposed(linear: Operands) -> TransposeRule:
        rest = tuple(flag for index, flag in enumerate(active) if index not in linear)
        flags = (*rest, *(True for _ in jvp.outputs))
        return TransposeRule(lowering.function(transposes[linear], flags, f"{name} transpose"), linear)

    content = ("foreign", id(eqn.primitive), jvp.outputs, tuple(transposes))
    number = tied(lowering, expanded, active, content, [jvp.jaxpr, *transposes.values()], name, derivative, _MAX_ORDER)
    return number, added


def _once(lowering: Lowering, eqn: core.JaxprEqn, known: KnownOperands, what: Hashable, trace: Callable[[], _Traced]) -> _Traced:
    """Returns what is traced of an equation; where values of its operands are read for it, it is another for each equation."""
    return trace() if known else lowering.once.traced(eqn, what, trace)


def _reverse_rule(
    lowering: Lowering,
    eqn: core.JaxprEqn,
    operands: Sequence[int],
    expanded: core.ClosedJaxpr,
    active: Flags,
    known: KnownOperands,
    missing: Exception,
) -> int:
    """Returns the number of the rule of a primitive whose rule for tangents raises ``missing``."""
    name = eqn.primitive.name
    if not has_linearization(eqn.primitive):
        return refusing(lowering, expanded, active, name, missing)
    try:
        passes = trace_reverse(lowering, eqn, operands, active, known)
    except Exception as error:  # as of the other rule
        return refusing(lowering, expanded, active, name, missing, error)
    return reverse_rule(lowering, expanded, active, ("foreign", id(eqn.primitive)), name, passes)


@dataclass(frozen=True)
class _Jvp:
    jaxpr: core.ClosedJaxpr
    """``(inputs.., active tangents..) -> (outputs.., tangents..)``."""
    outputs: tuple[int, ...]
    """The outputs that have a tangent."""


def _trace_jvp(eqn: core.JaxprEqn, active: Flags, known: KnownOperands) -> _Jvp:
    """Returns the primitive's own rule."""
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


def _body_jvp(expanded: core.ClosedJaxpr, active: Flags) -> _Jvp:
    """Returns what JAX makes of the body."""
    avals = expanded.in_avals
    outputs = tuple(index for index, aval in enumerate(expanded.out_avals) if inexact(aval))

    def rule(*args: Any) -> list[Any]:
        given = iter(args[len(avals) :])
        tangents = [next(given) if flag else zero_tangent(aval) for aval, flag in zip(avals, active, strict=True)]
        values, found = jax.jvp(core.jaxpr_as_fun(expanded), args[: len(avals)], tuple(tangents))
        return [*values, *(found[index] for index in outputs)]

    return _Jvp(_traced(rule, [*avals, *(aval.to_tangent_aval() for aval, flag in zip(avals, active, strict=True) if flag)]), outputs)


def _trace_transpose(eqn: core.JaxprEqn, linear: Operands, outputs: tuple[int, ...], known: KnownOperands) -> core.ClosedJaxpr | None:
    """Returns ``(inputs that are not linear.., cotangents of outputs..) -> cotangents of the linear inputs``.

    None if it cannot be traced: a batch of calls may be linear in an operand that it shares, and in its rule stand for a batch of other operands,
    which has a transpose of its own. If there is none for any set of operands, the body is transposed; else such a use of it has no reverse mode.
    """
    avals = [atom.aval for atom in eqn.invars]
    results = [var.aval for var in eqn.outvars]

    def rule(*args: Any) -> list[Any]:
        given = iter(args)
        inputs = _with(known, [ad.UndefinedPrimal(aval) if index in linear else next(given) for index, aval in enumerate(avals)])
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
