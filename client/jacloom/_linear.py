"""The derivative as a linear map: which leaves it is about, and what a product with it asks of the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jacloom._binding import Binding
from jacloom._errors import ArgumentError
from jacloom._question import Question
from jacloom._signature import is_complex
from jacloom._transform import differentiated, parts, require_field, require_inexact_outputs, require_scalar
from jacloom_graph.answer import Derivative, Part, Selection
from jacloom_graph.types import Type


@dataclass(frozen=True, slots=True)
class Linear(Question):
    """The first derivative of a function, or the second of a scalar one, as a matrix that is never computed."""

    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    derivative: Literal["jacobian", "hessian"] = "jacobian"
    holomorphic: bool = False

    @property
    def call(self) -> str:
        return "linear_operator"

    def chosen(self, binding: Binding) -> Selection:
        signature, call = binding.signature, self.spelled(binding.signature.label)
        wrt, _ = differentiated(call, binding, self.argnums)
        result, outputs, _ = parts(call, binding, self.has_aux)
        require_inexact_outputs(call, binding, outputs)
        require_field(call, binding, wrt, outputs, self.holomorphic)
        wrt_types, output_types = tuple(signature.inputs[leaf] for leaf in wrt), tuple(signature.outputs[leaf] for leaf in outputs)
        if self.derivative == "hessian":
            require_scalar(call, binding, result, outputs)
            if not self.holomorphic and any(map(is_complex, (*wrt_types, *output_types))):
                raise ArgumentError(f"`{call}`: second derivatives need real inputs and outputs, or holomorphic=True for a holomorphic function.")
        return Selection(wrt, tuple(outputs), (), wrt_types, output_types, ())


@dataclass(frozen=True, slots=True)
class Side:
    """Multiplication with a derivative from one side."""

    derivative: Derivative
    """JVP, VJP or HVP: what one product asks for."""
    seeds: tuple[Type, ...]
    """The leaves whose entries, one leaf after the other, are those of the vector."""
    part: Part
    products: tuple[Type, ...]
    """The leaves whose entries are those of the product."""


def sides(question: Linear, chosen: Selection) -> tuple[Side, Side]:
    """Returns the products with the derivative and with its transpose."""
    if question.derivative == "hessian":
        both = Side(Derivative.HVP, chosen.wrt_types, Part.PRODUCT, chosen.wrt_types)
        return both, both  # second derivatives are symmetric
    forward = Side(Derivative.JVP, chosen.wrt_types, Part.TANGENT, chosen.output_types)
    return forward, Side(Derivative.VJP, chosen.output_types, Part.COTANGENT, chosen.wrt_types)
