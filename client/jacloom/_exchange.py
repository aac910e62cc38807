"""What is said to the service about a function whose arguments are bound: with all that it lacks, and again where it has forgotten something."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np

from jacloom import _call, _upload
from jacloom._binding import Binding
from jacloom._cache import Recent
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._diagnosis import Diagnosis, from_message
from jacloom._errors import BlobNotFoundError, FunctionNotFoundError
from jacloom._options import CallOptions
from jacloom._plan import Plan
from jacloom._point import Point
from jacloom._prepared import Vectors
from jacloom._progress import Watch
from jacloom._query import Query
from jacloom._registry import Registry, not_registered
from jacloom._sparsity import Structure
from jacloom_graph.answer import ArrayKey, Derivative, Part, Selection
from jacloom_graph.framing import Pieces
from jacloom_graph.types import Type

_Answer = TypeVar("_Answer")

_REVIVALS = 4
"""Times that a call sends its function again before it is given up: on a crowded service others may need the room at once."""
_MOST_STRUCTURES = 32
"""Sparsity structures that are kept, so that they are not sent again."""


class Exchange:
    """A connection, and what the service behind it is known to hold."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.registry = Registry(connection)
        self._structures: Recent[Structure] = Recent(_MOST_STRUCTURES)
        self._discarded: SimpleQueue[str] = SimpleQueue()
        """Names of leased blobs that nobody uses any more. Of a ``SimpleQueue`` finalizers may be users."""

    def answer(
        self,
        binding: Binding,
        query: Query,
        point: Sequence[np.ndarray],
        vectors: Vectors,
        title: str,
        deadline: Deadline,
        options: CallOptions,
    ) -> Mapping[ArrayKey, Any]:
        """Returns the arrays that answer a query at a point."""
        signature, chosen = binding.signature, query.chosen
        seed_types = chosen.output_types if query.derivative is Derivative.VJP else chosen.wrt_types
        pattern, pattern_types = _pattern(query)
        # In the order in which ``serialized`` takes them.
        groups = (point, vectors.seeds, vectors.weights, pattern)
        types = (*signature.inputs, *(seed_types if vectors.seeds else ()), *chosen.weight_types, *pattern_types)
        key = _structure_key(binding, query)
        known = self._structures.get(key)

        def send(tensors: list[Pieces]) -> _call.Answer:
            asked = _call.request(signature.name, chosen, _call.options(query, known))
            rest = iter(tensors)
            message = _call.serialized(asked, *([next(rest) for _ in group] for group in groups))
            with Watch(title, options.on_progress) as watch:
                return _call.compute(self.connection, message, query, deadline, watch, known)

        answer = self._sent(binding, list(chain.from_iterable(groups)), types, deadline, send)
        if answer.structure is not None:
            self._keep(key, answer.structure)
        return _read(answer, query)

    def structure(self, binding: Binding, query: Query, deadline: Deadline) -> Structure:
        """Returns the structure that a query asks for; nothing is computed."""
        key = _structure_key(binding, query)
        known = self._structures.get(key)

        def send(pattern: list[Pieces]) -> Structure:
            return _call.structure(self.connection, _call.typed(binding.signature, query, known), query, deadline, pattern, known)

        found = self._sent(binding, *_pattern(query), deadline, send)
        self._keep(key, found)
        return found

    def plan(self, binding: Binding, query: Query, deadline: Deadline) -> Plan:
        """Returns the service's plan for a query; nothing is computed."""

        def send(pattern: list[Pieces]) -> Plan:
            return _call.explain(self.connection, _call.typed(binding.signature, query), query.derivative, deadline, pattern, binding.function)

        return self._sent(binding, *_pattern(query), deadline, send)

    def diagnosis(self, binding: Binding, chosen: Selection, point: Sequence[np.ndarray], deadline: Deadline) -> Diagnosis:
        """Returns what the service finds wrong with a function at a point."""

        def send(tensors: list[Pieces]) -> Diagnosis:
            message = _call.serialized(_call.request(binding.signature.name, chosen), tensors)
            return from_message(_call.diagnose(self.connection, message, deadline), binding, chosen)

        return self._sent(binding, point, binding.signature.inputs, deadline, send)

    def product(
        self,
        binding: Binding,
        query: Query,
        point: Point,
        seeds: Sequence[np.ndarray],
        types: Sequence[Type],
        title: str,
        deadline: Deadline,
        options: CallOptions,
    ) -> Mapping[ArrayKey, np.ndarray]:
        """Returns the arrays that answer a query for products at a point that stays with the service.

        Args:
            binding: Of the function.
            query: What is asked.
            point: The arguments, and weights.
            seeds: Tangents or cotangents.
            types: Their types.
            title: Of the call, for those who watch it.
            deadline: Of the call.
            options: How it is made.
        """
        self._release_discarded()
        asked = _call.request(binding.signature.name, query.chosen, _call.options(query))

        def attempt() -> Mapping[ArrayKey, np.ndarray]:
            self._ensure(binding, deadline)
            sent = point.sent(self.connection, deadline)
            tensors, leased = _upload.tensors(self.connection, seeds, types, deadline)
            try:
                with Watch(title, options.on_progress) as watch:
                    message = _call.serialized(asked, sent.tensors, tensors, sent.weights)
                    return _call.compute(self.connection, message, query, deadline, watch).arrays
            except BlobNotFoundError:
                point.lost(self.connection, sent)
                raise
            finally:
                _upload.release(self.connection, leased)

        return self._reviving(binding, attempt)

    def _sent(
        self, binding: Binding, arrays: Sequence[np.ndarray], types: Sequence[Type], deadline: Deadline, send: Callable[[list[Pieces]], _Answer]
    ) -> _Answer:
        """Returns what ``send`` returns, given arrays as messages, once the service holds the function and those of them that are large."""
        self._release_discarded()

        def attempt() -> _Answer:
            self._ensure(binding, deadline)
            tensors, leased = _upload.tensors(self.connection, arrays, types, deadline)
            try:
                return send(tensors)
            finally:
                _upload.release(self.connection, leased)

        return self._reviving(binding, attempt)

    def _ensure(self, binding: Binding, deadline: Deadline) -> None:
        if binding.function is not None:
            self.registry.registered(binding.function, deadline)

    def _reviving(self, binding: Binding, attempt: Callable[[], _Answer]) -> _Answer:
        """Runs an attempt, and again if the service has lost what was sent to it before, as a restart makes it do, or others who needed the room."""
        for _ in range(_REVIVALS):
            try:
                return attempt()
            except FunctionNotFoundError:
                self.registry.forget(binding.signature.id)
                if binding.function is None:
                    raise not_registered(binding.signature.id) from None
            except BlobNotFoundError:
                # A constant may be meant: registering again uploads what is missing.
                self.registry.forget(binding.signature.id)
        return attempt()

    def _keep(self, key: Hashable, structure: Structure) -> None:
        """Keeps a structure in the place of the one that was kept before."""
        if self._structures.get(key) is not structure:
            self._structures.drop(key)
            self._structures.put(key, structure)

    def discard(self, point: Point) -> None:
        """Has a point that nobody uses any more released with the next call.

        For finalizers, which run at any moment, also in a thread that is inside gRPC just then: they must not call anything there, nor take a lock.
        """
        for name in point.leased:
            self._discarded.put(name)

    def _release_discarded(self) -> None:
        names = []
        with suppress(Empty):
            while True:
                names.append(self._discarded.get_nowait())
        _upload.release(self.connection, names)


def _structure_key(binding: Binding, query: Query) -> Hashable:
    """Returns what tells structures apart, so that one that came once need not come again."""
    return binding.signature.id, query.derivative, query.chosen, query.mode, query.holomorphic, query.sparse, query.pattern


def _pattern(query: Query) -> tuple[list[np.ndarray], tuple[Type, ...]]:
    """Returns the arrays of the pattern that a query comes with, and their types."""
    arrays = [] if query.pattern is None else [query.pattern.pointers, query.pattern.indices]
    return arrays, tuple(Type(array.dtype.name, array.shape) for array in arrays)


def _read(answer: _call.Answer, query: Query) -> Mapping[ArrayKey, Any]:
    """Returns an answer's arrays as they were asked for: of a sparse one its blocks, or the matrix in the place of its entries."""
    if answer.structure is None:
        return answer.arrays
    entries = answer.arrays[Part.ENTRIES, 0, 0, 0]
    found = {key: array for key, array in answer.arrays.items() if key[0] == Part.VALUE}
    if query.sparse:
        return found | {(Part.ENTRIES, 0, 0, 0): answer.structure.matrix(entries)}
    return found | answer.structure.blocks(entries, query.derivative, query.chosen)
