"""Functions as data: what tracing returns, files hold, and services register."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jacloom._cache import Recent
from jacloom._errors import GraphError, JacloomError, faults
from jacloom._signature import Signature
from jacloom._structure import PlainStructure, Structure
from jacloom_graph import check, identity, wire
from jacloom_graph.errors import Place
from jacloom_graph.limits import Limits
from jacloom_graph.types import Graph, Tree, Type

if TYPE_CHECKING:
    from jacloom._binding import Binding
    from jacloom._trace.lines import Lines

_FILE_LIMITS = Limits(graph_bytes=(2 << 30) - 1)
"""Files hold their constants inline; anything else about a graph is limited as on a service."""


class Function:
    """A function as data, independent of the program that it came from. Equal functions have equal ids.

    Made by ``jl.trace`` and ``jl.load``.
    """

    def __init__(
        self,
        graph: Graph,
        function_id: str,
        *,
        arguments: Structure | None = None,
        result: Structure | None = None,
        fixed: Mapping[int, Any] = MappingProxyType({}),
        label: str = "f",
        keywords: bool = False,
        notes: tuple[str, ...] = (),
        lines: Lines | None = None,
        retrace: Callable[[Collection[int]], Function] | None = None,
    ) -> None:
        """Wraps a canonical graph.

        Args:
            graph: In canonical form.
            function_id: The graph's id.
            arguments: Structure of the arguments in the tracing process. Default: the graph's own.
            result: Structure of the result in the tracing process. Default: the graph's own.
            fixed: Values of the leaves of ``arguments`` that are no inputs.
            label: What messages call the function.
            keywords: Whether ``arguments`` is of ``(args, kwargs)``.
            notes: What tracing left out, for people.
            lines: Where nodes came from, in the tracing process.
            retrace: Traces again with fewer inputs active.
        """
        self._graph = graph
        self._id = function_id
        self._arguments = arguments or PlainStructure(graph.in_tree)
        self._result = result or PlainStructure(graph.out_tree)
        self._fixed = fixed
        self._label = label
        self._keywords = keywords
        self._notes = notes
        self._lines = lines
        self._retrace = retrace
        self.bindings: Recent[Binding] = Recent()

    @property
    def id(self) -> str:
        """SHA-256 of the canonical graph, 64 hex digits: the function's name on every service is ``functions/<id>``."""
        return self._id

    @property
    def label(self) -> str:
        """What messages call the function: the callable's name where it has one that reads well, else ``f``."""
        return self._label

    @property
    def graph(self) -> Graph:
        """The graph itself."""
        return self._graph

    @property
    def inputs(self) -> tuple[Type, ...]:
        """Types of the input leaves."""
        return self._graph.entry.inputs

    @property
    def outputs(self) -> tuple[Type, ...]:
        """Types of the output leaves.

        Raises:
            GraphError: if the graph was written by hand and does not declare them; a service infers them when it registers the function.
        """
        if self._outputs is None:
            raise GraphError(f"function {self.id[:12]} does not declare the types of its outputs; see client.register(function).outputs")
        return self._outputs

    @property
    def in_tree(self) -> Tree:
        """Structure of the arguments; None stands where an argument was fixed."""
        return self._graph.in_tree

    @property
    def out_tree(self) -> Tree:
        """Structure of the result."""
        return self._graph.out_tree

    @property
    def notes(self) -> tuple[str, ...]:
        """What tracing left out of the graph, such as debug prints; for people."""
        return self._notes

    @cached_property
    def signature(self) -> Signature | None:
        """What calls need to know; None where the graph does not declare the types of its outputs."""
        if self._outputs is None:
            return None
        return Signature(self._id, self.inputs, self._outputs, self._arguments, self._result, self._fixed, self._label, self._keywords)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the function to a file that ``jl.load`` reads, also where JAX is not installed. Constants are part of it.

        Raises:
            TooLargeError: if the file would have more than 2 GiB.
        """
        Path(path).write_bytes(self._to_bytes())

    def source(self, place: Place, calls: Sequence[Place] = ()) -> str | None:
        """Returns the user's ``"file:line (function)"`` of a place in the graph, where this process traced it.

        Args:
            place: The place.
            calls: The nodes that lead to it, the outermost first, where they are known.
        """
        return self._lines.line(place, calls) if self._lines is not None else None

    def failed_check(self, calls: Sequence[Place]) -> str | None:
        """Returns what the error check says that the last of some nodes, each of which leads to the next, stands for; None if for none."""
        return self._lines.check(calls) if self._lines is not None else None

    def narrowed(self, active: Collection[int]) -> Function | None:
        """Returns the function traced again for derivatives with respect to fewer inputs, or None where this process cannot."""
        return self._retrace(active) if self._retrace is not None else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def __repr__(self) -> str:
        results = "?" if self._outputs is None else ", ".join(map(str, self._outputs))
        return f"<jacloom.Function {self._id[:12]}: ({', '.join(map(str, self.inputs))}) -> ({results})>"

    def __reduce__(self) -> tuple[Any, ...]:
        return from_bytes, (self._to_bytes(),)

    def _to_bytes(self) -> bytes:
        with faults():
            return wire.to_bytes(self._graph)

    @cached_property
    def _outputs(self) -> tuple[Type, ...] | None:
        return output_types(self._graph)


def from_here(source: str) -> str:
    """Returns a ``"file:line"`` with the file's path from the current folder on, if it is in there."""
    return source.removeprefix(os.path.join(os.getcwd(), ""))


def load(path: str | os.PathLike[str]) -> Function:
    """Returns a function from a file that ``Function.save`` wrote. Needs neither JAX nor the code that the function came from.

    Example:
        >>> jl.load("brusselator.jacloom").inputs
        (Type(dtype='float64', shape=(2, 32, 32), weak=False),)

    Raises:
        OSError: if the file cannot be read.
        GraphError: if it does not hold a graph.
        UnsupportedOpError: if the graph is of a later version than this package.
    """
    try:
        return from_bytes(Path(path).read_bytes())
    except JacloomError as error:
        error.message = f"{os.fspath(path)}: {error.message}"
        error.args = (error.message,)
        raise


def from_bytes(data: bytes) -> Function:
    """Returns the function of a serialized graph, after checking it."""
    with faults():
        graph = wire.from_bytes(data, _FILE_LIMITS)
        check.check(graph, _FILE_LIMITS)
        canonical = identity.canonicalize(graph)
    return Function(canonical.graph, canonical.id)


def output_types(graph: Graph) -> tuple[Type, ...] | None:
    """Returns the types of a graph's results, or None where the nodes that make them do not declare theirs."""
    entry = graph.entry
    types: list[Type | None] = list(entry.inputs)
    for node in entry.nodes:
        types.extend(node.result_types or [None] * node.result_count)
    found = [graph.constants[-1 - operand].type if operand < 0 else types[operand] for operand in entry.outputs]
    return tuple(type_ for type_ in found if type_ is not None) if None not in found else None
