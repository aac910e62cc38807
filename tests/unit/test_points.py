"""Names of points: equal for the same function and arguments, and for nothing else."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

from jacloom_graph.answer import Derivative
from jacloom_graph.types import Type
from jacloom_server import points
from jacloom_server.call import Argument, Call

TWO, THREE = Type("float64", (2,)), Type("float64", (3,))
LONG = bytes(2 << 20)


def name(function: str, *arguments: Argument) -> str:
    return asyncio.run(points.name(function, Call(derivative=Derivative.JVP, args=arguments, linearize=True)))


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


def test_weights_are_part_of_a_point() -> None:
    call = Call(derivative=Derivative.HVP, args=(Argument(TWO, bytes(16)),), weights=(Argument(TWO, bytes(16)),), linearize=True)
    other = replace(call, weights=(Argument(TWO, bytes(15) + b"1"),))
    assert len({asyncio.run(points.name("f", each)) for each in (call, other, replace(call, weights=()))}) == 3


def test_a_point_that_does_not_stay_has_no_name() -> None:
    assert asyncio.run(points.name("f", Call(derivative=Derivative.JVP, args=(Argument(TWO, bytes(16)),)))) == ""
