"""The derivative as a linear map: which leaves it is about, and what a product with it asks of the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from jacloom._binding import Binding
from jacloom._question import Question, passed
from jacloom._transform import WEIGHTS, differentiated, parts, require_field, require_inexact_outputs, require_scalar, require_second
from jacloom._vectors import like_result
from jacloom_graph.answer import Derivative, Part, Selection
from jacloom_graph.types import Type


@dataclass(frozen=True, slots=True)
class Linear(Question):
    """The first derivative of a function, or the second of a scalar one, as a matrix that is never computed."""

    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    derivative: Literal["jacobian", "hessian"] = "jacobian"
    holomorphic: bool = False
    weighted: bool = passed("weights")

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
            if not self.weighted:
                require_scalar(call, binding, result, outputs, WEIGHTS)
            require_second(call, binding, wrt, outputs, self.holomorphic)
        chosen = Selection(wrt, tuple(outputs), (), wrt_types, output_types, ())
        return chosen.weighted() if self.weighted else chosen

    def weights(self, binding: Binding, given: Any) -> list[np.ndarray]:
        """Returns the weights of the outputs as arrays; none if there are none.

        Raises:
            ArgumentError: if they do not belong to these outputs.
        """
        if not self.weighted:
            return []
        call = self.spelled(binding.signature.label)
        result, outputs, _ = parts(call, binding, self.has_aux)
        return like_result(call, binding, result, outputs, "weights")(given)


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
        return both, both  # symmetric, if rules are derivatives; `linear_operator` says what to do otherwise
    forward = Side(Derivative.JVP, chosen.wrt_types, Part.TANGENT, chosen.output_types)
    return forward, Side(Derivative.VJP, chosen.output_types, Part.COTANGENT, chosen.wrt_types)
