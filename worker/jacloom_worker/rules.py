"""Custom derivative rules on the worker: each becomes JAX's own ``custom_jvp`` or ``custom_vjp``, or ``linear`` where it has transposes.

A rule's functions are evaluated like any others, so a rule may call the function that it belongs to, and derivatives of
derivatives follow the references. A rule stands in place of a derivative, so its own code is differentiated forward only (for second derivatives),
and loops in it stay as JAX has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, assert_never

import jax
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.dtypes import float0

from jacloom_graph.errors import Fault, NotRecorded, Reason
from jacloom_graph.types import Graph, JvpRule, Rule, VjpRule
from jacloom_worker import linear
from jacloom_worker.directions import as_array
from jacloom_worker.modes import rule_scope
from jacloom_worker.reach import functions_of


class Functions(Protocol):
    """What an op that holds functions needs of the program around it; see ``raising.Frame``."""

    @property
    def graph(self) -> Graph:
        """The program's graph."""

    @property
    def reverse(self) -> bool:
        """Whether loops must have a reverse derivative."""

    def run(self, number: int, args: Sequence[Any]) -> list[Any]:
        """Returns the results of a function of the graph, evaluated in place."""

    def callable(self, number: int) -> Callable[..., list[Any]]:
        """Returns a function of the graph, to be traced in place."""

    def call(self, number: int, args: Sequence[Any]) -> list[Any]:
        """Returns the results of a function of the graph, which may be traced once for all its calls."""

    def large_for(self, *numbers: int) -> tuple[Any, ...]:
        """Returns the large constants that some functions of the graph need when they are traced apart."""

    def apart(self, large: tuple[Any, ...], *, reverse: bool | None = None) -> Functions:
        """Returns the functions of the graph within something that is traced apart, where the large constants have other values.

        Args:
            large: The values of ``large_for``.
            reverse: Whether loops there must have a reverse derivative. Default: as here.
        """


def custom_call(frame: Functions, number: int, operands: Sequence[Any]) -> list[Any]:
    """Returns the results of a function that has a rule.

    Large constants are operands without a tangent: JAX does not let a rule close over values of the trace around it.
    """
    with jax.named_scope(rule_scope(number)):
        return _called(frame, frame.graph.rules[number], operands)


def _called(frame: Functions, rule: Rule, operands: Sequence[Any]) -> list[Any]:
    large = frame.large_for(*functions_of(rule))
    derivative = rule.derivative
    match derivative:
        case JvpRule(transposes=()):
            return list(_with_jvp(frame, rule, derivative, len(large))(*large, *operands))
        case JvpRule():
            return linear.call(LinearRules(frame, rule, derivative, len(large)), large, operands)
        case VjpRule():
            return list(_with_vjp(frame, rule, derivative, len(large))(*large, *operands))
        case str():
            return list(_refusing(frame, rule, derivative, len(large))(*large, *operands))
        case _:
            assert_never(derivative)


def _with_jvp(frame: Functions, rule: Rule, derivative: JvpRule, skip: int) -> Any:
    @jax.custom_jvp
    def function(*args: Any) -> list[Any]:
        return list(frame.apart(args[:skip], reverse=False).run(rule.function, args[skip:]))

    def jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        large, values = primals[:skip], primals[skip:]
        given = [_instantiated(tangent, flag) for tangent, flag in zip(tangents[skip:], rule.active, strict=True)]
        results = frame.apart(large, reverse=False).run(derivative.function, [*values, *(tangent for tangent in given if tangent is not None)])
        outputs = results[: len(results) - len(derivative.outputs)]
        found = dict(zip(derivative.outputs, results[len(outputs) :], strict=True))
        return outputs, [found.get(index, _no_tangent(output)) for index, output in enumerate(outputs)]

    function.defjvp(jvp, symbolic_zeros=True)
    return function


@dataclass(frozen=True, eq=False)
class LinearRules:
    """The rules of a function with transposes. Its arguments are the large constants, then its inputs."""

    frame: Functions
    rule: Rule
    derivative: JvpRule
    skip: int
    """How many large constants there are."""

    def value(self, args: Sequence[Any]) -> list[Any]:
        """Returns the function's results."""
        return self.frame.apart(tuple(args[: self.skip]), reverse=False).run(self.rule.function, args[self.skip :])

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Returns results and their tangents; None stands for a tangent of zero."""
        large, values = tuple(primals[: self.skip]), primals[self.skip :]
        pairs = list(zip(values, tangents[self.skip :], self.rule.active, strict=True))
        if any(tangent is not None and not active for _, tangent, active in pairs):
            raise _not_foreseen()
        given = [jax.numpy.zeros_like(value) if tangent is None else tangent for value, tangent, active in pairs if active]
        results = self.frame.apart(large, reverse=False).run(self.derivative.function, [*values, *given])
        count = len(results) - len(self.derivative.outputs)
        found = dict(zip(self.derivative.outputs, results[count:], strict=True))
        return results[:count], [found.get(index) for index in range(count)]

    def transpose(self, args: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """Returns the cotangents of arguments that are None, None for the others, given those of the results."""
        missing = {index for index, arg in enumerate(args[self.skip :]) if arg is None}
        # What is linear in more inputs serves too: where only some of them are differentiated, zeros stand for the other tangents.
        serving = [transpose for transpose in self.derivative.transposes if missing.issubset(transpose.inputs)]
        if not serving:
            text = f"the library that brings this function says nothing of how to go back through its operands {sorted(missing)}; use forward mode"
            raise Fault(Reason.MODE_UNAVAILABLE, text)
        transpose = min(serving, key=lambda transpose: len(transpose.inputs))
        inputs = transpose.inputs
        rest = [arg for index, arg in enumerate(args[self.skip :]) if index not in inputs]
        given = [cotangents[index] for index in self.derivative.outputs]
        results = self.frame.apart(tuple(args[: self.skip]), reverse=False).run(transpose.function, [*rest, *given])
        found = dict(zip(inputs, results, strict=True))
        return [*(None for _ in range(self.skip)), *(found.get(index) if index in missing else None for index in range(len(self.rule.active)))]


def _instantiated(tangent: Any, active: bool) -> Any:
    """Returns the tangent as an array for an active input, None for another; a tangent where none was foreseen is refused."""
    if not active:
        if not isinstance(tangent, SymbolicZero) and getattr(tangent, "dtype", None) != float0:
            raise _not_foreseen()
        return None
    return as_array(tangent)


def _not_foreseen() -> NotRecorded:
    text = "a custom rule was recorded for other inputs than those that are differentiated; trace the function again for this argnums"
    return NotRecorded(Reason.MODE_UNAVAILABLE, text)


def _no_tangent(output: Any) -> Any:
    return SymbolicZero(jax.typeof(output).to_tangent_aval())


def _with_vjp(frame: Functions, rule: Rule, derivative: VjpRule, skip: int) -> Any:
    count = len(frame.graph.functions[rule.function].outputs)

    @jax.custom_vjp
    def function(*args: Any) -> list[Any]:
        return list(frame.apart(args[:skip], reverse=False).run(rule.function, args[skip:]))

    def forward(*args: Any) -> tuple[list[Any], tuple[Any, ...]]:
        for arg, active in zip(args[skip:], rule.active, strict=True):
            if arg.perturbed and not active and jax.dtypes.issubdtype(jax.typeof(arg.value).dtype, np.inexact):
                raise _not_foreseen()
        large, values = tuple(arg.value for arg in args[:skip]), [arg.value for arg in args[skip:]]
        results = frame.apart(large, reverse=False).run(derivative.forward, values)
        return results[len(results) - count :], (large, results[: len(results) - count])

    def backward(kept: tuple[Any, ...], cotangents: Sequence[Any]) -> tuple[Any, ...]:
        large, residuals = kept
        given = [as_array(cotangent) for cotangent in cotangents if cotangent.dtype != float0]
        found = dict(zip(derivative.inputs, frame.apart(large, reverse=False).run(derivative.backward, [*residuals, *given]), strict=True))
        # None stands for a cotangent of zero.
        return (*(None for _ in large), *(found.get(index) for index in range(len(rule.active))))

    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


def _refusing(frame: Functions, rule: Rule, text: str, skip: int) -> Any:
    @jax.custom_jvp
    def function(*args: Any) -> list[Any]:
        return list(frame.apart(args[:skip], reverse=False).run(rule.function, args[skip:]))

    def jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
        if any(not isinstance(tangent, SymbolicZero) and np.dtype(tangent.dtype) != float0 for tangent in tangents):
            raise Fault(Reason.MODE_UNAVAILABLE, text)
        outputs = frame.apart(primals[:skip], reverse=False).run(rule.function, primals[skip:])
        return outputs, [_no_tangent(output) for output in outputs]

    function.defjvp(jvp, symbolic_zeros=True)
    return function
