"""What a row of the op table says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from jacloom_graph.attrs import REFERENCES, REQUIRED, AttrSpec


@dataclass(frozen=True)
class Op:
    """One row: an operation of the graph language."""

    name: str
    arity: tuple[int, int | None]
    """Least and greatest number of operands; None for no bound."""
    attrs: tuple[AttrSpec, ...]
    doc: str
    """One line for the reference: what the op computes, with the meaning of its attributes."""
    zero_derivative: bool = False
    """The derivative is zero everywhere (``floor``, ``sign``, ``stop_gradient``)."""

    @cached_property
    def specs(self) -> Mapping[str, AttrSpec]:
        """The attributes by name."""
        return {spec.name: spec for spec in self.attrs}

    @cached_property
    def needs_attrs(self) -> bool:
        """Whether something has to be checked even where no attribute is given: one is required, or functions may have to fit."""
        return bool(self.references) or any(spec.default is REQUIRED for spec in self.attrs)

    @cached_property
    def references(self) -> tuple[AttrSpec, ...]:
        """The attributes that name functions or rules, in order."""
        return tuple(spec for spec in self.attrs if spec.kind in REFERENCES)
