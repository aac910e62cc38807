"""The type of every value in a graph, for people who write graphs by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jacloom_graph.errors import Place
from jacloom_graph.identity import graph_id
from jacloom_graph.types import Graph, Node, Type
from jacloom_worker.functions import hollow
from jacloom_worker.infer import output_types, type_of
from jacloom_worker.protocol import Validation
from jacloom_worker.raising import Program


def validate(graph: Graph, most_bytes: int) -> Validation:
    """Returns the types of all values of a graph that ``check`` has passed. Blobs need not be there.

    Args:
        graph: The graph.
        most_bytes: Greatest size of any one value.

    Raises:
        Fault: What inferring its types finds wrong, with the place.
    """
    recorder = _Recorder(hollow(graph), {}, most_bytes)
    output_types(recorder.apply, recorder.inputs, recorder.large)
    return Validation(graph_id(graph), recorder.types())


class _Recorder(Program):
    """A program that notes which functions are evaluated, and the type of each result."""

    def __init__(self, graph: Graph, constants: Mapping[str, Any], most_bytes: int) -> None:
        super().__init__(graph, constants, most_bytes)
        self._evaluated: set[int] = set()
        self._found: dict[tuple[int, int], tuple[Type, ...]] = {}

    def types(self) -> tuple[tuple[int, tuple[Type, ...]], ...]:
        """Returns, for each function that was evaluated, the types of its values."""
        return tuple((number, self._of(number)) for number in sorted(self._evaluated))

    def _of(self, number: int) -> tuple[Type, ...]:
        function = self.graph.functions[number]
        results = (self._found[number, index] for index in range(len(function.nodes)))
        return (*function.inputs, *(type_ for types in results for type_ in types))

    def verify_inputs(self, number: int, args: Sequence[Any]) -> None:
        """Notes a function whose arguments fit."""
        super().verify_inputs(number, args)
        self._evaluated.add(number)

    def verify(self, node: Node, results: Sequence[Any], place: Place) -> None:
        """Notes the types of a node's results once they are checked."""
        super().verify(node, results, place)
        assert place.node is not None
        self._found[place.function, place.node] = tuple(map(type_of, results))
