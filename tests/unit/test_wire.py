"""Graphs as bytes: there and back, what is left out, and what hostile bytes can do (nothing but be refused)."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from jacloom_api.v1 import graph_pb2
from jacloom_graph.check import check
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.identity import graph_id
from jacloom_graph.limits import Limits
from jacloom_graph.ops import TABLE
from jacloom_graph.tree import LEAF, flatten, tuple_of
from jacloom_graph.types import Constant, Function, Graph, JvpRule, Node, Rule, TransposeRule, Tree, TreeKind, Type, VjpRule
from jacloom_graph.wire import from_bytes, to_bytes, tree_from_message, tree_to_message, type_from_message, type_to_message

F64 = Type("float64")
ROW = Type("float64", (3,))


def sample() -> Graph:
    """Returns a graph with something of every sort in it."""
    entry = Function(
        "entry",
        (Type("float64", (2, 3)), Type("float32", (0,), weak=True), Type("key<threefry2x32>")),
        (
            Node("slice", (0,), {"start_indices": (0, 0), "limit_indices": (1, 3), "strides": None}, 1, (Type("float64", (1, 3)),)),
            Node("split", (0,), {"sizes": (1, 1), "axis": 0}, 2, (Type("float64", (1, 3)), Type("float64", (1, 3), weak=True))),
            Node("pad", (3, -1), {"padding_config": ((0, 0, 0), (1, 2, 3))}),
            Node("custom_call", (4,), {"rule": 0}),
            Node("switch", (-2, 4), {"branches": (1, 1)}),
            Node("convert_element_type", (4,), {"new_dtype": "bfloat16", "weak_type": True}),
        ),
        (6, -1, 0),
    )
    body = Function("body", (ROW,), (Node("sin", (0,)),), (1,))
    jvp = Function("jvp", (ROW, ROW), (Node("mul", (0, 1)),), (0, 2))
    forward = Function("forward", (ROW,), (), (0, 0))
    backward = Function("backward", (ROW, ROW), (), (1,))
    both = Function("both", (ROW, ROW, ROW), (), (0, 2))
    rules = (
        Rule(1, (True,), JvpRule(2, (0,))),
        Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(1, (0,)),))),
        Rule(4, (True, False), JvpRule(5, (0,), (TransposeRule(4, (0,)), TransposeRule(4, (1,))))),
        Rule(1, (True,), VjpRule(3, 4, (0,))),
        Rule(1, (False,), "no derivative: µ"),
    )
    constants = (
        Constant(F64, np.array(np.nan)),
        Constant(Type("int32", weak=True), np.array(-1, np.int32)),
        Constant(Type("bfloat16", (3, 0)), np.zeros((3, 0), ml_dtypes.bfloat16)),
        Constant(Type("key<rbg>", (2,)), np.arange(8, dtype=np.uint32).reshape(2, 4)),
        Constant(Type("float64", (1 << 20,)), None, "blobs/sha256:" + "0a" * 32),
    )
    in_tree = flatten(({"x": 1, "y": (2, None)}, [3]))[1]
    out_tree = Tree(TreeKind.NAMEDTUPLE, (LEAF, LEAF, Tree(TreeKind.CUSTOM, (LEAF,), name="Module")), ("a", "b", "c"), "Result")
    return Graph((entry, body, jvp, forward, backward, both), rules, constants, in_tree, out_tree, producer="test")


def without_defaults(graph: Graph) -> Graph:
    """Returns the graph as the wire keeps it."""

    def kept(node: Node) -> Node:
        specs = TABLE[node.op].specs
        attrs = {name: value for name, value in node.attrs.items() if value != specs[name].default}
        return Node(node.op, node.operands, attrs, node.result_count, node.result_types)

    functions = tuple(Function(each.name, each.inputs, tuple(map(kept, each.nodes)), each.outputs) for each in graph.functions)
    return Graph(functions, graph.rules, graph.constants, graph.in_tree, graph.out_tree, graph.opset, graph.producer)


def message(*nodes: graph_pb2.Node, **parts: object) -> bytes:
    function = graph_pb2.Function(inputs=[graph_pb2.Type(dtype="float64")], nodes=nodes, outputs=[0])
    return graph_pb2.Graph(opset=1, functions=[function], **parts).SerializeToString()  # type: ignore[arg-type]


def test_a_graph_comes_back_and_is_valid() -> None:
    graph = sample()
    back = from_bytes(to_bytes(graph))
    assert back == without_defaults(graph)
    for got, sent in zip(back.constants, graph.constants, strict=True):
        assert (got.data is None) == (sent.data is None)
        if got.data is not None and sent.data is not None:
            assert (got.data.dtype, got.data.shape, got.data.tobytes()) == (sent.data.dtype, sent.data.shape, sent.data.tobytes())
    check(back)
    assert to_bytes(back) == to_bytes(graph)


def test_a_rule_with_one_transpose_has_the_bytes_that_it_always_had() -> None:
    # Rules were written so when none could have more than one.
    data = bytes.fromhex("0801120201001a0d08021201001a06080312020001")
    rule = Rule(1, (True, False), JvpRule(2, (0,), (TransposeRule(3, (0, 1)),)))
    graph = replace(from_bytes(message(rules=[graph_pb2.Rule.FromString(data)])), in_tree=tuple_of(1))
    assert graph.rules == (rule,)
    assert graph_pb2.Graph.FromString(to_bytes(graph)).rules[0].SerializeToString() == data


def test_transposes_are_limited_by_number() -> None:
    many = graph_pb2.Rule(jvp=graph_pb2.JvpRule(transposes=[graph_pb2.TransposeRule()] * 3))
    with pytest.raises(Fault, match="at most 2 references, got 3") as caught:
        from_bytes(message(rules=[many]), Limits(references=2))
    assert caught.value.reason is Reason.TOO_LARGE


def test_defaults_are_left_out() -> None:
    written = graph_pb2.Graph.FromString(to_bytes(sample())).functions[0].nodes
    assert [[attr.name for attr in node.attrs] for node in written] == [
        ["start_indices", "limit_indices"],
        ["sizes"],
        ["padding_config"],
        ["rule"],
        ["branches"],
        ["new_dtype", "weak_type"],
    ]
    assert [node.result_count for node in written] == [0, 2, 0, 0, 0, 0]


def test_a_graph_written_by_hand_may_leave_out_its_trees() -> None:
    graph = from_bytes(message(graph_pb2.Node(op="sin", operands=[0])))
    assert (graph.in_tree, graph.out_tree) == (tuple_of(1), LEAF)
    assert graph.entry.nodes == (Node("sin", (0,)),)
    two = graph_pb2.Graph(opset=1, functions=[graph_pb2.Function(outputs=[])])
    assert from_bytes(two.SerializeToString()).out_tree == tuple_of(0)


def test_types_and_trees_come_back() -> None:
    for type_ in (F64, Type("key<rbg>", (0, 2)), Type("int32", (5,), weak=True)):
        assert type_from_message(type_to_message(type_)) == type_
    tree = sample().out_tree
    assert tree_from_message(tree_to_message(tree)) == tree


def test_a_constant_with_a_blob_name_goes_by_name() -> None:
    constant = Constant(ROW, np.zeros(3), "blobs/sha256:" + "00" * 32)
    back = from_bytes(to_bytes(Graph((Function("", (), (), (-1,)),), (), (constant,), tuple_of(0), LEAF)))
    assert (back.constants[0].blob, back.constants[0].data) == (constant.blob, None)


def test_a_constant_begins_where_its_blob_does() -> None:
    graph = Graph((Function("", (), (), (-1,)),), (), (Constant(ROW, None, "blobs/sha256:" + "00" * 32),), tuple_of(0), LEAF)
    message = graph_pb2.Graph.FromString(to_bytes(graph))
    message.constants[0].tensor.offset = 64
    with pytest.raises(Fault, match="a constant begins where its blob does, got offset 64") as caught:
        from_bytes(message.SerializeToString())
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_GRAPH, "constants[0].tensor.offset")


@pytest.mark.parametrize(
    ("node", "reason", "text"),
    [
        (graph_pb2.Node(op="sine"), Reason.UNSUPPORTED_OP, "there is no op 'sine' in the op table; did you mean .*sin"),
        (graph_pb2.Node(op="x" * 10_000), Reason.UNSUPPORTED_OP, "there is no op 'x{64}' in the op table \\["),
        (graph_pb2.Node(), Reason.UNSUPPORTED_OP, "there is no op ''"),
        (
            graph_pb2.Node(op="rev", attrs=[graph_pb2.Attr(name="axes", ints=[0])]),
            Reason.INVALID_GRAPH,
            "rev has no attribute 'axes'; its attributes: dimensions",
        ),
        (
            graph_pb2.Node(op="rev", attrs=[graph_pb2.Attr(name="dimensions", strings=["0"])]),
            Reason.INVALID_GRAPH,
            "'dimensions' must be a list of integers",
        ),
        (
            graph_pb2.Node(op="rev", attrs=[graph_pb2.Attr(name="dimensions", ints=[0])] * 2),
            Reason.INVALID_GRAPH,
            "attribute 'dimensions' is given twice",
        ),
    ],
)
def test_a_bad_node_is_refused_with_its_place(node: graph_pb2.Node, reason: Reason, text: str) -> None:
    with pytest.raises(Fault, match=text) as caught:
        from_bytes(message(graph_pb2.Node(op="sin", operands=[0]), node))
    assert (caught.value.reason, caught.value.place) == (reason, Place(0, 1, node.op[:64]))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("data", "text", "field"),
    [
        (b"", "must have at least one function", ""),
        (b"\xff\xff", "not a serialized", ""),
        (message(rules=[graph_pb2.Rule()]), "a rule must have one of jvp, vjp and refuses", "rules[0]"),
        (message(in_tree=graph_pb2.Tree()), "must have a kind", ""),
        (message(out_tree=graph_pb2.Tree(kind=99)), "must have a kind from LEAF to CUSTOM, got 99", ""),  # type: ignore[arg-type]
        (message(constants=[graph_pb2.Constant()]), "unknown dtype ''", "constants[0].tensor"),
        (message(constants=[graph_pb2.Constant(tensor=graph_pb2.Tensor(dtype="int8"))]), "has 1 bytes, got 0", "constants[0].tensor"),
        (
            message(constants=[graph_pb2.Constant(tensor=graph_pb2.Tensor(dtype="int8", shape=[-1]))]),
            "extents must not be negative",
            "constants[0].tensor",
        ),
    ],
)
def test_bad_parts_are_refused(data: bytes, text: str, field: str) -> None:
    with pytest.raises(Fault, match=text) as caught:
        from_bytes(data)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_GRAPH, field)


@pytest.mark.parametrize("limit", ["functions", "rules", "constants", "nodes"])
def test_numbers_are_limited(limit: str) -> None:
    data = to_bytes(sample())
    number = {"functions": 6, "rules": 5, "constants": 5, "nodes": 8}[limit]
    from_bytes(data, Limits(**{limit: number}))
    with pytest.raises(Fault, match=f"a graph may have at most {number - 1} {limit}, got {number}") as caught:
        from_bytes(data, Limits(**{limit: number - 1}))
    assert caught.value.reason is Reason.TOO_LARGE


def test_size_is_limited() -> None:
    data = to_bytes(sample())
    from_bytes(data, Limits(graph_bytes=len(data)))
    with pytest.raises(Fault, match="upload large constants apart") as caught:
        from_bytes(data, Limits(graph_bytes=len(data) - 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_four_mebibytes_of_empty_nodes_are_refused_by_number() -> None:
    empty = b"\x1a\x00" * (2 << 20)
    functions = b"\x12" + _varint(len(empty) - 16) + empty[16:]
    began = time.perf_counter()
    with pytest.raises(Fault, match="a graph may have at most 20,000 nodes, got 2,097,144") as caught:
        from_bytes(functions)
    assert caught.value.reason is Reason.TOO_LARGE
    assert time.perf_counter() - began < 10


def test_a_tree_of_a_thousand_levels_is_refused() -> None:
    tree = b""
    for _ in range(1000):
        tree = b"\x08\x03\x12" + _varint(len(tree)) + tree
    data = message() + b"\x2a" + _varint(len(tree)) + tree
    with pytest.raises(Fault) as caught:
        from_bytes(data)
    assert caught.value.reason is Reason.INVALID_GRAPH


def test_mutated_bytes_raise_nothing_but_faults() -> None:
    """Bytes changed at random either are refused or pass as a graph that can be checked, identified and written again."""
    start = to_bytes(sample())
    source = random.Random(20240229)
    accepted = valid = 0
    for _ in range(6000):
        data = bytearray(start)
        for _ in range(source.choice((1, 1, 1, 2, 5))):
            at = source.randrange(len(data))
            match source.randrange(4):
                case 0:
                    data[at] = source.randrange(256)
                case 1:
                    data[at] ^= 1 << source.randrange(8)
                case 2:
                    del data[at : at + source.randrange(1, 4)]
                case _:
                    data[at:at] = data[at : at + source.randrange(1, 20)]
        try:
            graph = from_bytes(bytes(data))
            accepted += 1
            check(graph)
            valid += 1
        except Fault:
            continue
        assert graph_id(from_bytes(to_bytes(graph))) == graph_id(graph)
    assert accepted > 200
    assert valid > 50


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes((*out, value))


def test_the_bytes_are_those_that_protobuf_writes() -> None:
    large, negative = tuple(range(100)), Type("float64", (3, 2), weak=True)
    many = Function(
        "many",
        (F64, Type("int32", (7,))),
        (
            Node("add", (0, -1), {}, 1, (F64,)),
            Node("mul", (2, -130), {}, 1, (negative,)),
            Node("concatenate", large, {"dimension": 1}, 1, (Type("bool", (300, 0)),)),
            Node("split", (0,), {"sizes": (1, 2), "axis": 0}, 2, (F64, F64)),
            Node("reduce_precision", (0,), {"exponent_bits": -5, "mantissa_bits": 1 << 40}),
        ),
        (3, -1, 200),
    )
    data = to_bytes(Graph((many, Function("", (), (), ())), (), (), tuple_of(2), LEAF))
    assert graph_pb2.Graph.FromString(data).SerializeToString(deterministic=True) == data


def test_zeros_of_both_signs_and_numbers_of_both_sorts_stay_apart() -> None:
    values = (0.0, -0.0, 0, 1, 1.0)
    nodes = tuple(Node("gather", (0, 0), {"fill_value": value}) for value in values)
    graph = Graph((Function("f", (F64,), nodes, (1,)),), (), (), tuple_of(1), LEAF)
    assert [repr(node.attrs["fill_value"]) for node in from_bytes(to_bytes(graph)).entry.nodes] == list(map(repr, values))
    ids = {graph_id(replace(graph, functions=(replace(graph.entry, nodes=(node,)),))) for node in nodes}
    assert len(ids) == len(values)
