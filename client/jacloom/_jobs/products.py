"""Products with the Jacobian with respect to the first argument, which in a job is the point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jacloom._binding import Binding
from jacloom._prepared import Arrays, Prepared
from jacloom._query import query
from jacloom._transform import Transform, differentiated, parts, require_inexact_outputs
from jacloom_graph.answer import Derivative, Part


@dataclass(frozen=True, slots=True)
class PointPushforward(Transform):
    """The tangent of the result: the Jacobian times a tangent of the point."""

    @property
    def call(self) -> str:
        return "jvp"

    def spelled(self, label: str) -> str:
        return f"client.submit({label}, points, derivative='jvp')"

    def prepare(self, binding: Binding) -> Prepared:
        call = self.spelled(binding.signature.label)
        wrt, _ = differentiated(call, binding, 0)
        result, outputs, _ = parts(call, binding, has_aux=False)
        require_inexact_outputs(call, binding, outputs)
        asked = query(Derivative.JVP, binding.signature.inputs, binding.signature.outputs, wrt=wrt, outputs=outputs)

        def build(arrays: Arrays) -> Any:
            return result.unflatten([arrays[Part.TANGENT, leaf, 0, 0] for leaf in outputs])

        return Prepared(asked, build)


@dataclass(frozen=True, slots=True)
class PointPullback(Transform):
    """The cotangent of the point: a cotangent of the result times the Jacobian."""

    @property
    def call(self) -> str:
        return "vjp"

    def spelled(self, label: str) -> str:
        return f"client.submit({label}, points, derivative='vjp')"

    def prepare(self, binding: Binding) -> Prepared:
        call = self.spelled(binding.signature.label)
        wrt, inner = differentiated(call, binding, 0)
        _, outputs, _ = parts(call, binding, has_aux=False)
        require_inexact_outputs(call, binding, outputs)
        asked = query(Derivative.VJP, binding.signature.inputs, binding.signature.outputs, wrt=wrt, outputs=outputs)

        def build(arrays: Arrays) -> Any:
            return inner([arrays[Part.COTANGENT, 0, at, 0] for at in range(len(wrt))])

        return Prepared(asked, build)
