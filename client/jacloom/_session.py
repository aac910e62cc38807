"""What happens between a method of the client and what is said to the service: bind the arguments, ask, and put the answer together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from jacloom import _leaves, _tracing
from jacloom._binding import Binding, bind_traced
from jacloom._cache import Recent
from jacloom._certificate import Certificate
from jacloom._checking import certify
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._diagnosis import Diagnosis
from jacloom._errors import ArgumentError, JacloomError, ModeUnavailableError
from jacloom._examination import Examination
from jacloom._exchange import Exchange
from jacloom._function import Function
from jacloom._layout import Layout
from jacloom._linear import Linear, Side
from jacloom._options import CallOptions
from jacloom._passes import Passes
from jacloom._plan import Plan
from jacloom._point import Point
from jacloom._prepared import Vectors
from jacloom._query import probe, products, structural
from jacloom._question import Question
from jacloom._registry import Registry
from jacloom._remote import RemoteFunction
from jacloom._signature import Signature, inexact, parse_id
from jacloom._sparsity import Structure
from jacloom._structure import Structure as Containers
from jacloom._transform import Transform
from jacloom._verification import computed, verify
from jacloom_graph.answer import ArrayKey, Derivative, Part, Selection, batched

AnyFunction = Callable[..., Any] | Function | RemoteFunction | str
"""What can be differentiated: a callable that JAX can trace, a traced or registered function, or a function's id."""

_Answer = TypeVar("_Answer")

_FIELD = re.compile(r"(?:spec\.call\.)?args\[(\d+)\]")


class Session:
    """What a client can ask about functions."""

    def __init__(self, connection: Connection) -> None:
        self.exchange = Exchange(connection)

    @property
    def connection(self) -> Connection:
        """The connection to the service."""
        return self.exchange.connection

    @property
    def registry(self) -> Registry:
        """The functions that the service holds."""
        return self.exchange.registry

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
        """Returns the service's plan for a transformation. Of the arguments, only types matter: a function that has them itself needs none."""
        deadline = Deadline(options.timeout)
        if not args and not kwargs:
            args, kwargs = self._placeholders(f, deadline)

        def step(binding: Binding, leaves: list[Any]) -> Plan:
            query = transform.prepared(binding).query

            def structure(timeout: float | None) -> Structure:
                with located(binding):
                    return self.exchange.structure(binding, structural(query), Deadline(timeout))

            return replace(self.exchange.plan(binding, query, deadline), _ask=structure)

        return self._with_activity(f, args, kwargs, transform, deadline, step)

    def _placeholders(self, f: AnyFunction, deadline: Deadline) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Returns arguments that have the types of those of a function, and no elements; none where it has no types."""
        known = self._known(f, deadline)
        if known is None:
            return (), {}
        signature = known[0]
        types = iter(signature.inputs)
        leaves = [signature.fixed[at] if at in signature.fixed else _leaves.Placeholder(next(types)) for at in range(signature.arguments.count)]
        whole = signature.arguments.unflatten(leaves)
        return whole if signature.keywords else (whole, {})

    def diagnose(self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], examination: Examination, options: CallOptions) -> Diagnosis:
        """Returns what the service finds wrong with a function at a point."""
        deadline = Deadline(options.timeout)
        found: list[Diagnosis] = []

        def step(binding: Binding, leaves: list[Any]) -> Diagnosis:
            chosen = examination.chosen(binding)
            point = [_leaves.to_array(leaf) for leaf in binding.inputs(leaves)]
            diagnosis = self.exchange.diagnosis(binding, chosen, point, deadline)
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

        def step(binding: Binding) -> Mapping[ArrayKey, np.ndarray]:
            title = f"{question.call} of {binding.signature.label}"
            return self.exchange.product(binding, query, point, seeds, types, title, deadline, options)

        args, kwargs = point.arguments
        return self._narrowing(point.f, args, kwargs, point.binding, question, step)

    def check(
        self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], examination: Examination, seed: int, options: CallOptions
    ) -> Certificate:
        """Returns what holds of a function's derivatives at a point."""
        deadline = Deadline(options.timeout)

        def step(binding: Binding, leaves: list[Any]) -> Certificate:
            point = [_leaves.to_array(leaf) for leaf in binding.inputs(leaves)]
            return certify(self._passes(binding, examination.chosen(binding), point, deadline), seed)

        return self._with_activity(f, args, kwargs, examination, deadline, step)

    def bind(self, f: AnyFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any], deadline: Deadline) -> tuple[Binding, list[Any]]:
        """Returns how the arguments become the function's inputs, and their leaves.

        Raises:
            ArgumentError: if ``f`` is no function, or the arguments do not fit.
        """
        known = self._known(f, deadline)
        if known is not None:
            return bind_traced(*known, args, kwargs)
        if callable(f):
            return _tracing.bind_callable(f, args, kwargs)
        raise ArgumentError(f"f must be a callable, a jl.Function, a jl.RemoteFunction or a function's id, got {type(f).__name__}")

    def apply(
        self, f: AnyFunction, args: tuple[Any, ...], question: Question, deadline: Deadline, step: Callable[[Binding, list[Any]], _Answer]
    ) -> _Answer:
        """Returns what a step returns, given the binding of a call and the leaves of its arguments.

        Where custom rules refuse inputs that the question is not about, the step runs again for the function traced without them.
        """
        found: _Answer = self._with_activity(f, args, {}, question, deadline, step)
        return found

    def first_argument(self, f: AnyFunction, deadline: Deadline) -> Containers | None:
        """Returns the containers of a function's first argument, where its types are fixed; None where it has to be traced."""
        known = self._known(f, deadline)
        if known is None:
            return None
        arguments = known[0].arguments
        positional = (arguments.children[0] if known[0].keywords else arguments).children
        if not positional:
            raise ArgumentError(f"{known[0].label} takes no arguments, and a job needs one: the point")
        return positional[0]

    def _known(self, f: AnyFunction, deadline: Deadline) -> tuple[Signature, Function | None, Recent[Binding]] | None:
        """Returns signature, graph and bindings of a function that has types of its own; None where it has to be traced for those of arguments."""
        if isinstance(f, str):
            f = self.registry.get(parse_id(f), deadline)
        elif isinstance(f, Function):
            if f.signature is not None:
                return f.signature, f, f.bindings
            f = self.registry.registered(f, deadline)
        if isinstance(f, RemoteFunction):
            return f.signature, f.function, f.bindings
        return None

    def _with_activity(
        self,
        f: AnyFunction,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        question: Question,
        deadline: Deadline,
        step: Callable[[Binding, list[Any]], _Answer],
    ) -> _Answer:
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
        step: Callable[[Binding], _Answer],
    ) -> _Answer:
        """Runs a step; where custom rules refuse some inputs of the function, with the function traced for those inputs only that matter."""
        binding = binding.narrowed.get(question) or binding
        with located(binding):
            try:
                return step(binding)
            except ModeUnavailableError:
                narrower = self._narrower(f, args, kwargs, binding, question.chosen(binding).wrt)
                if narrower is None:
                    raise
            result = step(narrower)
            binding.narrowed.put(question, narrower)
            return result

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
        found = self.exchange.answer(binding, query, point, vectors, f"{transform.call} of {binding.signature.label}", deadline, options)
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
            title = f"check of {binding.signature.label}"
            with located(binding):
                found = self.exchange.answer(binding, query, arrays, Vectors(seeds, weights), title, deadline, CallOptions())
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


@contextmanager
def located(binding: Binding) -> Iterator[None]:
    """Adds to errors the user's own words for what the service says in numbers: the source line of a node, the path of an argument."""
    try:
        yield
    except JacloomError as error:
        _locate(error, binding)
        raise


def _locate(error: JacloomError, binding: Binding) -> None:
    if error.place is not None and error.source is None and binding.function is not None:
        error.source = binding.function.source(error.place)
    named = _FIELD.fullmatch(error.field)
    if named and int(named[1]) in binding.slots:
        error.field = binding.path(int(named[1]))
