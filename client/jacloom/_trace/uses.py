"""Where custom rules apply functions to tangents, and in which operands: in these a function is linear, and reverse mode goes back through it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jax.extend import core
from jax.interpreters import ad

from jacloom._trace.activity import Activity, Flags, open_jaxpr

Operands = tuple[int, ...]

_CUSTOM = ("custom_jvp_call", "custom_vjp_call")


class Uses:
    """The sets of operands in which tangents reach each equation of the rules of one trace, of primitives that have a transpose."""

    def __init__(self) -> None:
        self._of: dict[int, set[Operands]] = {}
        self._inside: dict[int, frozenset[tuple[int, Operands]]] = {}
        self._alive: list[Any] = []  # equations and jaxprs are known by their ids, which must not be used again

    def note(self, rule: core.ClosedJaxpr, primals: int) -> set[tuple[core.Primitive, Operands]]:
        """Notes the uses within a rule for tangents.

        Args:
            rule: ``(primals.., tangents..) -> ..``.
            primals: How many of its inputs are not tangents.

        Returns:
            Each primitive with a set of operands in which tangents reach it.
        """
        walk = _Walk()
        walk.inside(rule.jaxpr, tuple(index >= primals for index in range(len(rule.jaxpr.invars))))
        self._alive.append(walk)
        for eqn, operands in walk.found:
            self._of.setdefault(id(eqn), set()).add(operands)
        for jaxpr, found in walk.within.items():
            self._inside[jaxpr] = self._inside.get(jaxpr, frozenset()) | found
        return {(eqn.primitive, operands) for eqn, operands in walk.found}

    def of(self, eqn: core.JaxprEqn) -> Iterable[Operands]:
        """Returns the sets of operands in which tangents reach an equation, in the rules noted so far."""
        return self._of.get(id(eqn), ())

    def inside(self, jaxpr: core.Jaxpr) -> frozenset[tuple[int, Operands]]:
        """Returns all uses noted so far of equations within a jaxpr: as long as there are no more, it becomes the same function."""
        return self._inside.get(id(jaxpr), frozenset())


class _Walk(Activity):
    """Activity of tangents, on whose way uses are found."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[core.JaxprEqn, Operands]] = []
        self.within: dict[int, set[tuple[int, Operands]]] = {}
        """Uses by the jaxpr that they are in, at any depth."""
        self._around: list[set[tuple[int, Operands]]] = []
        """Of the jaxprs that are being walked, the outermost first."""

    def _analyse(self, jaxpr: core.Jaxpr, active: Flags) -> tuple[frozenset[Any], Flags]:
        inner = self.within.setdefault(id(jaxpr), set())
        self._around.append(inner)
        try:
            return super()._analyse(jaxpr, active)
        finally:
            self._around.pop()
            if self._around:
                self._around[-1].update(inner)

    def through(self, eqn: core.JaxprEqn, flags: Flags) -> Flags:
        if eqn.primitive in ad.primitive_transposes:
            operands = tuple(index for index, flag in enumerate(flags) if flag)
            self.found.append((eqn, operands))
            self._around[-1].add((id(eqn), operands))
        if eqn.primitive.name in _CUSTOM:
            return self.outputs(open_jaxpr(eqn.params["call_jaxpr"]), flags)  # applied to tangents, its body is what is transposed
        return super().through(eqn, flags)
