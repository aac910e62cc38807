"""The type of every value in a graph, for people who write graphs by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jacloom_graph.errors import Place
from jacloom_graph.identity import graph_id
from jacloom_graph.types import Graph, Node, Type
from jacloom_worker.functions import draft
from jacloom_worker.infer import output_types, type_of
from jacloom_worker.protocol import Load, Validation
from jacloom_worker.raising import Program


def validate(source: Load) -> Validation:
    """Returns the types of all values of a graph. Blobs need not be there.

    Raises:
        Fault: What is wrong with the graph, with the place.
    """
    graph = draft(source).graph
    recorder = _Recorder(graph)
    output_types(recorder.apply, recorder.inputs, recorder.large)
    return Validation(graph_id(graph), recorder.types())


class _Recorder(Program):
    """A program that notes the type of each result as it is evaluated."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self._found: dict[tuple[int, int], tuple[Type, ...]] = {}

    def types(self) -> tuple[tuple[int, tuple[Type, ...]], ...]:
        """Returns, for each function that was evaluated, the types of its values."""
        reached = sorted({0, *(number for number, _ in self._found)})
        return tuple((number, self._of(number)) for number in reached)

    def _of(self, number: int) -> tuple[Type, ...]:
        function = self.graph.functions[number]
        results = (self._found[number, index] for index in range(len(function.nodes)))
        return (*function.inputs, *(type_ for types in results for type_ in types))

    def verify(self, node: Node, results: Sequence[Any], place: Place) -> None:
        """Notes the types of a node's results once they are checked."""
        super().verify(node, results, place)
        assert place.node is not None
        self._found[place.function, place.node] = tuple(map(type_of, results))
