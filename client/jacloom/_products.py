"""The transformations that are one product: JVP, VJP and Hessian-vector product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jacloom import _leaves
from jacloom._binding import Binding
from jacloom._errors import ArgumentError
from jacloom._outline import described
from jacloom._prepared import Arrays, Prepared
from jacloom._query import query
from jacloom._signature import inexact
from jacloom._structure import Structure, require_match
from jacloom._transform import Transform, parts, require_scalar, values
from jacloom_graph.answer import Derivative, Part
from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Type

FLOAT0 = np.dtype([("float0", np.void, 0)])
"""JAX's dtype of tangents and cotangents of integer values: there is nothing in them."""


@dataclass(frozen=True, slots=True)
class Pushforward(Transform):
    """A JVP, with the value."""

    has_aux: bool = False

    @property
    def call(self) -> str:
        return "jvp"

    def prepare(self, binding: Binding) -> Prepared:
        signature, call = binding.signature, f"client.jvp({binding.signature.label}, primals, tangents)"
        wrt = _inexact_inputs(binding)
        result, outputs, aux = parts(call, binding, self.has_aux)
        pushed = [leaf for leaf in outputs if inexact(signature.outputs[leaf])]
        wanted = (*outputs, *aux.leaves)
        # Without an output that has tangents, or an input that has any, there is nothing to push.
        asking = Derivative.JVP if pushed and wrt else Derivative.EVALUATE
        moving = asking is Derivative.JVP
        asked = query(asking, signature.inputs, signature.outputs, wrt=wrt if moving else (), outputs=pushed if moving else (), values=wanted)

        def build(arrays: Arrays) -> Any:
            tangents = result.unflatten([_tangent(arrays, leaf, signature.outputs[leaf]) for leaf in outputs])
            value = values(arrays, binding, result, outputs)
            return (value, tangents, aux.build(arrays)) if self.has_aux else (value, tangents)

        return Prepared(asked, build, _tangents(call, binding, wrt) if asking is Derivative.JVP else None)


@dataclass(frozen=True, slots=True)
class Pullback(Transform):
    """A VJP, with the value."""

    has_aux: bool = False

    @property
    def call(self) -> str:
        return "vjp"

    def prepare(self, binding: Binding) -> Prepared:
        signature, call = binding.signature, f"client.vjp({binding.signature.label}, primals, cotangents)"
        wrt = _inexact_inputs(binding)
        result, outputs, aux = parts(call, binding, self.has_aux)
        pulled = [leaf for leaf in outputs if inexact(signature.outputs[leaf])]
        asking = Derivative.VJP if pulled and wrt else Derivative.EVALUATE
        moving = asking is Derivative.VJP
        wanted = (*outputs, *aux.leaves)
        asked = query(asking, signature.inputs, signature.outputs, wrt=wrt if moving else (), outputs=pulled if moving else (), values=wanted)

        def seeds(cotangents: Any) -> list[np.ndarray]:
            leaves = require_match(result, cotangents, f"`{call}`: cotangents must be like the result of {signature.label}")
            paths = result.paths("cotangents")
            return _checked(call, leaves, paths, [signature.outputs[leaf] for leaf in outputs])

        def build(arrays: Arrays) -> Any:
            cotangents = _like_arguments(binding, arrays, Part.COTANGENT, wrt)
            value = values(arrays, binding, result, outputs)
            return (value, cotangents, aux.build(arrays)) if self.has_aux else (value, cotangents)

        return Prepared(asked, build, seeds if asking is Derivative.VJP else None)


@dataclass(frozen=True, slots=True)
class HessianProduct(Transform):
    """The product of the Hessian of a scalar function and a vector."""

    @property
    def call(self) -> str:
        return "hvp"

    def prepare(self, binding: Binding) -> Prepared:
        signature, call = binding.signature, f"client.hvp({binding.signature.label}, primals, tangents)"
        wrt = _inexact_inputs(binding)
        result, outputs, _ = parts(call, binding, has_aux=False)
        require_scalar(call, binding, result, outputs)
        asking = Derivative.HVP if wrt else Derivative.EVALUATE
        asked = query(asking, signature.inputs, signature.outputs, wrt=wrt, outputs=outputs if wrt else (), values=() if wrt else outputs)

        def build(arrays: Arrays) -> Any:
            product = _like_arguments(binding, arrays, Part.PRODUCT, wrt)
            return product[0] if len(product) == 1 else product

        return Prepared(asked, build, _tangents(call, binding, wrt) if wrt else None)


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


def _tangents(call: str, binding: Binding, wrt: Sequence[int]) -> Callable[[Any], list[np.ndarray]]:
    structure: Structure = binding.arguments
    types = [None if slot is None else binding.signature.inputs[slot] for slot in binding.slots]
    paths = [path.replace("args", "tangents", 1) for path in binding.paths]

    def seeds(tangents: Any) -> list[np.ndarray]:
        given = tuple(tangents) if isinstance(tangents, list) else tangents
        leaves = require_match(structure, given, f"`{call}`: tangents must be like primals")
        return _checked(call, leaves, paths, types)

    return seeds


def _checked(call: str, leaves: Sequence[Any], paths: Sequence[str], types: Sequence[Type | None]) -> list[np.ndarray]:
    """Returns the tangents or cotangents of those leaves that have any.

    Raises:
        ArgumentError: if one is not of its primal's type, or an integer leaf has one.
    """
    arrays = []
    for at, (leaf, type_) in enumerate(zip(leaves, types, strict=True)):
        if type_ is None or not inexact(type_):
            if leaf is not None and getattr(leaf, "dtype", None) != FLOAT0:
                raise ArgumentError(
                    f"`{call}`: {paths[at]} belongs to {type_ or 'a fixed value'}, which has no derivative; "
                    "pass None or np.zeros(shape, jax.dtypes.float0)."
                )
            continue
        if type(leaf) in (float, complex) and not type_.shape and (type(leaf) is float or type_.dtype.startswith("complex")):
            # A Python number takes the dtype of the scalar that it belongs to.
            arrays.append(np.asarray(leaf, DTYPES[type_.dtype]))
            continue
        if type(leaf) is not np.ndarray and _leaves.is_array(leaf):
            _leaves.key(leaf)  # refuses what JAX is tracing
            leaf = _leaves.to_array(leaf)
        if not isinstance(leaf, np.ndarray) or leaf.dtype != DTYPES[type_.dtype] or leaf.shape != type_.shape:
            got = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" if isinstance(leaf, np.ndarray) else described(leaf)
            remedy = _leaves.remedy(leaf, type_)
            raise ArgumentError(f"`{call}`: {paths[at]} must be {type_}, as what it belongs to; got {got}{remedy and f': {remedy}'}.")
        arrays.append(leaf)
    return arrays


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
