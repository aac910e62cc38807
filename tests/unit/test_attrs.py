"""The attribute codec: each kind there and back, what is refused, and what counts as a default."""

from __future__ import annotations

import math

import pytest

from jacloom_api.v1 import graph_pb2
from jacloom_graph.attrs import REQUIRED, AttrKind, AttrSpec, decode, flatten, flatten_unless_default, to_message
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.ops import TABLE
from jacloom_graph.types import AttrValue

GOOD: dict[AttrKind, list[object]] = {
    AttrKind.INT: [0, -1, 2**63 - 1, -(2**63)],
    AttrKind.INTS: [(), (3,), (0, -7, 2**40)],
    AttrKind.PAIRS: [(), ((0, 1),), ((1, -1), (2, 3))],
    AttrKind.TRIPLES: [(), ((0, 1, 2), (-3, 4, 5))],
    AttrKind.BOOL: [True, False],
    AttrKind.FLOAT: [0.5, math.inf, -math.inf, 5e-324, 0.1],
    AttrKind.SCALAR: [3, -2, 0.25, 1.0],
    AttrKind.STRING: ["", "FILL_OR_DROP", "µ"],
    AttrKind.STRINGS: [(), ("a", ""), ("cpu", "cuda")],
    AttrKind.DTYPE: ["float64", "key<threefry2x32>"],
    AttrKind.FUNCTION: [0, 12],
    AttrKind.FUNCTIONS: [(), (4, 4, 0)],
    AttrKind.RULE: [7],
}

BAD: dict[AttrKind, list[object]] = {
    AttrKind.INT: ["3", 2.0, None, (1,), 2**63, -(2**63) - 1],
    AttrKind.INTS: [3, "12", (1.5,), ("1",), ((1,),), (2**63,)],
    AttrKind.PAIRS: [((1, 2, 3),), (1, 2), ((1,), (2,)), "ab"],
    AttrKind.TRIPLES: [((1, 2),), ((1, 2, 3, 4),), 5],
    AttrKind.BOOL: [2, "true", None, 1.0, ()],
    AttrKind.FLOAT: ["0.5", None, (1.0,), True],
    AttrKind.SCALAR: ["1", None, (1,), 1j],
    AttrKind.STRING: [1, None, ("a",), b"a", "\ud800"],
    AttrKind.STRINGS: ["abc", (1,), None],
    AttrKind.DTYPE: [1, None],
    AttrKind.FUNCTION: [0.0, None, "0"],
    AttrKind.FUNCTIONS: [0, "0", (None,)],
    AttrKind.RULE: [0.0, ()],
}


def encode(spec: AttrSpec, value: AttrValue) -> graph_pb2.Attr:
    return to_message(spec, flatten(spec, value))


def cases(table: dict[AttrKind, list[object]]) -> list[object]:
    return [pytest.param(kind, value, id=f"{kind.name}-{value!r}") for kind, values in table.items() for value in values]


def through(spec: AttrSpec, value: object) -> object:
    message = encode(spec, value)  # type: ignore[arg-type]
    return decode(spec, graph_pb2.Attr.FromString(message.SerializeToString()))


def test_the_cases_cover_every_kind() -> None:
    assert set(GOOD) == set(BAD) == set(AttrKind)


@pytest.mark.parametrize(("kind", "value"), cases(GOOD))
def test_a_value_comes_back_with_its_type(kind: AttrKind, value: object) -> None:
    back = through(AttrSpec("a", kind), value)
    assert back == value
    assert type(back) is type(value)
    if isinstance(value, tuple) and isinstance(back, tuple):
        assert [type(item) for item in back] == [type(item) for item in value]


def test_nan_and_negative_zero_come_back() -> None:
    spec = AttrSpec("a", AttrKind.FLOAT)
    nan, zero = through(spec, math.nan), through(spec, -0.0)
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert isinstance(zero, float)
    assert math.copysign(1.0, zero) == -1.0


@pytest.mark.parametrize(("kind", "value"), cases(BAD))
def test_a_value_of_another_kind_is_refused(kind: AttrKind, value: object) -> None:
    with pytest.raises(Fault, match=f"attribute 'axis' must be {kind.value}, got") as caught:
        encode(AttrSpec("axis", kind), value)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.INVALID_GRAPH


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AttrKind.INT, graph_pb2.Attr()),
        (AttrKind.INT, graph_pb2.Attr(ints=[1, 2])),
        (AttrKind.INT, graph_pb2.Attr(ints=[1], strings=["x"])),
        (AttrKind.INTS, graph_pb2.Attr(floats=[1.0])),
        (AttrKind.PAIRS, graph_pb2.Attr(ints=[1, 2, 3])),
        (AttrKind.TRIPLES, graph_pb2.Attr(ints=[1, 2])),
        (AttrKind.BOOL, graph_pb2.Attr(ints=[2])),
        (AttrKind.FLOAT, graph_pb2.Attr(ints=[1])),
        (AttrKind.SCALAR, graph_pb2.Attr(ints=[1], floats=[1.0])),
        (AttrKind.SCALAR, graph_pb2.Attr(strings=["1"])),
        (AttrKind.STRING, graph_pb2.Attr(strings=[])),
        (AttrKind.STRINGS, graph_pb2.Attr(strings=["a"], ints=[1])),
        (AttrKind.FUNCTION, graph_pb2.Attr(ints=[])),
        (AttrKind.RULE, graph_pb2.Attr(ints=[0, 0])),
    ],
)
def test_a_message_that_holds_another_kind_is_refused(kind: AttrKind, message: graph_pb2.Attr) -> None:
    with pytest.raises(Fault, match=f"attribute 'a' must be {kind.value}") as caught:
        decode(AttrSpec("a", kind), message)
    assert caught.value.reason is Reason.INVALID_GRAPH


def test_only_members_of_a_closed_set_pass() -> None:
    spec = AttrSpec("mode", AttrKind.STRING, members=("CLIP", "FILL"))
    assert through(spec, "CLIP") == "CLIP"
    with pytest.raises(Fault, match="attribute 'mode' must be one of CLIP, FILL; got 'clip'"):
        encode(spec, "clip")
    with pytest.raises(Fault, match="attribute 'mode' must be one of CLIP, FILL; got 'clip'"):
        decode(spec, graph_pb2.Attr(strings=["clip"]))
    several = AttrSpec("precision", AttrKind.STRINGS, members=("HIGH", "HIGHEST"))
    assert through(several, ("HIGH", "HIGH")) == ("HIGH", "HIGH")
    with pytest.raises(Fault, match="must be one of HIGH, HIGHEST"):
        encode(several, ("HIGH", "LOW"))


def test_an_error_about_a_huge_value_is_short() -> None:
    with pytest.raises(Fault) as caught:
        encode(AttrSpec("a", AttrKind.INT), tuple(range(100_000)))
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("kind", "default", "same", "other"),
    [
        (AttrKind.INT, 0, [0], [1]),
        (AttrKind.INTS, (), [(), []], [(0,)]),
        (AttrKind.PAIRS, ((0, 0),), [((0, 0),), [[0, 0]]], [(), ((0, 0), (0, 0))]),
        (AttrKind.BOOL, False, [False, 0], [True]),
        (AttrKind.FLOAT, 0.0, [0.0, 0], [-0.0, math.nan]),
        (AttrKind.SCALAR, 0, [0], [0.0, -0.0, 1]),
        (AttrKind.STRING, "CLIP", ["CLIP"], ["FILL"]),
        (AttrKind.STRING, None, [None], ["", "None"]),
        (AttrKind.INT, REQUIRED, [], [0]),
    ],
)
def test_what_counts_as_the_default(kind: AttrKind, default: object, same: list[object], other: list[object]) -> None:
    spec = AttrSpec("a", kind, default)  # type: ignore[arg-type]
    assert [flatten_unless_default(spec, value) for value in same] == [None] * len(same)  # type: ignore[arg-type]
    assert [flatten_unless_default(spec, value) is None for value in other] == [False] * len(other)  # type: ignore[arg-type]


def test_a_default_of_the_wrong_kind_is_refused_when_the_row_is_made() -> None:
    with pytest.raises(Fault, match="must be a list of integers"):
        AttrSpec("axes", AttrKind.INTS, 0)


def test_every_default_in_the_table_survives_the_wire() -> None:
    for op in TABLE.values():
        for spec in op.attrs:
            if spec.flat_default is not None:
                assert flatten(spec, through(spec, spec.default)) == spec.flat_default, (op.name, spec.name)  # type: ignore[arg-type]
