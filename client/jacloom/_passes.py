"""The passes over a function at one point, on vectors, and how many were made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from jacloom._errors import ModeUnavailableError
from jacloom._layout import Layout
from jacloom_graph.answer import Derivative

Leaves = Sequence[np.ndarray]

Ask = Callable[[Derivative, Leaves, Leaves], tuple[Leaves, Leaves]]
"""Makes one pass: given the derivative, the differentiated inputs and the seeds, returns the values of the outputs and the derivative's leaves.
Raises ModeUnavailableError where the function has no such derivative. Of a Hessian-vector product the values are left out."""


@dataclass(frozen=True, eq=False)
class Passes:
    """A function of one vector at a point."""

    inputs: Layout
    outputs: Layout
    point: np.ndarray
    """Shape ``(n,)``."""
    ask: Ask
    counts: Counter[Derivative] = field(default_factory=Counter)
    """Passes made."""
    refused: dict[Derivative, ModeUnavailableError] = field(default_factory=dict)
    """Derivatives that the function has not, and why."""

    def value(self, point: np.ndarray) -> np.ndarray:
        """Returns the function's value, shape ``(m,)``."""
        values, _ = self._pass(Derivative.EVALUATE, point, [])
        return self.outputs.join(values)

    def push(self, tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the value and the Jacobian times a tangent, both of shape ``(m,)``; None without forward mode."""
        found = self._try(Derivative.JVP, self.point, self.inputs.split(tangent))
        return None if found is None else (self.outputs.join(found[0]), self.outputs.join(found[1]))

    def pull(self, cotangent: np.ndarray, point: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the value, shape ``(m,)``, and a cotangent times the Jacobian, shape ``(n,)``; None without reverse mode."""
        found = self._try(Derivative.VJP, self.point if point is None else point, self.outputs.split(cotangent))
        return None if found is None else (self.outputs.join(found[0]), self.inputs.join(found[1]))

    def product(self, tangent: np.ndarray) -> np.ndarray | None:
        """Returns the Hessian of a scalar function times a tangent, shape ``(n,)``; None where it has none."""
        found = self._try(Derivative.HVP, self.point, self.inputs.split(tangent))
        return None if found is None else self.inputs.join(found[1])

    def _try(self, derivative: Derivative, point: np.ndarray, seeds: Leaves) -> tuple[Leaves, Leaves] | None:
        if derivative in self.refused:
            return None
        try:
            return self._pass(derivative, point, seeds)
        except ModeUnavailableError as refusal:
            self.refused[derivative] = refusal
            return None

    def _pass(self, derivative: Derivative, point: np.ndarray, seeds: Leaves) -> tuple[Leaves, Leaves]:
        found = self.ask(derivative, self.inputs.split(point), seeds)
        self.counts[derivative] += 1
        return found
