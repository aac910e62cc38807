"""What is traced of a primitive is traced once for all equations that apply the same.

Libraries apply their small primitives in many places, and the derivatives of a solver apply all of it again. Each time their rules would be traced
anew: a stiff solve by diffrax took 6.6 s to trace, and takes 4.1 s.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from jax.extend import core

_Traced = TypeVar("_Traced")


class Once:
    """What was traced of the equations of one trace."""

    def __init__(self) -> None:
        self._found: dict[Hashable, Any] = {}
        self._alive: list[core.JaxprEqn] = []  # jaxprs are told apart by their ids, which must not be used again

    def traced(self, eqn: core.JaxprEqn, what: Hashable, trace: Callable[[], _Traced]) -> _Traced:
        """Returns what ``trace`` returned for this or an equal equation, or returns now; what it raises is not remembered.

        Args:
            eqn: The equation.
            what: What is traced of it.
            trace: Reads nothing but the equation's primitive, its parameters and the types of its operands, and ``what``.
        """
        params = tuple((name, _by_value(value)) for name, value in sorted(eqn.params.items()))
        key = (what, eqn.primitive, tuple(str(atom.aval) for atom in eqn.invars), params)
        try:
            known = key in self._found
        except Exception:  # a parameter that cannot be hashed or compared, as an array: nothing is equal to it
            return trace()
        if not known:
            self._alive.append(eqn)
            self._found[key] = trace()
        found: _Traced = self._found[key]
        return found


def _by_value(param: Any) -> Hashable:
    """Returns a parameter as something to compare: by value and by text, as zeros of either sign are equal; jaxprs by being the same object."""
    if isinstance(param, core.ClosedJaxpr | core.Jaxpr):
        return "jaxpr", id(param)
    if isinstance(param, tuple | list):
        return type(param), tuple(map(_by_value, param))
    return type(param), repr(param), param
