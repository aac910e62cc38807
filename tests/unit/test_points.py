"""Names of points: equal for the same function and arguments, and for nothing else."""

from __future__ import annotations

import asyncio
import itertools

from jacloom_graph.types import Type
from jacloom_server import points
from jacloom_server.call import Argument

TWO, THREE = Type("float64", (2,)), Type("float64", (3,))
LONG = bytes(2 << 20)


def name(function: str, *arguments: Argument) -> str:
    return asyncio.run(points.name(function, arguments))


def test_equal_points_have_one_name() -> None:
    for content in (bytes(16), LONG):
        assert name("f", Argument(TWO, content)) == name("f", Argument(TWO, bytes(content)))
    assert name("f", Argument(TWO, None, "blobs/1", 64)) == name("f", Argument(TWO, None, "blobs/1", 64))


def test_other_points_have_other_names() -> None:
    names = [
        name("f"),
        name("g"),
        name("f", Argument(TWO, bytes(16))),
        name("g", Argument(TWO, bytes(16))),
        name("f", Argument(TWO, bytes(15) + b"1")),
        name("f", Argument(Type("int64", (2,)), bytes(16))),
        name("f", Argument(THREE, LONG)),
        name("f", Argument(THREE, LONG[:-1] + b"1")),
        name("f", Argument(TWO, bytes(16)), Argument(TWO, bytes(16))),
        name("f", Argument(TWO, None, "blobs/1", 0)),
        name("f", Argument(TWO, None, "blobs/1", 1)),
        name("f", Argument(TWO, None, "blobs/11", 0)),
        name("f", Argument(TWO, None, "blobs/1", 64), Argument(TWO, None, "blobs/2", 0)),
        name("f", Argument(TWO, None, "blobs/1", 0), Argument(TWO, None, "blobs/2", 64)),
    ]
    assert all(one != other for one, other in itertools.combinations(names, 2))
