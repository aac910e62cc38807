"""Programs compared: which outputs of jaxprs are computed from the same inputs by the same operations, whatever their variables are called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

_INLINED: Final = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
"""Calls that compute what the jaxpr in a parameter of theirs does."""


class Forms:
    """Numbers of values: two have the same one only if they are computed alike. Calls are written out, so rules of differentiation do not count."""

    def __init__(self) -> None:
        """Starts without values."""
        self._numbers: dict[Any, int] = {}

    def of(self, closed: ClosedJaxpr) -> list[int]:
        """Returns the numbers of a jaxpr's outputs. Its inputs are known by their places, so outputs of several jaxprs can be compared."""
        return self._walk(closed, [self._number("input", place) for place in range(len(closed.in_avals))])

    def _walk(self, closed: ClosedJaxpr, inputs: Sequence[int]) -> list[int]:
        jaxpr = closed.jaxpr
        found: dict[Var, int] = dict(zip(jaxpr.constvars, map(self._constant, closed.consts), strict=True))
        found.update(zip(jaxpr.invars, inputs, strict=True))

        def number(atom: Any) -> int:
            return self._constant(atom.val, str(atom.aval)) if isinstance(atom, Literal) else found[atom]

        for eqn in jaxpr.eqns:
            operands = list(map(number, eqn.invars))
            body = eqn.params.get(_INLINED.get(eqn.primitive.name, ""))
            if isinstance(body, ClosedJaxpr):
                results = self._walk(body, operands)
            else:
                results = self._operation(eqn, operands)
            found.update(zip(eqn.outvars, results, strict=True))
        return list(map(number, jaxpr.outvars))

    def _operation(self, eqn: JaxprEqn, operands: list[int]) -> list[int]:
        params = tuple((name, self._param(value)) for name, value in sorted(eqn.params.items()))
        types = tuple(str(out.aval) for out in eqn.outvars)
        # An operation with an effect, such as a random number, is like no other.
        effect = id(eqn) if eqn.effects else None
        key = eqn.primitive.name, params, types, effect, *operands
        return [self._number(place, *key) for place in range(len(types))]

    def _param(self, value: Any) -> Any:
        if isinstance(value, ClosedJaxpr):
            return tuple(map(str, value.in_avals)), tuple(self.of(value))
        if isinstance(value, Jaxpr):
            return self._param(ClosedJaxpr(value, [])) if not value.constvars else id(value)
        if isinstance(value, tuple):
            return tuple(map(self._param, value))
        return repr(value)

    def _constant(self, value: Any, type_: str = "") -> int:
        array = np.asarray(value)
        return self._number("constant", type_ or str(array.dtype), array.shape, array.tobytes())

    def _number(self, *key: Any) -> int:
        return self._numbers.setdefault(key, len(self._numbers))
