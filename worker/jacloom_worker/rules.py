"""Custom derivative rules on the worker: each becomes JAX's own ``custom_jvp`` or ``custom_vjp``.

A rule's functions are evaluated like any others, so a rule may call the function that it belongs to, and derivatives of
derivatives follow the references.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import JvpRule, Rule, VjpRule


def custom_call(program: Any, number: int, operands: Sequence[Any], large: tuple[Any, ...]) -> list[Any]:
    """Returns the results of a function that has a rule.

    Large constants are operands without a tangent: JAX does not let a rule close over values of the trace around it.
    """
    rule: Rule = program.graph.rules[number]
    kept = program.needed(rule.function, large) or _needed_by_rule(program, rule, large)
    match rule.derivative:
        case JvpRule():
            function = _with_jvp(program, rule, rule.derivative, len(kept))
        case VjpRule():
            function = _with_vjp(program, rule, rule.derivative, len(kept))
        case str(text):
            function = _refusing(program, rule, text, len(kept))
    return list(function(*kept, *operands))


def _needed_by_rule(program: Any, rule: Rule, large: tuple[Any, ...]) -> tuple[Any, ...]:
    match rule.derivative:
        case JvpRule(function=function):
            return tuple(program.needed(function, large))
        case VjpRule(forward=forward, backward=backward):
            return tuple(program.needed(forward, large) or program.needed(backward, large))
        case _:
            return ()


def _with_jvp(program: Any, rule: Rule, derivative: JvpRule, skip: int) -> Any:
    @jax.custom_jvp
    def function(*args: Any) -> list[Any]:
        return list(program.run(rule.function, args[:skip], args[skip:]))

    def jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        large, values = primals[:skip], primals[skip:]
        given = [_instantiated(tangent, flag) for tangent, flag in zip(tangents[skip:], rule.active, strict=True)]
        results = program.run(derivative.function, large, [*values, *(tangent for tangent in given if tangent is not None)])
        outputs = results[: len(results) - len(derivative.outputs)]
        found = dict(zip(derivative.outputs, results[len(outputs) :], strict=True))
        return outputs, [found.get(index, _no_tangent(output)) for index, output in enumerate(outputs)]

    function.defjvp(jvp, symbolic_zeros=True)
    return function


def _instantiated(tangent: Any, active: bool) -> Any:
    """Returns the tangent as an array for an active input, None for another; a tangent where none was foreseen is refused."""
    if not active:
        if not isinstance(tangent, SymbolicZero) and getattr(tangent, "dtype", None) != float0:
            raise Fault(
                Reason.MODE_UNAVAILABLE,
                "a custom rule was recorded for other inputs than those that are differentiated; trace the function again for this argnums",
            )
        return None
    if isinstance(tangent, SymbolicZero):
        aval: Any = tangent.aval
        return jax.numpy.zeros(aval.shape, aval.dtype)
    return tangent


def _no_tangent(output: Any) -> Any:
    return SymbolicZero(jax.typeof(output).to_tangent_aval())


def _with_vjp(program: Any, rule: Rule, derivative: VjpRule, skip: int) -> Any:
    count = len(program.graph.functions[rule.function].outputs)

    @jax.custom_vjp
    def function(*args: Any) -> list[Any]:
        return list(program.run(rule.function, args[:skip], args[skip:]))

    def forward(*args: Any) -> tuple[list[Any], tuple[Any, ...]]:
        results = program.run(derivative.forward, args[:skip], args[skip:])
        return results[len(results) - count :], (args[:skip], results[: len(results) - count])

    def backward(kept: tuple[Any, ...], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        large, residuals = kept
        given = [cotangent for cotangent in cotangents if cotangent.dtype != float0]
        found = dict(zip(derivative.inputs, program.run(derivative.backward, large, [*residuals, *given]), strict=True))
        # None stands for a cotangent of zero.
        return (*(None for _ in large), *(found.get(index) for index in range(len(rule.active))))

    function.defvjp(forward, backward)
    return function


def _refusing(program: Any, rule: Rule, text: str, skip: int) -> Any:
    @jax.custom_jvp
    def function(*args: Any) -> list[Any]:
        return list(program.run(rule.function, args[:skip], args[skip:]))

    def jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        if any(not isinstance(tangent, SymbolicZero) and np.dtype(tangent.dtype) != float0 for tangent in tangents):
            raise Fault(Reason.MODE_UNAVAILABLE, text)
        outputs = program.run(rule.function, primals[:skip], primals[skip:])
        return outputs, [_no_tangent(output) for output in outputs]

    function.defjvp(jvp, symbolic_zeros=True)
    return function
