"""What is traced of a primitive is traced once for all equations that apply the same.

Libraries apply their small primitives in many places, and the derivatives of a solver apply all of it again. Each time their rules would be traced
anew: a stiff solve by diffrax took 6.6 s to trace, and takes 4.1 s.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from jax.extend import core

from jacloom._trace.fingerprint import content_of

_Traced = TypeVar("_Traced")


class Once:
    """What was traced of the equations of one trace."""

    def __init__(self) -> None:
        self._contents: dict[int, tuple[core.JaxprEqn, str]] = {}
        """By the equation's id, which must not be used again."""
        self._found: dict[Hashable, Any] = {}

    def traced(self, eqn: core.JaxprEqn, what: Hashable, trace: Callable[[], _Traced]) -> _Traced:
        """Returns what ``trace`` returned for this or an equal equation, or returns now; what it raises is not remembered.

        Args:
            eqn: The equation.
            what: What is traced of it.
            trace: Reads nothing but the equation's primitive, its parameters and the types of its operands, and ``what``.
        """
        known = self._contents.get(id(eqn))
        if known is None:
            known = self._contents[id(eqn)] = eqn, content_of(eqn)
        key = (what, known[1])
        if key not in self._found:
            self._found[key] = trace()
        found: _Traced = self._found[key]
        return found
