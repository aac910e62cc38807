"""Constants among the operands of a call, put into the function that is called.

Some implementations read the value of an operand in Python, which says what to compute: equinox's ``noinline`` keeps functions in a list and calls
the one of a number. Within a function that is compiled apart, a loop or a branch, such a number is an argument as others are, and what it is stands
where the function is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jax.extend import core

from jacloom_graph.types import Constant

KnownOperands = Mapping[int, Any]
"""Arrays that operands are, by position."""


class ValueWanted(Exception):
    """An implementation reads the value of an operand that may be a constant further out: lower the program again, with such put in."""


def known_operands(operands: Sequence[int], constants: Sequence[Constant]) -> KnownOperands:
    """Returns the arrays of those operands that are constants of the graph. Random keys are none: their data are not what a program sees."""
    found = {index: constants[-1 - operand] for index, operand in enumerate(operands) if operand < 0}
    return {index: constant.data for index, constant in found.items() if constant.data is not None and not constant.type.dtype.startswith("key")}


class Specialised:
    """Jaxprs with values put in, remembered for one trace: the same values in the same jaxpr give the same object."""

    def __init__(self) -> None:
        self._found: dict[object, core.ClosedJaxpr] = {}
        self._alive: list[Any] = []  # keys hold ids, which must not be used again while they count

    def of(self, closed: core.ClosedJaxpr, known: KnownOperands) -> core.ClosedJaxpr:
        """Returns a jaxpr of the same inputs that does not read those whose values are known, but the values."""
        # Tangents that do not exist are booleans in a graph, and of another type in a jaxpr.
        known = {index: value for index, value in known.items() if getattr(closed.in_avals[index], "dtype", None) == value.dtype}
        if not known:
            return closed
        key = (id(closed.jaxpr), tuple(map(id, closed.consts)), tuple((index, id(value)) for index, value in known.items()))
        if key not in self._found:
            self._alive.append((closed, known))
            self._found[key] = _with_values(closed.jaxpr, closed.consts, known)
        return self._found[key]


def _with_values(jaxpr: core.Jaxpr, consts: Sequence[Any], known: KnownOperands) -> core.ClosedJaxpr:
    """Returns the jaxpr with variables that nothing reads in place of the inputs that are known, which become its constants."""
    unread: list[Any] = [type(var)(var.aval) if index in known else var for index, var in enumerate(jaxpr.invars)]
    constvars = [*jaxpr.constvars, *(jaxpr.invars[index] for index in known)]
    return core.ClosedJaxpr(jaxpr.replace(constvars=constvars, invars=unread), [*consts, *known.values()])
