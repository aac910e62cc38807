"""Which nodes count, and when values are no longer needed, in a function written by hand."""

from __future__ import annotations

from jacloom_graph.types import Function, Node, Type
from jacloom_worker.liveness import liveness

VECTOR = Type("float64", (3,))


def test_what_is_needed_and_for_how_long() -> None:
    nodes = (
        Node("sqrt", (0,)),  # 2: for the cut alone
        Node("split", (1,), {"sizes": (1, 2), "axis": 0}, result_count=2),  # 3, 4: 3 is used
        Node("floor", (2,)),  # 5
        Node("cbrt", (0,)),  # 6: for nothing
        Node("exp", (1,)),  # 7: for the number alone
        Node("convert_element_type", (7,), {"new_dtype": "int32"}),  # 8
        Node("add", (5, -1)),  # 9
    )
    found = liveness(Function("f", (VECTOR, VECTOR), nodes, (3, 8, 9, 1)))
    assert found.live == {0, 1, 2, 4, 5, 6}
    assert found.smooth == {1, 6}
    done = {node: sorted(values) for node, values in found.done.items() if values}
    # A node that is not evaluated leaves a value that is done with at once; so is a result that nothing takes.
    assert done == {0: [0], 1: [4], 2: [2], 3: [6], 5: [7], 6: [5]}


def test_an_empty_function() -> None:
    found = liveness(Function("f", (VECTOR,), (), (0, -1)))
    assert (found.live, found.smooth, dict(found.done)) == (frozenset(), frozenset(), {})
