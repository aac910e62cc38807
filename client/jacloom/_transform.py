"""The transformations that return functions: what each asks of the service, and how the answer becomes a tree."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from jacloom import _leaves
from jacloom._argnums import positions
from jacloom._binding import Binding
from jacloom._errors import ArgumentError
from jacloom._prepared import Arrays, Prepared
from jacloom._query import query
from jacloom._question import Question
from jacloom._signature import inexact, is_complex
from jacloom._structure import Structure
from jacloom_graph.answer import Derivative, Part, Selection


@dataclass(frozen=True, slots=True)
class Transform(Question):
    """A transformation and its options: a question whose answer is arrays."""

    @abstractmethod
    def prepare(self, binding: Binding) -> Prepared:
        """Returns what to ask and how to read the answer.

        Raises:
            ArgumentError: if the function has no such derivative.
        """

    def prepared(self, binding: Binding) -> Prepared:
        """Returns what ``prepare`` returns, worked out once for all calls of a kind."""
        found = binding.prepared.get(self)
        return found if found is not None else binding.prepared.put(self, self.prepare(binding))

    def chosen(self, binding: Binding) -> Selection:
        return self.prepared(binding).query.chosen


@dataclass(frozen=True, slots=True)
class Evaluation(Transform):
    """The function's value."""

    @property
    def call(self) -> str:
        return "evaluate"

    def prepare(self, binding: Binding) -> Prepared:
        signature = binding.signature
        leaves = range(len(signature.outputs))
        asked = query(Derivative.EVALUATE, signature.inputs, signature.outputs, values=leaves)
        return Prepared(asked, lambda arrays: values(arrays, binding, signature.result, leaves))


@dataclass(frozen=True, slots=True)
class Gradient(Transform):
    """Gradient of a scalar function."""

    value: ClassVar[bool] = False
    """Whether the value comes with it."""
    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    holomorphic: bool = False

    @property
    def call(self) -> str:
        return "grad"

    def prepare(self, binding: Binding) -> Prepared:
        signature, call = binding.signature, self.spelled(binding.signature.label)
        wrt, inner = differentiated(call, binding, self.argnums)
        result, outputs, aux = parts(call, binding, self.has_aux)
        require_scalar(call, binding, result, outputs, f"client.jacobian, or {'sum the output' if result.is_leaf else _AUXILIARY}")
        require_field(call, binding, wrt, outputs, self.holomorphic)
        if not self.holomorphic and is_complex(signature.outputs[0]):
            raise ArgumentError(f"`{call}`: {signature.label} returns {signature.outputs[0]}, and a gradient needs a real output; {HOLOMORPHIC}.")
        wanted = (*(outputs if self.value else ()), *aux.leaves)
        asked = query(Derivative.GRADIENT, signature.inputs, signature.outputs, wrt=wrt, outputs=outputs, values=wanted, holomorphic=self.holomorphic)

        def build(arrays: Arrays) -> Any:
            gradient = inner([arrays[Part.GRADIENT, 0, at, 0] for at in range(len(wrt))])
            extra = aux.build(arrays) if self.has_aux else None
            if not self.value:
                return (gradient, extra) if self.has_aux else gradient
            value = values(arrays, binding, result, outputs)
            return ((value, extra), gradient) if self.has_aux else (value, gradient)

        return Prepared(asked, build)


@dataclass(frozen=True, slots=True)
class ValueAndGradient(Gradient):
    """The same with the value."""

    value: ClassVar[bool] = True

    @property
    def call(self) -> str:
        return "value_and_grad"


_AUXILIARY: Final = "has_aux=True for what comes along"
WEIGHTS: Final = "weights=..., one number for each entry of the result, for the second derivatives of the weighted sum"
"""What to do where second derivatives of several outputs are asked for as one matrix."""
HOLOMORPHIC: Final = "pass holomorphic=True if it is a holomorphic function of complex inputs"
"""What to do where complex numbers come in and go out."""


@dataclass(frozen=True, slots=True)
class Auxiliary:
    """The second part of the result of a function that returns ``(out, aux)``."""

    leaves: Sequence[int] = ()
    """Output leaves, by number."""
    build: Callable[[Arrays], Any] = lambda arrays: None


def differentiated(call: str, binding: Binding, argnums: int | tuple[int, ...]) -> tuple[tuple[int, ...], Callable[[list[Any]], Any]]:
    """Returns the inputs that ``argnums`` means, by number, and what makes a tree like these arguments of one value per input.

    Raises:
        ArgumentError: if an argument does not exist, or an input cannot be differentiated.
    """
    chosen = positions(call, binding.signature.label, argnums, len(binding.positional), binding.named)
    wrt: list[int] = []
    for position in chosen:
        for leaf in binding.spans[position]:
            slot = binding.slots[leaf]
            type_ = None if slot is None else binding.signature.inputs[slot]
            if slot is None or type_ is None or not inexact(type_):
                got, advice = _fixed(binding.signature.fixed.get(leaf), len(binding.spans[position])) if type_ is None else (str(type_), _ARGNUMS)
                text = f"`{call}`: {binding.paths[leaf]} is {got}, and only floating-point and complex inputs have derivatives. {advice}"
                raise ArgumentError(text)
            wrt.append(slot)
    trees = [binding.positional[position] for position in chosen]
    if isinstance(argnums, int):
        return tuple(wrt), trees[0].unflatten

    def several(items: list[Any]) -> tuple[Any, ...]:
        rest = iter(items)
        return tuple(tree.unflatten([next(rest) for _ in range(tree.count)]) for tree in trees)

    return tuple(wrt), several


_ARGNUMS = "Pass a float, or leave the argument out of argnums."


def _fixed(value: Any, leaves: int) -> tuple[str, str]:
    """Returns what a leaf is that is no array, and what to do, given the number of leaves of the argument that it is part of."""
    if isinstance(value, bool | int | float | complex | str):
        return f"the Python {type(value).__name__} {value!r}", _ARGNUMS
    name = getattr(value, "__name__", None) if callable(value) else None
    got = f"the function {name}" if isinstance(name, str) else f"a Python object of class {type(value).__name__}"
    if leaves > 1:
        return got, (
            "Separate the arrays of the argument from the rest: with equinox, `arrays, rest = eqx.partition(model, eqx.is_array)`, differentiate "
            "`lambda arrays: f(eqx.combine(arrays, rest))`, which closes over the rest."
        )
    return got, "Close over it instead of passing it or, if it holds arrays, make its class a JAX pytree (jax.tree_util.register_dataclass)."


def parts(call: str, binding: Binding, has_aux: bool) -> tuple[Structure, Sequence[int], Auxiliary]:
    """Returns structure and leaves of the result that is differentiated, and the auxiliary rest.

    Raises:
        ArgumentError: if ``has_aux`` is set and the function does not return a pair.
    """
    whole = binding.signature.result
    if not has_aux:
        return whole, range(whole.count), Auxiliary()
    if not whole.is_pair:
        raise ArgumentError(
            f"`{call}`: with has_aux=True, {binding.signature.label} must return a pair (out, aux); it returns {_returned(whole)}. "
            "Write `return out, aux`, or leave has_aux out."
        )
    result, aux = whole.children
    rest = range(result.count, whole.count)
    return result, range(result.count), Auxiliary(rest, lambda arrays: values(arrays, binding, aux, rest))


def _returned(result: Structure) -> str:
    return "one array" if result.is_leaf else str(result)


def values(arrays: Arrays, binding: Binding, structure: Structure, leaves: Sequence[int]) -> Any:
    """Returns output leaves' values as a tree."""
    types = binding.signature.outputs
    return structure.unflatten([_leaves.from_array(arrays[Part.VALUE, leaf, 0, 0], types[leaf]) for leaf in leaves])


def require_inexact_outputs(call: str, binding: Binding, outputs: Sequence[int]) -> None:
    """Raises ArgumentError if one of the outputs has no derivative."""
    for leaf in outputs:
        if not inexact(binding.signature.outputs[leaf]):
            path = binding.signature.result.paths("out")[leaf]
            raise ArgumentError(
                f"`{call}`: {path} of {binding.signature.label} is {binding.signature.outputs[leaf]}, and only floating-point and complex outputs "
                "have derivatives. Return it apart, as `return out, aux`, and pass has_aux=True."
            )


def require_scalar(call: str, binding: Binding, result: Structure, outputs: Sequence[int], instead: str) -> None:
    """Raises ArgumentError unless the result is one floating-point or complex scalar; ``instead``: what to use otherwise."""
    label = binding.signature.label
    if not result.is_leaf:
        raise ArgumentError(f"`{call}`: {label} must return one scalar, it returns {result}; use {instead}.")
    require_inexact_outputs(call, binding, outputs)
    type_ = binding.signature.outputs[outputs[0]]
    if type_.shape:
        raise ArgumentError(f"`{call}`: {label} must return a scalar, it returns {type_}; use {instead}.")


def require_field(call: str, binding: Binding, wrt: Sequence[int], outputs: Sequence[int], holomorphic: bool) -> None:
    """Raises ArgumentError where real and complex numbers meet in a way that has no derivative."""
    inputs = [binding.signature.inputs[leaf] for leaf in wrt]
    results = [binding.signature.outputs[leaf] for leaf in outputs]
    if holomorphic:
        real = next((type_ for type_ in (*inputs, *results) if not is_complex(type_)), None)
        if real is not None:
            raise ArgumentError(f"`{call}`: holomorphic=True needs complex inputs and outputs throughout, got {real}.")
    elif any(map(is_complex, inputs)) and any(map(is_complex, results)):
        raise ArgumentError(f"`{call}`: {binding.signature.label} has complex inputs and outputs; {HOLOMORPHIC}, else use client.jvp or client.vjp.")


def require_second(call: str, binding: Binding, wrt: Sequence[int], outputs: Sequence[int], holomorphic: bool) -> None:
    """Raises ArgumentError where complex numbers come in or go out of a function that is not holomorphic: it has first derivatives only."""
    types = binding.signature.inputs, binding.signature.outputs
    for what, leaves, of in (("inputs", wrt, types[0]), ("outputs", outputs, types[1])):
        if not holomorphic and any(is_complex(of[leaf]) for leaf in leaves):
            raise ArgumentError(f"`{call}`: second derivatives need real {what}; {HOLOMORPHIC}.")
