"""What happens between a method of the client and the wire: bind the arguments, register the function, send, and put the answer together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from jacloom import _call, _leaves, _tracing, _upload
from jacloom._binding import Binding, bind_traced
from jacloom._cache import Recent
from jacloom._certificate import Certificate
from jacloom._checking import certify
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._diagnosis import Diagnosis, from_message
from jacloom._errors import ArgumentError, BlobNotFoundError, FunctionNotFoundError, JacloomError, ModeUnavailableError
from jacloom._examination import Examination
from jacloom._function import Function
from jacloom._layout import Layout
from jacloom._linear import Linear, Side
from jacloom._options import CallOptions
from jacloom._passes import Passes
from jacloom._plan import Plan
from jacloom._point import Point
from jacloom._prepared import Vectors
from jacloom._progress import Watch
from jacloom._query import Query, probe, products
from jacloom._question import Question
from jacloom._registry import Registry, not_registered
from jacloom._remote import RemoteFunction
from jacloom._signature import inexact, parse_id
from jacloom._sparsity import Structure
from jacloom._transform import Transform
from jacloom._verification import computed, verify
from jacloom_graph.answer import ArrayKey, Derivative, Part, Selection, batched
from jacloom_graph.framing import Pieces
from jacloom_graph.types import Type

AnyFunction = Callable[..., Any] | Function | RemoteFunction | str
"""What can be differentiated: a callable that JAX can trace, a traced or registered function, or a function's id."""

_REVIVALS = 4
"""Times that a call sends its function again before it is given up: on a crowded service others may need the room at once."""
_MOST_STRUCTURES = 32
"""Sparsity structures that are kept, so that they are not sent again."""
_FIELD = re.compile(r"args\[(\d+)\]")


class Session:
    """A connection and what is known about the service behind it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.registry = Registry(connection)
        self._structures: Recent[Structure] = Recent(_MOST_STRUCTURES)
        self._discarded: SimpleQueue[str] = SimpleQueue()
        """Names of leased blobs that nobody uses any more. Of a ``SimpleQueue`` finalizers may be users."""

    def run(self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], transform: Transform, given: Any, options: CallOptions) -> Any:
        """Returns a transformation's result at a point.

        Args:
            f: The function.
            args: The point.
            kwargs: Further arguments by name.
            transform: What to compute.
            given: What comes beside the point, for transformations that take it: tangents, cotangents, weights.
            options: How the call is made.
        """
        deadline = Deadline(options.timeout)

        def step(binding: Binding, leaves: list[Any]) -> Any:
            return self._compute(binding, leaves, transform, given, deadline, options)

        return self._with_activity(f, args, kwargs, transform, deadline, step)

    def explain(self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], transform: Transform, options: CallOptions) -> Plan:
        """Returns the service's plan for a transformation. Of the arguments, only types matter."""
        deadline = Deadline(options.timeout)

        def step(binding: Binding, leaves: list[Any]) -> Plan:
            query = transform.prepared(binding).query

            def send(pattern: list[Pieces]) -> Plan:
                message = _call.request(binding.signature.name, query.chosen, _call.options(query))
                whole = _call.typed(message, binding.signature.inputs, query.chosen.weight_types)
                return _call.explain(self.connection, whole, query.derivative, deadline, pattern)

            arrays, types = _pattern(query)
            plan: Plan = self._sent(binding, arrays, types, deadline, send)
            return plan

        plan: Plan = self._with_activity(f, args, kwargs, transform, deadline, step)
        return plan

    def diagnose(self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], examination: Examination, options: CallOptions) -> Diagnosis:
        """Returns what the service finds wrong with a function at a point."""
        deadline = Deadline(options.timeout)
        found: list[Diagnosis] = []

        def step(binding: Binding, leaves: list[Any]) -> Diagnosis:
            chosen = examination.chosen(binding)
            arrays = [_leaves.to_array(leaf) for leaf in binding.inputs(leaves)]

            def send(tensors: list[Pieces]) -> Diagnosis:
                message = _call.serialized(_call.request(binding.signature.name, chosen), tensors)
                return from_message(_call.diagnose(self.connection, message, deadline), binding, chosen)

            diagnosis: Diagnosis = self._sent(binding, arrays, binding.signature.inputs, deadline, send)
            found.append(diagnosis)
            if chosen.wrt and chosen.outputs and not diagnosis.forward and not diagnosis.reverse:
                # Perhaps a custom rule only refuses inputs that do not matter here.
                raise ModeUnavailableError("; ".join(diagnosis.notes))
            return diagnosis

        try:
            self._with_activity(f, args, kwargs, examination, deadline, step)
        except ModeUnavailableError:
            if not found:
                raise
        return found[-1]

    def product(
        self, point: Point, question: Linear, chosen: Selection, side: Side, seeds: Sequence[np.ndarray], batch: int, options: CallOptions
    ) -> Mapping[ArrayKey, np.ndarray]:
        """Returns products with a derivative at a point that stays with the service.

        Args:
            point: The function and its arguments.
            question: What they are products with, for tracing the function again if it refuses.
            chosen: The leaves that it is about.
            side: The side that the derivative is multiplied from.
            seeds: One array per leaf of ``side.seeds``.
            batch: Length of their further first axis; 0 if they have none.
            options: How the call is made.

        Raises:
            ModeUnavailableError: if there are no products from this side.
        """
        deadline = Deadline(options.timeout)
        query = products(side.derivative, chosen, batch, question.holomorphic)
        types = [batched(type_, batch) for type_ in side.seeds]
        self._release_discarded()

        def step(binding: Binding) -> Mapping[ArrayKey, np.ndarray]:
            asked = _call.request(binding.signature.name, chosen, _call.options(query))

            def attempt() -> Mapping[ArrayKey, np.ndarray]:
                self._ensure(binding, deadline)
                sent = point.sent(self.connection, deadline)
                tensors, leased = _upload.tensors(self.connection, seeds, types, deadline)
                try:
                    with Watch(f"{question.call} of {binding.signature.label}", options.on_progress) as watch:
                        message = _call.serialized(asked, sent.tensors, tensors, sent.weights)
                        return _call.compute(self.connection, message, query, deadline, watch).arrays
                except BlobNotFoundError:
                    point.lost(self.connection, sent)
                    raise
                finally:
                    _upload.release(self.connection, leased)

            found: Mapping[ArrayKey, np.ndarray] = self._reviving(binding, attempt)
            return found

        args, kwargs = point.arguments
        found: Mapping[ArrayKey, np.ndarray] = self._narrowing(point.f, args, kwargs, point.binding, question, step)
        return found

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

    def check(
        self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], examination: Examination, seed: int, options: CallOptions
    ) -> Certificate:
        """Returns what holds of a function's derivatives at a point."""
        deadline = Deadline(options.timeout)

        def step(binding: Binding, leaves: list[Any]) -> Certificate:
            point = [_leaves.to_array(leaf) for leaf in binding.inputs(leaves)]
            return certify(self._passes(binding, examination.chosen(binding), point, deadline), seed)

        certificate: Certificate = self._with_activity(f, args, kwargs, examination, deadline, step)
        return certificate

    def bind(self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], deadline: Deadline) -> tuple[Binding, list[Any]]:
        """Returns how the arguments become the function's inputs, and their leaves.

        Raises:
            ArgumentError: if ``f`` is no function, or the arguments do not fit.
        """
        if isinstance(f, str):
            f = self.registry.get(parse_id(f), deadline)
        elif isinstance(f, Function):
            if f.signature is not None:
                return bind_traced(f.signature, f, f.bindings, args, kwargs)
            f = self.registry.registered(f, deadline)
        if isinstance(f, RemoteFunction):
            return bind_traced(f.signature, f.function, f.bindings, args, kwargs)
        if callable(f):
            return _tracing.bind_callable(f, args, kwargs)
        raise ArgumentError(f"f must be a callable, a jl.Function, a jl.RemoteFunction or a function's id, got {type(f).__name__}")

    def _with_activity(
        self,
        f: AnyFunction,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        question: Question,
        deadline: Deadline,
        step: Callable[[Binding, list[Any]], Any],
    ) -> Any:
        """Binds the arguments and runs a step, as ``_narrowing`` does."""
        binding, leaves = self.bind(f, args, kwargs, deadline)
        return self._narrowing(f, args, kwargs, binding, question, lambda binding: step(binding, leaves))

    def _narrowing(
        self,
        f: AnyFunction,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        binding: Binding,
        question: Question,
        step: Callable[[Binding], Any],
    ) -> Any:
        """Runs a step; where custom rules refuse some inputs of the function, with the function traced for those inputs only that matter."""
        binding = binding.narrowed.get(question) or binding
        try:
            try:
                return step(binding)
            except ModeUnavailableError:
                narrower = self._narrower(f, args, kwargs, binding, question.chosen(binding).wrt)
                if narrower is None:
                    raise
            result = step(narrower)
            binding.narrowed.put(question, narrower)
            return result
        except JacloomError as error:
            locate(error, binding)
            raise

    def _narrower(self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], binding: Binding, wrt: tuple[int, ...]) -> Binding | None:
        """Returns the binding of the function traced for derivatives with respect to some inputs, or None if that is no other function."""
        signature = binding.signature
        if set(wrt) == {at for at, type_ in enumerate(signature.inputs) if inexact(type_)}:
            return None
        if isinstance(f, str | Function | RemoteFunction):
            traced = binding.function.narrowed(wrt) if binding.function is not None else None
            if traced is None or traced.signature is None:
                return None
            narrower, _ = bind_traced(traced.signature, traced, traced.bindings, args, kwargs)
        else:
            narrower, _ = _tracing.bind_callable(f, args, kwargs, wrt)
        return None if narrower.signature.id == signature.id else narrower

    def _compute(self, binding: Binding, leaves: list[Any], transform: Transform, given: Any, deadline: Deadline, options: CallOptions) -> Any:
        prepared = transform.prepared(binding)
        query = prepared.query
        point = [_leaves.to_array(leaf) for leaf in binding.inputs(leaves)]
        vectors = prepared.vectors(given) if prepared.vectors is not None else Vectors()
        found = self._answer(binding, query, point, vectors, f"{transform.call} of {binding.signature.label}", deadline, options)
        if options.verify or query.pattern is not None:
            passes = self._passes(binding, query.chosen, point, deadline, vectors.weights, holomorphic=query.holomorphic)
            verify(computed(passes, query, found), transform.spelled(binding.signature.label), thorough=options.verify)
        return prepared.build(found)

    def _passes(
        self,
        binding: Binding,
        chosen: Selection,
        point: Sequence[np.ndarray],
        deadline: Deadline,
        weights: Sequence[np.ndarray] = (),
        *,
        holomorphic: bool = False,
    ) -> Passes:
        """Returns the function at a point, or the weighted sum of its outputs, to be compared with what was computed or with itself."""

        def ask(derivative: Derivative, moved: Sequence[np.ndarray], seeds: Sequence[np.ndarray]) -> tuple[list[Any], list[Any]]:
            arrays = list(point)
            for slot, leaf in zip(chosen.wrt, moved, strict=True):
                arrays[slot] = leaf
            query = probe(derivative, chosen, holomorphic=holomorphic)
            try:
                found = self._answer(binding, query, arrays, Vectors(seeds, weights), f"check of {binding.signature.label}", deadline, CallOptions())
            except JacloomError as error:
                locate(error, binding)
                raise
            values = [array for key, array in found.items() if key[0] == Part.VALUE]
            return values, [array for key, array in found.items() if key[0] != Part.VALUE]

        outputs = binding.signature.result.paths("out")
        inputs = Layout(chosen.wrt_types, tuple(map(binding.path, chosen.wrt)))
        return Passes(
            inputs,
            Layout(chosen.output_types, ("the weighted sum",) if chosen.summed else tuple(outputs[leaf] for leaf in chosen.outputs)),
            inputs.join([point[leaf] for leaf in chosen.wrt]),
            ask,
        )

    def _answer(
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
        key = (signature.id, query.derivative, chosen, query.mode, query.holomorphic, query.sparse, query.pattern)
        known = self._structures.get(key)

        def send(tensors: list[Pieces]) -> _call.Answer:
            asked = _call.request(signature.name, chosen, _call.options(query, "" if known is None else known.digest))
            rest = iter(tensors)
            message = _call.serialized(asked, *([next(rest) for _ in group] for group in groups))
            with Watch(title, options.on_progress) as watch:
                return _call.compute(self.connection, message, query, deadline, watch, known)

        answer: _call.Answer = self._sent(binding, list(chain.from_iterable(groups)), types, deadline, send)
        if answer.structure is not None and answer.structure is not known:
            self._structures.drop(key)
            self._structures.put(key, answer.structure)
        return _read(answer, query)

    def _sent(
        self, binding: Binding, arrays: Sequence[np.ndarray], types: Sequence[Type], deadline: Deadline, send: Callable[[list[Pieces]], Any]
    ) -> Any:
        """Returns what ``send`` returns, given arrays as messages, once the service holds the function and those of them that are large."""
        self._release_discarded()

        def attempt() -> Any:
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

    def _reviving(self, binding: Binding, attempt: Callable[[], Any]) -> Any:
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


def locate(error: JacloomError, binding: Binding) -> None:
    """Adds the user's own words for what the service says in numbers: the source line of a node, the path of an argument."""
    if error.place is not None and error.source is None and binding.function is not None:
        error.source = binding.function.source(error.place)
    named = _FIELD.fullmatch(error.field)
    if named and int(named[1]) in binding.slots:
        error.field = binding.path(int(named[1]))
