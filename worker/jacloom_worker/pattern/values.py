"""What is known of a program's values before it runs: constants, and bounds of integers such as indices and counters.

Looked up backwards and only where a rule asks: most values matter to no pattern.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var

from jacloom_worker.modes import scan_counts
from jacloom_worker.pattern import arithmetic
from jacloom_worker.pattern.ranges import Array, Equation, Finder, Range, anything, exactly

Atom: TypeAlias = Any
"""A ``Var`` or a ``Literal``."""

MOST_ELEMENTS = 1 << 24
"""Values larger than this are not computed ahead."""

_MOST_STEPS = 256
"""Loops are followed ahead for so many steps at most."""


class Values:
    """What is known of the values of one jaxpr."""

    def __init__(self, jaxpr: Jaxpr, inputs: Mapping[Var, Finder]) -> None:
        """Knows nothing yet.

        Args:
            jaxpr: Whose values.
            inputs: How to find what is known of constants and inputs; those left out are unknown.
        """
        self._inputs = inputs
        self._makers = {out: (eqn, place) for eqn in jaxpr.eqns for place, out in enumerate(eqn.outvars)}
        self._found: dict[Any, Range | None] = {}

    def of(self, atom: Atom) -> Array | None:
        """Returns an atom's value if it is known."""
        found = self.range(atom)
        return found.low if found is not None and found.known else None

    def range(self, atom: Atom) -> Range | None:
        """Returns bounds of an atom's elements; None if nothing is known."""
        if isinstance(atom, Literal):
            return exactly(atom.val)
        if atom not in self._found:
            self._search(atom)
        return self._found[atom]

    def _search(self, atom: Var) -> None:
        """Finds an atom and all that it depends on, without recursion: chains of a thousand equations are common."""
        stack = [atom]
        while stack:
            top = stack[-1]
            if top in self._found:
                stack.pop()
                continue
            made = self._makers.get(top)
            if made is None:
                finder = self._inputs.get(top)
                self._found[top] = finder() if finder is not None else None
                continue
            eqn = made[0]
            if not _computable(eqn):
                self._found.update(dict.fromkeys(eqn.outvars))
                continue
            missing = [operand for operand in eqn.invars if not isinstance(operand, Literal) and operand not in self._found]
            if missing:
                stack += missing
                continue
            self._found.update(zip(eqn.outvars, _outputs(eqn, [self.range(operand) for operand in eqn.invars]), strict=True))


def _computable(eqn: Equation) -> bool:
    """Returns whether an equation is one to compute ahead: without an effect, of plain arrays, and not large."""
    return not eqn.effects and all(_plain(operand) for operand in (*eqn.invars, *eqn.outvars))


def _plain(atom: Atom) -> bool:
    dtype = getattr(atom.aval, "dtype", None)
    return dtype is not None and not jax.dtypes.issubdtype(dtype, jax.dtypes.extended) and math.prod(atom.aval.shape) <= MOST_ELEMENTS


def _outputs(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    """Returns what is known of an equation's outputs."""
    name = eqn.primitive.name
    if name in _PROGRAMS:
        return _PROGRAMS[name](eqn, operands)
    if all(operand is not None and operand.known for operand in operands):
        found = arithmetic.compute(eqn, [operand.low for operand in operands if operand is not None])
        return [exactly(value) for value in found] if found is not None else [None] * len(eqn.outvars)
    # Of integers without bounds those of their dtype do: a choice or a join may need no more.
    filled = [
        anything(atom.aval) if found is None and atom.aval.dtype.kind in "biu" else found for atom, found in zip(eqn.invars, operands, strict=True)
    ]
    return arithmetic.bound(eqn, filled)


def _call(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    return _run(eqn.params["jaxpr"], operands)


def _scan(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    """Returns what a loop of known length comes to, followed step by step."""
    params, length = eqn.params, eqn.params["length"]
    body: ClosedJaxpr = params["jaxpr"]
    constants, carries = scan_counts(params)
    unknown: list[Range | None] = [None] * len(eqn.outvars)
    if length > _MOST_STEPS or any(operand is None for operand in operands):
        return unknown
    state, sequences = list(operands[constants : constants + carries]), [each for each in operands[constants + carries :] if each is not None]
    rows: list[list[Range]] = []
    for place in reversed(range(length)) if params["reverse"] else range(length):
        slices = [Range(each.low[place], each.high[place]) if not each.known else exactly(each.low[place]) for each in sequences]
        found = _run(body, [*operands[:constants], *state, *slices])
        state = found[:carries]
        rows.append([each for each in found[carries:] if each is not None])
        if any(each is None for each in found):
            return unknown
    if params["reverse"]:
        rows.reverse()
    return [*state, *(_stacked(column) for column in zip(*rows, strict=True))] if rows else unknown


def _stacked(ranges: Sequence[Range]) -> Range:
    low = np.stack([each.low for each in ranges])
    return exactly(low) if all(each.known for each in ranges) else Range(low, np.stack([each.high for each in ranges]))


def _never(eqn: Equation, operands: Sequence[Range | None]) -> list[Range | None]:
    return [None] * len(eqn.outvars)


def _same(found: Range | None) -> Range | None:
    return found


def _run(body: ClosedJaxpr, operands: Sequence[Range | None]) -> list[Range | None]:
    """Returns what is known of a jaxpr's outputs."""
    finders: list[Finder] = [*(partial(exactly, const) for const in body.consts), *(partial(_same, operand) for operand in operands)]
    inner = Values(body.jaxpr, dict(zip((*body.jaxpr.constvars, *body.jaxpr.invars), finders, strict=True)))
    return [inner.range(out) for out in body.jaxpr.outvars]


_PROGRAMS: dict[str, Callable[[Equation, Sequence[Range | None]], list[Range | None]]] = {
    **dict.fromkeys(("jit", "pjit", "closed_call", "core_call"), _call),
    "scan": _scan,
    # Anything might come of these, and compiling them takes longer than patterns may.
    **dict.fromkeys(("while", "cond", "custom_linear_solve", "linear_rules", "custom_jvp_call", "custom_vjp_call"), _never),
}
