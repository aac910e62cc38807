"""The transformations that are one product: JVP, VJP and Hessian-vector product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jacloom._binding import Binding
from jacloom._errors import ArgumentError
from jacloom._prepared import Arrays, Prepared, Vectors
from jacloom._query import query
from jacloom._question import passed
from jacloom._signature import inexact
from jacloom._transform import WEIGHTS, Transform, parts, require_inexact_outputs, require_scalar, values
from jacloom._vectors import FLOAT0, like_result, tangents
from jacloom_graph.answer import Derivative, Part
from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Type


@dataclass(frozen=True, slots=True)
class Pushforward(Transform):
    """A JVP, with the value."""

    operands: ClassVar = ("primals", "tangents")
    has_aux: bool = False

    @property
    def call(self) -> str:
        return "jvp"

    def prepare(self, binding: Binding) -> Prepared:
        signature, call = binding.signature, self.spelled(binding.signature.label)
        wrt = _inexact_inputs(binding)
        result, outputs, aux = parts(call, binding, self.has_aux)
        pushed = [leaf for leaf in outputs if inexact(signature.outputs[leaf])]
        wanted = (*outputs, *aux.leaves)
        # Without an output that has tangents, or an input that has any, there is nothing to push.
        asking = Derivative.JVP if pushed and wrt else Derivative.EVALUATE
        moving = asking is Derivative.JVP
        asked = query(asking, signature.inputs, signature.outputs, wrt=wrt if moving else (), outputs=pushed if moving else (), values=wanted)

        def build(arrays: Arrays) -> Any:
            moved = result.unflatten([_tangent(arrays, leaf, signature.outputs[leaf]) for leaf in outputs])
            value = values(arrays, binding, result, outputs)
            return (value, moved, aux.build(arrays)) if self.has_aux else (value, moved)

        seeds = tangents(call, binding)
        return Prepared(asked, build, _sent(moving, lambda given: Vectors(seeds(given))))


@dataclass(frozen=True, slots=True)
class Pullback(Transform):
    """A VJP, with the value."""

    operands: ClassVar = ("primals", "cotangents")
    has_aux: bool = False

    @property
    def call(self) -> str:
        return "vjp"

    def prepare(self, binding: Binding) -> Prepared:
        signature, call = binding.signature, self.spelled(binding.signature.label)
        wrt = _inexact_inputs(binding)
        result, outputs, aux = parts(call, binding, self.has_aux)
        moved = [leaf for leaf in outputs if inexact(signature.outputs[leaf])]
        asking = Derivative.VJP if moved and wrt else Derivative.EVALUATE
        moving = asking is Derivative.VJP
        wanted = (*outputs, *aux.leaves)
        asked = query(asking, signature.inputs, signature.outputs, wrt=wrt if moving else (), outputs=moved if moving else (), values=wanted)

        cotangents = like_result(call, binding, result, outputs, "cotangents")

        def build(arrays: Arrays) -> Any:
            pulled = _like_arguments(binding, arrays, Part.COTANGENT, wrt)
            value = values(arrays, binding, result, outputs)
            return (value, pulled, aux.build(arrays)) if self.has_aux else (value, pulled)

        return Prepared(asked, build, _sent(moving, lambda given: Vectors(cotangents(given))))


@dataclass(frozen=True, slots=True)
class HessianProduct(Transform):
    """The product of the Hessian of a scalar function, or of the weighted sum of several outputs, and a vector."""

    operands: ClassVar = ("primals", "tangents")
    weighted: bool = passed("weights")

    @property
    def call(self) -> str:
        return "hvp"

    def prepare(self, binding: Binding) -> Prepared:
        signature, weighted = binding.signature, self.weighted
        call = self.spelled(signature.label)
        wrt = _inexact_inputs(binding)
        result, outputs, _ = parts(call, binding, has_aux=False)
        if weighted:
            require_inexact_outputs(call, binding, outputs)
        else:
            require_scalar(call, binding, result, outputs, WEIGHTS)
        asking = Derivative.HVP if wrt else Derivative.EVALUATE
        around = outputs if wrt else ()
        asked = query(
            asking, signature.inputs, signature.outputs, wrt=wrt, outputs=around, values=() if wrt else outputs, weighted=weighted and bool(wrt)
        )

        def build(arrays: Arrays) -> Any:
            product = _like_arguments(binding, arrays, Part.PRODUCT, wrt)
            return product[0] if len(product) == 1 else product

        seeds, weights = tangents(call, binding), like_result(call, binding, result, outputs, "weights")

        def vectors(given: tuple[Any, Any]) -> Vectors:
            return Vectors(seeds(given[0]), weights(given[1]) if weighted else ())

        return Prepared(asked, build, _sent(bool(wrt), vectors))


def _sent(moving: bool, vectors: Callable[[Any], Vectors]) -> Callable[[Any], Vectors]:
    """Returns what makes vectors for a request: where nothing moves along them it only checks those that the user passed."""

    def unsent(given: Any) -> Vectors:
        vectors(given)
        return Vectors()

    return vectors if moving else unsent


def require_primals(call: str, label: str, primals: Any) -> tuple[Any, ...]:
    """Returns the primals as a tuple of arguments.

    Raises:
        ArgumentError: if they are neither a tuple nor a list.
    """
    if not isinstance(primals, tuple | list):
        got = type(primals).__name__
        raise ArgumentError(
            f"`client.{call}({label}, primals, ...)`: primals must be a tuple with one entry per argument, got {got}; write (x,) for one."
        )
    return tuple(primals)


def _inexact_inputs(binding: Binding) -> tuple[int, ...]:
    return tuple(at for at, type_ in enumerate(binding.signature.inputs) if inexact(type_))


def _tangent(arrays: Arrays, leaf: int, type_: Type) -> np.ndarray:
    if not inexact(type_):
        return np.zeros(type_.shape, FLOAT0)
    found = arrays.get((Part.TANGENT, leaf, 0, 0))
    return np.zeros(type_.shape, DTYPES[type_.dtype]) if found is None else found


def _like_arguments(binding: Binding, arrays: Arrays, part: Part, wrt: Sequence[int]) -> tuple[Any, ...]:
    """Returns one array per leaf of the arguments in the arguments' tree; leaves without derivative get float0."""
    place = {slot: at for at, slot in enumerate(wrt)}

    def of(slot: int | None) -> np.ndarray:
        if slot is None:
            return np.zeros((), FLOAT0)
        type_ = binding.signature.inputs[slot]
        if slot not in place:
            return np.zeros(type_.shape, FLOAT0)
        found = arrays.get((part, 0, place[slot], 0))
        return np.zeros(type_.shape, DTYPES[type_.dtype]) if found is None else found

    result: tuple[Any, ...] = binding.arguments.unflatten([of(slot) for slot in binding.slots])
    return result
