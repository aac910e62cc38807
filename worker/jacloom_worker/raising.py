"""A graph raised to a JAX function: evaluated node by node under whatever trace JAX is making.

Everything JAX can do with a function it can do with a ``Program``: compile it, batch it, differentiate it to any order. While
it is evaluated, each result is compared with the type that the graph declares, and its size with the limit, in Python integers
and before anything is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jacloom_graph import tensor
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.types import Constant, Graph, Node, Type
from jacloom_worker.binds import bind
from jacloom_worker.infer import enter, type_of
from jacloom_worker.loops import STRUCTURED
from jacloom_worker.modes import REVERSE_ONLY, scope
from jacloom_worker.reach import reaching
from jacloom_worker.refusals import refuses

_LARGE = 64 * 1024
"""Constants above this many bytes are arguments of what is compiled, not part of it: the compiler would copy and fold them."""

_INLINE = 16
"""Calls of functions with fewer nodes are written out; others are traced once and called."""


class Program:
    """A flat JAX function ``(leaf..) -> [leaf..]`` made from a checked graph.

    Attributes:
        graph: The graph.
        large: Large constants, to be passed to ``apply``.
    """

    def __init__(self, graph: Graph, constants: Mapping[str, Any] | None = None, most_bytes: int = 1 << 36) -> None:
        """Resolves the graph's constants.

        Args:
            graph: A graph that ``check`` has passed.
            constants: Bytes of the blobs that constants refer to, by blob name.
            most_bytes: Greatest size of any one value.

        Raises:
            Fault: BLOB_NOT_FOUND or ARGUMENT_MISMATCH if a constant's blob is missing or has the wrong length.
        """
        self.graph = graph
        self._most_bytes = most_bytes
        values = [_resolve(constant, constants or {}) for constant in graph.constants]
        self._large_numbers = tuple(index for index, value in enumerate(values) if value.nbytes > _LARGE)
        self.large = tuple(values[index] for index in self._large_numbers)
        self._values: list[Any] = [enter(constant.type, value) for constant, value in zip(graph.constants, values, strict=True)]
        self._shared: dict[tuple[int, bool], Callable[..., list[Any]]] = {}

    @property
    def inputs(self) -> tuple[Type, ...]:
        """Types of the input leaves."""
        return self.graph.entry.inputs

    def __call__(self, *leaves: Any) -> list[Any]:
        """Returns the output leaves, with the large constants taken as they are."""
        return self.apply(self.large, leaves)

    def apply(self, large: Sequence[Any], leaves: Sequence[Any], *, reverse: bool = False) -> list[Any]:
        """Returns the output leaves.

        Args:
            large: The values of ``self.large``, or tracers of them.
            leaves: One JAX value per input leaf, of the type the graph gives it.
            reverse: Whether loops of unknown length must have a reverse derivative, which they pay for with the forward one.

        Raises:
            Fault: with the place, where a node does not fit its operands, differs from its declared types, or is too large.
        """
        return self.frame(large, reverse=reverse).run(0, leaves)

    def frame(self, large: Sequence[Any], *, reverse: bool = False) -> Frame:
        """Returns the program with values for its large constants; without any, as far as functions go that use none."""
        if not large:
            return self.framed((), self._values, reverse)
        values = list(self._values)
        for number, value in zip(self._large_numbers, large, strict=True):
            values[number] = enter(self.graph.constants[number].type, value)
        return self.framed(tuple(large), values, reverse)

    def framed(self, large: tuple[Any, ...], constants: Sequence[Any], reverse: bool) -> Frame:
        """Returns a frame with the constants as a trace has them, the large ones among them once more in ``large``."""
        return Frame(self, large, constants, reverse)

    def shared(self, number: int, *, reverse: bool) -> Callable[..., list[Any]]:
        """Returns a function ``(large, *args)`` as one object for the life of the program, so that JAX recognizes it and traces it once."""
        key = number, reverse
        if key not in self._shared:
            self._shared[key] = jax.jit(lambda large, *args: self.frame(large, reverse=reverse).run(number, args))
        return self._shared[key]

    @cached_property
    def reaching_large(self) -> frozenset[int]:
        """The functions that use a large constant, themselves or through others."""
        return reaching(self.graph, self._large_numbers)

    def verify_inputs(self, number: int, args: Sequence[Any]) -> None:
        """Checks that arguments have the types that a function declares for its inputs.

        A caller's own types are inferred, and what a rule is called with depends on types too (outputs without a derivative have no cotangent), so
        this is known only now. A value too few would shift the numbers of all that follow.

        Raises:
            Fault: TYPE_MISMATCH, with the place.
        """
        inputs = self.graph.functions[number].inputs
        found = [(type_.dtype, type_.shape) for type_ in map(type_of, args)]
        if found != [(type_.dtype, type_.shape) for type_ in inputs]:
            got = ", ".join(str(Type(dtype, shape)) for dtype, shape in found)
            message = f"function {number} takes ({', '.join(map(str, inputs))}), and is called with ({got})"
            raise Fault(Reason.TYPE_MISMATCH, message, place=Place(number))

    def verify(self, node: Node, results: Sequence[Any], place: Place) -> None:
        """Checks a node's results against the types that it declares, and their size.

        Raises:
            Fault: TYPE_MISMATCH or TOO_LARGE, with the place.
        """
        if len(results) != node.result_count:
            raise Fault(Reason.TYPE_MISMATCH, f"{node.op} has {len(results)} results here, the graph says {node.result_count}", place=place)
        for index, result in enumerate(results):
            found = type_of(result)
            declared = node.result_types[index] if node.result_types else found
            if (declared.shape, declared.dtype) != (found.shape, found.dtype):
                raise Fault(Reason.TYPE_MISMATCH, f"result {index} of {node.op} is {found}, the graph declares {declared}", place=place)
            if tensor.nbytes(found) > self._most_bytes:
                raise Fault(
                    Reason.TOO_LARGE,
                    f"result {index} of {node.op} would have {tensor.nbytes(found):,} bytes; at most {self._most_bytes:,} are allowed for one value",
                    place=place,
                )


class Frame:
    """A program within one trace of JAX: its functions, and the constants as that trace has them.

    Large constants are arguments of whatever JAX traces apart (a compiled kernel, a shared call, a custom rule), which therefore has a frame of
    its own. Everything else is traced in place and closes over the frame around it.
    """

    def __init__(self, program: Program, large: tuple[Any, ...], constants: Sequence[Any], reverse: bool) -> None:
        """See ``Program.frame``."""
        self.program = program
        self.reverse = reverse
        self._large = large
        self._constants = constants

    def run(self, number: int, args: Sequence[Any]) -> list[Any]:
        """Returns the results of one of the graph's functions, evaluated in place."""
        function, constants = self.graph.functions[number], self._constants
        self.program.verify_inputs(number, args)
        values = list(args)
        for index, node in enumerate(function.nodes):
            operands = [values[operand] if operand >= 0 else constants[-1 - operand] for operand in node.operands]
            place = Place(number, index, node.op)
            results = self._evaluate(node, operands, place)
            self.program.verify(node, results, place)
            values.extend(results)
        return [values[operand] if operand >= 0 else constants[-1 - operand] for operand in function.outputs]

    def callable(self, number: int) -> Callable[..., list[Any]]:
        """Returns one of the graph's functions for JAX to trace in place."""
        return lambda *args: self.run(number, args)

    @property
    def graph(self) -> Graph:
        """The program's graph."""
        return self.program.graph

    def call(self, number: int, args: Sequence[Any]) -> list[Any]:
        """Returns the results of a function that is traced once for all its calls, unless it is small."""
        if len(self.graph.functions[number].nodes) < _INLINE:
            return self.run(number, args)
        return self.program.shared(number, reverse=self.reverse)(self.large_for(number), *args)

    def apart(self, large: tuple[Any, ...], *, reverse: bool | None = None) -> Frame:
        """Returns the frame of something that JAX traces apart, given ``large_for`` it as that trace has it."""
        return self.program.frame(large, reverse=self.reverse if reverse is None else reverse)

    def large_for(self, *numbers: int) -> tuple[Any, ...]:
        """Returns the large constants if one of some functions uses any, else nothing: what a frame for those functions needs."""
        return () if self.program.reaching_large.isdisjoint(numbers) else self._large

    def _evaluate(self, node: Node, operands: list[Any], place: Place) -> list[Any]:
        try:
            if node.op in STRUCTURED:
                # The name of its scope is all that a rule's refusal knows of its place when it comes after tracing; see modes.live.
                with jax.named_scope(scope(place)):
                    return list(STRUCTURED[node.op](self, node, operands))
            return bind(node.op, operands, node.attrs)
        except Fault as fault:
            if fault.place:
                raise
            raise fault.at(place) from fault
        except (TypeError, ValueError, NotImplementedError, AssertionError, IndexError, KeyError) as error:
            raise _explained(error, place) from error


def _resolve(constant: Constant, blobs: Mapping[str, Any]) -> np.ndarray:
    if constant.data is not None:
        return constant.data
    if constant.blob not in blobs:
        raise Fault(Reason.BLOB_NOT_FOUND, f"the graph's constant {constant.blob} is not stored here; upload it again")
    return tensor.from_bytes(constant.type, blobs[constant.blob])


def _explained(error: Exception, place: Place) -> Fault:
    text = str(error).strip().split("\n\n")[0][:1000]
    if "custom_vjp" in text and "forward-mode" in text:
        return Fault(Reason.MODE_UNAVAILABLE, REVERSE_ONLY, place=place)
    if refuses(text):
        return Fault(Reason.MODE_UNAVAILABLE, f"{place.op} has no derivative in this mode: {text}", place=place)
    return Fault(Reason.TYPE_MISMATCH, f"{place.op} does not fit its operands: {text}", place=place)
