"""Where tangents go within a rule for tangents. A rule is linear in them, and so is each primitive in the operands that they reach."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from jax.extend import core
from jax.interpreters import ad

from jacloom._trace.activity import callee, open_jaxpr
from jacloom._trace.lower import Lowering
from jacloom._trace.types import inexact

_CALLS = ("jit", "pjit", "closed_call", "remat2", "checkpoint")


def reached(jaxpr: core.Jaxpr, inputs: Collection[int]) -> Iterator[tuple[core.JaxprEqn, tuple[int, ...]]]:
    """Yields each equation that depends on some inputs of a jaxpr, with the operands that do; within functions that it calls too."""
    found = {jaxpr.invars[index] for index in inputs}
    for eqn in jaxpr.eqns:
        positions = tuple(index for index, atom in enumerate(eqn.invars) if not isinstance(atom, core.Literal) and atom in found)
        if positions:
            found.update(var for var in eqn.outvars if inexact(var.aval))
            yield eqn, positions
            if eqn.primitive.name in _CALLS:
                yield from reached(open_jaxpr(callee(eqn.params)), positions)


def note_linear(lowering: Lowering, rule: core.ClosedJaxpr, primals: int) -> None:
    """Notes which operands of primitives without a rule for tangents of their own are linear, for those that can be transposed.

    A library may compute a tangent by a primitive of its own, which JAX only ever transposes: it stands in a rule and nowhere else.

    Args:
        lowering: The graph.
        rule: ``(inputs.., tangents..) -> (outputs.., tangents..)``.
        primals: The number of its inputs that are not tangents.
    """
    for eqn, positions in reached(rule.jaxpr, range(primals, len(rule.jaxpr.invars))):
        if eqn.primitive in ad.primitive_transposes and eqn.primitive not in ad.primitive_jvps:
            lowering.linear.setdefault(id(eqn), set()).add(positions)
