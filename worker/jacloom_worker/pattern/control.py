"""Operations that hold programs: calls, branches, loops, solves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr
from scipy.sparse import csgraph, csr_array

from jacloom_worker.modes import scan_counts
from jacloom_worker.pattern import sets as _sets
from jacloom_worker.pattern.detection import MOST, Footprint, Scope, rule, walk
from jacloom_worker.pattern.elementwise import filled
from jacloom_worker.pattern.ranges import Equation, Finder, unknown
from jacloom_worker.pattern.sets import Ids

_MOST_STEPS = 1 << 24
"""Steps of a loop times entries of its body up to which each step is composed with the one before."""


@rule("jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "linear_rules", "remat2", "checkpoint")
def _call(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprints of a call's results: a product is computed by the body, whatever rules there are for differentiating it."""
    return scope.walk(_closed(eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))), operands, scope.finders(eqn.invars))


@rule("cond")
def _branch(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns what the branches that may be taken bring together."""
    branches = eqn.params["branches"]
    which = scope.values.range(eqn.invars[0]) if operands[0] is None else None
    low, high = (0, len(branches) - 1) if which is None else (int(np.clip(side, 0, len(branches) - 1)) for side in (which.low, which.high))
    found = [scope.walk(each, operands[1:], scope.finders(eqn.invars[1:])) for each in branches[low : high + 1]]
    if operands[0] is None:
        return [scope.union(each) for each in zip(*found, strict=True)]
    chosen = scope.everything(operands[:1])
    return [scope.union([*each, np.full(out.aval.shape, chosen)]) for each, out in zip(zip(*found, strict=True), eqn.outvars, strict=True)]


@rule("scan")
def _scan(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprints of a loop of known length: those of its body, found once, composed step by step."""
    params, length = eqn.params, eqn.params["length"]
    constants, carries = scan_counts(params)
    body: ClosedJaxpr = params["jaxpr"]
    finders = [*scope.finders(eqn.invars[:constants]), *[unknown] * (len(eqn.invars) - constants)]
    outs = body.jaxpr.outvars
    if length == 0:
        return [*operands[constants : constants + carries], *[None] * (len(outs) - carries)]
    step = _Step(scope, body, constants, carries, operands, finders)
    state = step.initial(operands[constants : constants + carries])
    sequences = operands[constants + carries :]
    if length * step.size > _MOST_STEPS:
        merged = [None if each is None else _sets.reduce(scope.sets, np.moveaxis(each, 0, -1)) for each in sequences]
        state, rows = step.closure(state, merged)
        stacked = [None if row is None else np.broadcast_to(row, (length, *row.shape)) for row in rows]
        return [*state, *stacked]
    taken: list[list[Footprint]] = []
    for place in reversed(range(length)) if params["reverse"] else range(length):
        before = state
        state, rows = step(state, [None if each is None else each[place] for each in sequences])
        taken.append(rows)
        if all(each is None for each in sequences) and _same(before, state):
            taken += [rows] * (length - len(taken))
            break
    if params["reverse"]:
        taken.reverse()
    stacked = [
        None if all(row is None for row in rows) else np.stack([filled(row, out.aval.shape) for row in rows])
        for rows, out in zip(zip(*taken, strict=True), outs[carries:], strict=True)
    ]
    return [*state, *stacked]


@rule("while")
def _loop(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprints of a loop of unknown length: what any number of steps brings together."""
    skipped, constants = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    inner = operands[skipped:]
    carries = len(inner) - constants
    finders = [*scope.finders(eqn.invars[skipped : skipped + constants]), *[unknown] * carries]
    step = _Step(scope, eqn.params["body_jaxpr"], constants, carries, inner, finders)
    return list(step.closure(step.initial(inner[constants:]), [])[0])


@rule("custom_linear_solve")
def _linear_solve(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of ``x`` in ``A x = b``: dense within each block of A that no entry ties to another."""
    jaxprs, lengths = eqn.params["jaxprs"], eqn.params["const_lengths"]
    total = sum(lengths)
    outs = [out.aval for out in eqn.outvars]
    sides = operands[total:]
    if any(operand is not None for operand in operands[:total]):
        return [np.full(out.shape, scope.everything(operands)) for out in outs]
    matrix = _local(_closed(jaxprs.matvec), lengths.matvec, scope.finders(eqn.invars[: lengths.matvec]))
    _, blocks = csgraph.connected_components(matrix, directed=True, connection="weak")
    entries = np.concatenate([filled(side, out.shape).ravel() for side, out in zip(sides, outs, strict=False)])
    order = np.argsort(blocks, kind="stable")
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(blocks))])
    found = scope.sets.unite(starts, entries[order])[blocks]
    return list(_split(found, [out.shape for out in outs]))


class _Step:
    """The body of a loop: which entries of its results depend on which entries of its operands, found once for all steps."""

    def __init__(
        self, scope: Scope, body: ClosedJaxpr, constants: int, carries: int, operands: Sequence[Footprint], finders: Sequence[Finder]
    ) -> None:
        self._scope, self._carries = scope, carries
        self._outputs = [out.aval for out in body.jaxpr.outvars]
        inputs = [var.aval for var in body.jaxpr.invars]
        dependent = [operand is not None for operand in operands]
        while True:
            self._places = [place for place, flag in enumerate(dependent) if flag]
            local, reached = _dependences(body, self._places, finders)
            grown = [flag or (constants <= place < constants + carries and reached[place - constants]) for place, flag in enumerate(dependent)]
            if grown == dependent:
                break
            dependent = grown
        self._local, self._reached = local, reached
        self._carried = dependent[constants : constants + carries]
        self._shapes = [inputs[place].shape for place in self._places]
        self._constants = [operand for operand in operands[:constants] if operand is not None]
        self._sequences = dependent[constants + carries :]
        self.size = local.nnz + local.shape[1]

    def initial(self, carries: Sequence[Footprint]) -> list[Footprint]:
        """Returns a state with a footprint for every carry that gets one in any step."""
        shapes = [aval.shape for aval in self._outputs[: self._carries]]
        return [filled(carry, shape) if flag else None for carry, shape, flag in zip(carries, shapes, self._carried, strict=True)]

    def __call__(self, carries: Sequence[Footprint], slices: Sequence[Footprint]) -> tuple[list[Footprint], list[Footprint]]:
        """Returns the carries after a step and what it puts out."""
        operands = [*self._constants, *(carry for carry in carries if carry is not None), *(part for part in slices if part is not None)]
        flat = np.concatenate([np.zeros(0, np.int64), *(operand.ravel() for operand in operands)])
        found = self._scope.sets.unite(self._local.indptr.astype(np.int64), flat[self._local.indices])
        parts = _split(found, [aval.shape for aval in self._outputs])
        outputs = [part if reached else None for part, reached in zip(parts, self._reached, strict=True)]
        kept = [
            filled(part, aval.shape) if flag else None
            for part, aval, flag in zip(outputs[: self._carries], self._outputs, self._carried, strict=False)
        ]
        return kept, outputs[self._carries :]

    def closure(self, carries: Sequence[Footprint], slices: Sequence[Footprint]) -> tuple[list[Footprint], list[Footprint]]:
        """Returns what any number of steps brings together."""
        state = list(carries)
        while True:
            after, rows = self(state, slices)
            grown = [self._scope.union(pair) for pair in zip(state, after, strict=True)]
            if _same(state, grown):
                return state, rows
            state = grown


def _dependences(body: ClosedJaxpr, places: Sequence[int], finders: Sequence[Finder]) -> tuple[csr_array, list[bool]]:
    """Returns which entries of a body's results depend on which entries of some of its inputs, and which results depend on any."""
    inputs = [var.aval for var in body.jaxpr.invars]
    sizes = [inputs[place].size for place in places]
    sets = _sets.make(sum(sizes), MOST)
    footprints: list[Footprint] = [None] * len(inputs)
    first = 1
    for place, size in zip(places, sizes, strict=True):
        footprints[place] = np.arange(first, first + size).reshape(inputs[place].shape)
        first += size
    found = walk(sets, body, footprints, finders)
    rows = [filled(each, out.aval.shape).ravel() for each, out in zip(found, body.jaxpr.outvars, strict=True)]
    return sets.matrix(np.concatenate([np.zeros(0, np.int64), *rows])), [each is not None for each in found]


def _local(body: ClosedJaxpr, constants: int, finders: Sequence[Finder]) -> csr_array:
    """Returns which entries of a body's results depend on which entries of its inputs after the constants."""
    places = range(constants, len(body.jaxpr.invars))
    return _dependences(body, places, [*finders, *[unknown] * len(places)])[0]


def _same(before: Sequence[Footprint], after: Sequence[Footprint]) -> bool:
    return all(old is new or (old is not None and new is not None and np.array_equal(old, new)) for old, new in zip(before, after, strict=True))


def _split(flat: Ids, shapes: Sequence[tuple[int, ...]]) -> list[Ids]:
    """Returns the entries of several arrays that lie one after the other."""
    return list(_parts(flat, shapes))


def _parts(flat: Ids, shapes: Sequence[tuple[int, ...]]) -> Iterator[Ids]:
    first = 0
    for shape in shapes:
        size = int(np.prod(shape))
        yield flat[first : first + size].reshape(shape)
        first += size


def _closed(jaxpr: Any) -> ClosedJaxpr:
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())
