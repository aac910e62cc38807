"""Where custom rules apply functions to tangents, and in which operands: in these a function is linear, and reverse mode goes back through it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jax.extend import core
from jax.interpreters import ad

from jacloom._trace.activity import Activity, Flags

Operands = tuple[int, ...]


class Uses:
    """Of primitives that have a transpose: the sets of operands in which tangents reach an equation of a rule."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[core.JaxprEqn, set[Operands]]] = {}  # with the equation, whose id must not be used again

    def note(self, rule: core.ClosedJaxpr, primals: int) -> set[tuple[Any, Operands]]:
        """Notes the uses within a rule for tangents.

        Args:
            rule: ``(primals.., tangents..) -> ..``.
            primals: How many of its inputs are not tangents.

        Returns:
            Each primitive with a set of operands in which tangents reach it.
        """
        walk = _Walk()
        walk.inside(rule.jaxpr, tuple(index >= primals for index in range(len(rule.jaxpr.invars))))
        for eqn, operands in walk.found:
            self._of.setdefault(id(eqn), (eqn, set()))[1].add(operands)
        return {(eqn.primitive, operands) for eqn, operands in walk.found}

    def of(self, eqn: core.JaxprEqn) -> Iterable[Operands]:
        """Returns the sets of operands in which tangents reach an equation, in the rules noted so far."""
        return self._of[id(eqn)][1] if id(eqn) in self._of else ()


class _Walk(Activity):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[core.JaxprEqn, Operands]] = []

    def through(self, eqn: core.JaxprEqn, flags: Flags) -> Flags:
        if eqn.primitive in ad.primitive_transposes:
            self.found.append((eqn, tuple(index for index, flag in enumerate(flags) if flag)))
        return super().through(eqn, flags)
