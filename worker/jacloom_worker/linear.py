"""Functions with a rule for tangents and another for their transpose, as a primitive of JAX.

JAX's own ``custom_jvp`` has no transpose: where a rule applies its function to tangents, reverse mode goes back through the function's body, and
a derivative of that no longer knows the rule. A solve needs both: it is differentiated by what it satisfies, and transposed into another solve,
which is differentiated in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.dtypes import float0
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from jacloom_graph.errors import Fault, Reason


class Rules(Protocol):
    """What is known of a function of flat arrays."""

    def value(self, args: Sequence[Any]) -> list[Any]:
        """Returns the function's results."""

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """Returns results and their tangents; None stands for a tangent of zero, of an argument as of a result."""

    def transpose(self, args: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        """Returns the cotangents of the arguments that are None, which the function is linear in; None for the others."""


def call(rules: Rules, large: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    """Returns a function's results at large constants and operands, differentiated by its rules."""
    arguments = [jnp.asarray(value) for value in (*large, *operands)]
    jaxpr = jax.make_jaxpr(lambda *args: rules.value(args))(*arguments)
    return list(_primitive.bind(*arguments, jaxpr=jaxpr, rules=rules))


_primitive = Primitive("linear_rules")
_primitive.multiple_results = True


def _evaluate(*args: Any, jaxpr: ClosedJaxpr, rules: Rules) -> list[Any]:
    return list(jaxpr_as_fun(jaxpr)(*args))


def _types(*_: Any, jaxpr: ClosedJaxpr, rules: Rules) -> Sequence[Any]:
    types: Sequence[Any] = jaxpr.out_avals
    return types


def _require(found: Sequence[Any], expected: Sequence[Any], what: str) -> None:
    """Checks what a rule returns: a wrong shape would be broadcast somewhere and be a wrong number.

    Raises:
        Fault: TYPE_MISMATCH.
    """
    for index, (value, aval) in enumerate(zip(found, expected, strict=True)):
        if value is not None and (jnp.shape(value), jax.typeof(value).dtype) != (aval.shape, aval.dtype):
            got, wanted = jax.typeof(value).str_short(), aval.str_short()
            raise Fault(Reason.TYPE_MISMATCH, f"a rule with a transpose gives {got} as {what} {index}, expected {wanted}")


def _jvp(primals: Sequence[Any], tangents: Sequence[Any], *, jaxpr: ClosedJaxpr, rules: Rules) -> tuple[list[Any], list[Any]]:
    results, found = rules.jvp(primals, [None if isinstance(tangent, ad.Zero) else tangent for tangent in tangents])
    _require(results, jaxpr.out_avals, "result")
    _require(found, [aval.to_tangent_aval() for aval in jaxpr.out_avals], "tangent of result")
    zeros = [ad.Zero(aval.to_tangent_aval()) for aval in jaxpr.out_avals]
    return results, [zero if tangent is None else tangent for zero, tangent in zip(zeros, found, strict=True)]


def _transpose(cotangents: Sequence[Any], *args: Any, jaxpr: ClosedJaxpr, rules: Rules) -> list[Any]:
    # Results of integer dtype have no cotangent, and their zeros cannot be batched.
    types: list[Any] = [cotangent.aval if isinstance(cotangent, ad.Zero) else cotangent for cotangent in cotangents]
    given = [None if type_.dtype == float0 else ad.instantiate_zeros(cotangent) for type_, cotangent in zip(types, cotangents, strict=True)]
    found = rules.transpose([None if ad.is_undefined_primal(arg) else arg for arg in args], given)
    _require(found, [aval.to_tangent_aval() for aval in jaxpr.in_avals], "cotangent of input")
    return found


def _batch(args: Sequence[Any], axes: Sequence[int | None], *, jaxpr: ClosedJaxpr, rules: Rules) -> tuple[list[Any], list[int]]:
    size = next(arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None)
    batched = _Batch(rules, tuple(axes), size)
    return call(batched, (), args), [0] * len(jaxpr.out_avals)


@dataclass(frozen=True, eq=False)
class _Batch:
    """The rules of a batch of calls. Results have the batch's axis first."""

    each: Rules
    axes: tuple[int | None, ...]
    """The batch's axis of each argument; None where all calls share it."""
    size: int

    def value(self, args: Sequence[Any]) -> list[Any]:
        found: list[Any] = jax.vmap(lambda *args: self.each.value(args), self.axes, axis_size=self.size)(*args)
        return found

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        moving = tuple(None if tangent is None else axis for tangent, axis in zip(tangents, self.axes, strict=True))
        function: Any = jax.vmap(lambda primals, tangents: self.each.jvp(primals, tangents), (list(self.axes), list(moving)), axis_size=self.size)
        results, found = function(list(primals), list(tangents))
        return results, found

    def transpose(self, args: Sequence[Any], cotangents: Sequence[Any]) -> list[Any]:
        axes = [None if arg is None else axis for arg, axis in zip(args, self.axes, strict=True)]
        function: Any = jax.vmap(lambda args, cotangents: self.each.transpose(args, cotangents), (axes, 0), axis_size=self.size)
        found = function(list(args), list(cotangents))
        return [None if each is None else self._placed(each, axis) for each, axis in zip(found, self.axes, strict=True)]

    @staticmethod
    def _placed(cotangent: Any, axis: int | None) -> Any:
        """Returns a batch of cotangents as that of the argument, which all calls may share."""
        return jnp.sum(cotangent, axis=0) if axis is None else jnp.moveaxis(cotangent, 0, axis)


_primitive.def_impl(_evaluate)
_primitive.def_abstract_eval(_types)
ad.primitive_jvps[_primitive] = _jvp
ad.primitive_transposes[_primitive] = _transpose
batching.primitive_batchers[_primitive] = _batch
mlir.register_lowering(_primitive, mlir.lower_fun(_evaluate, multiple_results=True))
