"""Which entries of a program's outputs depend on which entries of its seeds.

The program is the one that computes a product, ``J v`` or ``w^T J``, as JAX has traced it: custom rules are in it as they are applied, what has no
derivative is not, and it is linear in its seeds. So its dependences *are* the pattern of J, whatever the rules of differentiation: where the
program has no path from a seed entry to an output, no value at any point can put a number there.

Every rule answers with a superset of the dependences; an operation without one makes its own outputs depend on all that its operands depend on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, Var
from scipy.sparse import csr_array

from jacloom_worker.pattern import sets as _sets
from jacloom_worker.pattern.ranges import Equation, Finder, exactly, unknown
from jacloom_worker.pattern.sets import Ids, Sets
from jacloom_worker.pattern.values import Values

MOST = 1 << 27
"""Elements of all sets of one detection together, in entries of eight bytes."""

Footprint: TypeAlias = Ids | None
"""Of each entry of an array the set of seed entries that it depends on; None if no entry depends on any."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A jaxpr while it is walked: what rules may ask about besides the footprints of their operands."""

    sets: Sets
    values: Values

    def walk(self, closed: ClosedJaxpr, footprints: Sequence[Footprint], finders: Sequence[Finder]) -> list[Footprint]:
        """Returns the footprints of a jaxpr's outputs, given those of its inputs and how to find what is known of their values."""
        return walk(self.sets, closed, footprints, finders)

    def finders(self, atoms: Sequence[Any]) -> list[Finder]:
        """Returns how to find what is known of some values of this jaxpr."""
        return [partial(self.values.range, atom) for atom in atoms]

    def union(self, operands: Sequence[Footprint]) -> Footprint:
        """Returns the union entry by entry of arrays of one shape."""
        dependent = [operand for operand in operands if operand is not None]
        return _sets.union(self.sets, dependent) if dependent else None

    def everything(self, operands: Sequence[Footprint]) -> int:
        """Returns the number of the set of all that some arrays depend on."""
        members = [np.unique(operand) for operand in operands if operand is not None]
        return int(_sets.reduce(self.sets, np.concatenate([np.zeros(1, np.int64), *members])))


Rule: TypeAlias = Callable[[Scope, Equation, Sequence[Footprint]], list[Footprint]]
"""Footprints of an equation's outputs, given those of its operands, at least one of which is not None."""

RULES: dict[str, Rule] = {}
"""By the name of a primitive."""


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Makes a function the rule of the primitives of some names."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def detect(closed: ClosedJaxpr, seeds: Sequence[int], known: Sequence[Any], most: int = MOST) -> csr_array:
    """Returns which entries of a program's outputs depend on which entries of its seeds.

    Args:
        closed: The program, linear in its seeds.
        seeds: Which of its inputs are seeds, of ``n`` entries together, one after the other.
        known: One per input: its value if that is fixed, else None.
        most: How many elements all sets together may have, and the matrix.

    Returns:
        A boolean matrix: shape ``(m, n)``, ``m`` being the entries of all outputs one after the other, rows sorted.

    Raises:
        TooDense: The pattern, or one of something within the program, has more elements than ``most``.
    """
    shapes = {place: closed.in_avals[place].shape for place in seeds}
    sizes = {place: int(np.prod(shape)) for place, shape in shapes.items()}
    made = _sets.make(sum(sizes.values()), most)
    footprints: list[Footprint] = [None] * len(closed.in_avals)
    first = 1
    for place in seeds:
        footprints[place] = np.arange(first, first + sizes[place]).reshape(shapes[place])
        first += sizes[place]
    finders = [unknown if value is None else partial(exactly, value) for value in known]
    outputs = walk(made, closed, footprints, finders)
    rows = [
        np.zeros(int(np.prod(aval.shape)), np.int64) if output is None else output.ravel()
        for output, aval in zip(outputs, closed.out_avals, strict=True)
    ]
    ids = np.concatenate([np.zeros(0, np.int64), *rows])
    if made.elements(ids) > most:
        raise _sets.TooDense
    return made.matrix(ids)


def walk(sets: Sets, closed: ClosedJaxpr, footprints: Sequence[Footprint], finders: Sequence[Finder]) -> list[Footprint]:
    """Returns the footprints of a jaxpr's outputs.

    Args:
        sets: The sets that footprints refer to.
        closed: What to walk.
        footprints: One per input.
        finders: How to find what is known of the inputs' values.
    """
    jaxpr = closed.jaxpr
    constants = [partial(exactly, const) for const in closed.consts]
    scope = Scope(sets, Values(jaxpr, dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *finders), strict=True))))
    found: dict[Var, Ids] = {var: ids for var, ids in zip(jaxpr.invars, footprints, strict=True) if ids is not None}
    for eqn in jaxpr.eqns:
        operands = [None if isinstance(operand, Literal) else found.get(operand) for operand in eqn.invars]
        if all(operand is None for operand in operands):
            continue
        for out, ids in zip(eqn.outvars, RULES.get(eqn.primitive.name, mixing)(scope, eqn, operands), strict=True):
            if ids is not None:
                found[out] = ids
    return [None if isinstance(out, Literal) else found.get(out) for out in jaxpr.outvars]


def mixing(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprints of an operation of which nothing is known: each entry of the outputs depends on all that the operands depend on."""
    everything = scope.everything(operands)
    return [np.full(getattr(out.aval, "shape", ()), everything) for out in eqn.outvars]
