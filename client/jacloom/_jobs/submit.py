"""From a function and its points to a job: bound as a call at one point is, checked, and streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Final

import numpy as np

from jacloom import _leaves, _upload
from jacloom._binding import Binding
from jacloom._deadline import Deadline
from jacloom._errors import ArgumentError, BlobNotFoundError, FunctionNotFoundError, ModeUnavailableError
from jacloom._function import Function
from jacloom._jobs.create import Parts, create, last_message, points_message, spec_message, typed
from jacloom._jobs.kinds import JobDerivative
from jacloom._jobs.order import Order
from jacloom._jobs.points import Points, read
from jacloom._jobs.record import JobRecord
from jacloom._options import CallOptions
from jacloom._outline import described
from jacloom._query import Query
from jacloom._retry import retrying
from jacloom._session import AnyFunction, Session
from jacloom._sparsity import Pattern
from jacloom._structure import Structure
from jacloom._transform import Transform
from jacloom_graph import tensor
from jacloom_graph.answer import Derivative
from jacloom_graph.types import Type

_MESSAGE_BYTES: Final = 1 << 20
"""Of points in one message, unless a single one is larger."""
_MOST_ROWS: Final = 1 << 16
"""Points in one message, however small they are."""
_REVIVALS: Final = 4
"""Times that the function is sent again which the service has dropped for others."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Points, or seeds, and what each of them is like."""

    items: Points
    structure: Structure
    types: tuple[Type, ...]

    def blocks(self, rows: int) -> Iterator[list[np.ndarray]]:
        return self.items.blocks(self.structure, self.types, rows)

    @property
    def nbytes(self) -> int:
        return sum(map(tensor.nbytes, self.types))


def submit(
    session: Session,
    f: AnyFunction,
    points: Any,
    args: tuple[Any, ...],
    seeds: Any,
    derivative: JobDerivative,
    transform: Transform,
    order: Order,
    deadline: Deadline,
) -> tuple[JobRecord, Function | None]:
    """Returns the job that computes something of ``f(point, *args)`` at each point, and the function's graph where this process has it.

    Args:
        session: With the service.
        f: The function.
        points: See ``points.read``.
        args: The arguments behind the point, which all points share.
        seeds: One for each point, where the derivative takes them.
        derivative: What is computed, beside the function's own value.
        transform: The same at one point.
        order: What is wanted besides.
        deadline: Of the upload.

    Raises:
        ArgumentError: if the points do not fit the function, naming the first that does not. No job is made then.
        JacloomError: what the service's status means.
    """
    given = read("points", points, session.first_argument(f, deadline))
    if isinstance(getattr(transform, "sparsity", None), Pattern):
        # A wrong pattern gives wrong numbers at every point: it is held against the function's own passes at the first.
        session.run(f, (given.first, *args), {}, transform, None, CallOptions(deadline.remaining()))
    again = given.again and not isinstance(seeds, Iterator)
    refused: list[ModeUnavailableError] = []

    def step(binding: Binding, leaves: list[Any]) -> tuple[JobRecord, Function | None]:
        if refused and not again:
            raise refused[0]
        query = _asked(transform, binding)
        groups = _groups(given, seeds, binding, query)
        try:
            return _create(session, binding, leaves, query, derivative, groups, order, deadline), binding.function
        except ModeUnavailableError as error:
            refused.append(error)
            raise

    return session.apply(f, (given.first, *args), transform, deadline, step)


def _asked(transform: Transform, binding: Binding) -> Query:
    """Returns what is asked at each point: what the transformation asks, and the values of all outputs."""
    query, outputs = transform.prepared(binding).query, binding.signature.outputs
    return replace(query, chosen=replace(query.chosen, values=tuple(range(len(outputs))), value_types=outputs))


def _groups(given: Points, seeds: Any, binding: Binding, query: Query) -> list[_Group]:
    """Returns the points and, where there are any, the seeds, as far checked as they can be before they are read."""
    structure = binding.positional[0]
    slots = _slots(binding)
    groups = [_Group(given, structure, tuple(binding.signature.inputs[slot] for slot in slots))]
    if query.derivative is Derivative.JVP:
        groups.append(_Group(read("seeds", seeds, structure), structure, query.chosen.wrt_types))
    elif query.derivative is Derivative.VJP:
        groups.append(_Group(read("seeds", seeds, binding.signature.result), binding.signature.result, query.chosen.output_types))
    for group in groups:
        group.items.check(group.structure, group.types)
    counts = [group.items.count for group in groups]
    if None not in counts and len(set(counts)) > 1:
        raise ArgumentError(f"seeds must be as many as points: got {counts[1]:,} for {counts[0]:,} points")
    return groups


def _slots(binding: Binding) -> list[int]:
    """Returns the inputs that are the point's leaves."""
    found = []
    for leaf in binding.spans[0]:
        slot = binding.slots[leaf]
        if slot is None:
            got = described(binding.signature.fixed.get(leaf))
            raise ArgumentError(f"point 0: {binding.paths[leaf]} is {got}, which is fixed while tracing, for all points: pass an array in its place")
        found.append(slot)
    return found


def _create(
    session: Session,
    binding: Binding,
    leaves: list[Any],
    query: Query,
    derivative: JobDerivative,
    groups: list[_Group],
    order: Order,
    deadline: Deadline,
) -> JobRecord:
    """Makes the job; again, with the same id, where the service has lost the function, a blob or the connection and the points can be read again."""
    again = all(group.items.again for group in groups)
    taken = False

    def attempt() -> JobRecord:
        nonlocal taken
        if binding.function is not None:
            session.registry.register(binding.function, binding.function.label, deadline)
        parts, leased = _parts(session, binding, leaves, query, groups, deadline)
        points = sorted(_slots(binding))
        first = spec_message(binding.signature.name, derivative, query, points, parts, order)

        def messages() -> Iterator[bytes]:
            nonlocal taken
            yield first
            taken = True
            for block in _together(groups):
                yield points_message(block)
            yield last_message()

        try:
            return create(session.connection, messages(), deadline)
        finally:
            _upload.release(session.connection, leased)

    for _ in range(_REVIVALS):
        try:
            return retrying(attempt, deadline, again=lambda: again or not taken)
        except (FunctionNotFoundError, BlobNotFoundError):
            session.registry.forget(binding.signature.id)
            if binding.function is None or (taken and not again):
                raise
    return retrying(attempt, deadline, again=lambda: again or not taken)


def _parts(session: Session, binding: Binding, leaves: list[Any], query: Query, groups: list[_Group], deadline: Deadline) -> tuple[Parts, list[str]]:
    """Returns the arrays of the request, and the names of the blobs that large ones were uploaded to."""
    signature, own = binding.signature, set(_slots(binding))
    inputs = binding.inputs(leaves)
    shared = [slot for slot in range(len(inputs)) if slot not in own]
    pattern = [] if query.pattern is None else [query.pattern.pointers, query.pattern.indices]
    arrays = [*(_leaves.to_array(inputs[slot]) for slot in shared), *pattern]
    types = [*(signature.inputs[slot] for slot in shared), *(Type(array.dtype.name, array.shape) for array in pattern)]
    tensors, leased = _upload.tensors(session.connection, arrays, types, deadline)
    sent = dict(zip(shared, tensors, strict=False))
    args = [sent[slot] if slot in sent else typed(type_) for slot, type_ in enumerate(signature.inputs)]
    seeds = [typed(type_) for group in groups[1:] for type_ in group.types]
    return Parts(args, seeds, tensors[len(shared) :]), leased


def _together(groups: list[_Group]) -> Iterator[list[np.ndarray]]:
    """Yields points with their seeds, as many as fit a message at a time."""
    rows = min(_MOST_ROWS, max(1, _MESSAGE_BYTES // max(1, sum(group.nbytes for group in groups))))
    done = 0
    for blocks in zip_longest(*(group.blocks(rows) for group in groups)):
        counts = [0 if block is None else len(block[0]) for block in blocks]
        if len(set(counts)) > 1:
            ended = groups[counts.index(min(counts))].items.what
            raise ArgumentError(f"seeds must be as many as points: there are {done + min(counts):,} {ended} and then no more, and others go on")
        done += counts[0]
        yield [array for block in blocks for array in block]
