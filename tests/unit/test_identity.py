"""The id of a graph: what counts, the bytes that it is the hash of, and that it is the same everywhere."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unit.programs import F64, call, constant, custom, function, graph, wild

from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.identity import canonicalize, constant_digest, graph_id
from jacloom_graph.tree import LEAF, tuple_of
from jacloom_graph.types import Constant, Function, Graph, JvpRule, Node, Rule, TransposeRule, Tree, TreeKind, Type, VjpRule
from jacloom_graph.wire import to_bytes

SIN, COS = Node("sin", (0,)), Node("cos", (0,))


BASE = graph(
    function(
        Node("sin", (0,), {}, 1, (F64,)),
        Node("mul", (1, -1)),
        Node("gather", (1, 2), {"slice_sizes": (1,), "mode": "CLIP", "fill_value": 0}),
        call(1, 3),
        custom(0, 4),
        inputs=(F64, Type("float64", (2, 3))),
    ),
    function(SIN),
    function(outputs=(0, 1), inputs=(F64, F64)),
    rules=(Rule(1, (True,), JvpRule(2, (0,))),),
    constants=(constant(2.0, weak=True),),
)


def entry(**changes: object) -> Graph:
    return replace(BASE, functions=(replace(BASE.entry, **changes), *BASE.functions[1:]))  # type: ignore[arg-type]


def with_node(index: int, **changes: object) -> Graph:
    nodes = list(BASE.entry.nodes)
    nodes[index] = replace(nodes[index], **changes)  # type: ignore[arg-type]
    return entry(nodes=tuple(nodes))


GATHER = {"slice_sizes": (1,), "mode": "CLIP", "fill_value": 0}


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(replace(BASE, producer="another"), id="producer"),
        pytest.param(entry(name="another"), id="name"),
        pytest.param(with_node(0, result_types=()), id="declared type"),
        pytest.param(with_node(0, result_types=(Type("int8", (7,)),)), id="wrong declared type"),
        pytest.param(with_node(2, attrs={**GATHER, "offset_dims": (), "unique_indices": False}), id="defaults written out"),
        pytest.param(with_node(2, attrs=dict(reversed(GATHER.items()))), id="order of attributes"),
        pytest.param(with_node(2, attrs={**GATHER, "slice_sizes": [1]}), id="list for tuple"),
        pytest.param(replace(BASE, functions=(*BASE.functions, function(COS))), id="unused function"),
        pytest.param(replace(BASE, constants=(*BASE.constants, constant(5))), id="unused constant"),
    ],
)
def test_what_the_id_leaves_out(same: Graph) -> None:
    assert graph_id(same) == graph_id(BASE)


OTHERS = {
    "op": with_node(0, op="cos"),
    "order of operands": with_node(1, operands=(-1, 1)),
    "operand": with_node(1, operands=(1, 0)),
    "number of results": with_node(1, result_count=2),
    "default for another value": with_node(2, attrs={**GATHER, "mode": "FILL_OR_DROP"}),
    "float for integer": with_node(2, attrs={**GATHER, "fill_value": 0.0}),
    "sign of zero": with_node(2, attrs={**GATHER, "fill_value": -0.0}),
    "no value for zero": with_node(2, attrs={"slice_sizes": (1,), "mode": "CLIP"}),
    "function called": with_node(3, attrs={"function": 2}),
    "another op with the same function": with_node(3, op="checkpoint"),
    "shape of an input": entry(inputs=(F64, Type("float64", (3, 2)))),
    "weak input": entry(inputs=(Type("float64", weak=True), Type("float64", (2, 3)))),
    "output": entry(outputs=(4,)),
    "weak constant": replace(BASE, constants=(constant(2.0),)),
    "constant": replace(BASE, constants=(constant(3.0, weak=True),)),
    "dtype of a constant": replace(BASE, constants=(constant(2.0, "float32", weak=True),)),
    "activity": replace(BASE, rules=(Rule(1, (False,), JvpRule(2, (0,))),)),
    "tangents": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, ())),)),
    "transpose": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(1, (0,)),))),)),
    "function of a transpose": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(2, (0,)),))),)),
    "inputs of a transpose": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(1, ()),))),)),
    "transposes": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(1, ()), TransposeRule(1, (0,))))),)),
    "function of one of two transposes": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(1, ()), TransposeRule(2, (0,))))),)),
    "inputs of one of two transposes": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(1, (0,)), TransposeRule(1, (1,))))),)),
    "inputs of two transposes together": replace(BASE, rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(1, (0, 1)), TransposeRule(1, ())))),)),
    "reverse rule": replace(BASE, rules=(Rule(1, (True,), VjpRule(2, 2, (0,))),)),
    "refusal": replace(BASE, rules=(Rule(1, (True,), "none"),)),
    "text of a refusal": replace(BASE, rules=(Rule(1, (True,), "no"),)),
    "arguments": replace(BASE, in_tree=Tree(TreeKind.TUPLE, (tuple_of(2),))),
    "result": replace(BASE, out_tree=Tree(TreeKind.DICT, (LEAF,), ("y",))),
    "key": replace(BASE, out_tree=Tree(TreeKind.DICT, (LEAF,), ("z",))),
    "opset": replace(BASE, opset=2),
}


@pytest.mark.parametrize("change", OTHERS)
def test_what_the_id_depends_on(change: str) -> None:
    mine = graph_id(OTHERS[change])
    assert mine != graph_id(BASE)
    assert [name for name, other in OTHERS.items() if graph_id(other) == mine] == [change]


def test_inline_and_by_digest_are_the_same() -> None:
    data = np.arange(6, dtype=">f4").reshape(3, 2).T
    digest = hashlib.sha256(data.astype("<f4").tobytes()).hexdigest()
    inline = Constant(Type("float32", (2, 3)), data)
    by_name = Constant(Type("float32", (2, 3)), None, f"blobs/sha256:{digest}")
    assert constant_digest(inline).hex() == digest
    assert graph_id(graph(function(outputs=(-1,)), constants=(inline,))) == graph_id(graph(function(outputs=(-1,)), constants=(by_name,)))
    both = canonicalize(graph(function(outputs=(-1, -2)), constants=(by_name, inline))).graph
    assert both.entry.outputs == (-1, -1)
    assert both.constants[0].data is data


@pytest.mark.parametrize("name", ["", "blobs/0123456789abcdef0123456789abcdef", "blobs/sha256:" + "A" * 64, "blobs/sha256:" + "a" * 65])
def test_a_constant_without_content_has_no_id(name: str) -> None:
    with pytest.raises(Fault, match="must have elements or a blob named") as caught:
        graph_id(graph(function(outputs=(-1,)), constants=(Constant(F64, None, name),)))
    assert caught.value.reason is Reason.INVALID_GRAPH


def test_a_bad_node_is_named() -> None:
    with pytest.raises(Fault, match="'y' must be an integer") as caught:
        graph_id(graph(function(call(1)), function(SIN, Node("integer_pow", (1,), {"y": "3"}))))
    assert caught.value.place == Place(1, 1, "integer_pow")
    with pytest.raises(Fault, match="there is no op 'sine'"):
        graph_id(graph(function(Node("sine", (0,)))))


def test_the_id_is_the_hash_of_the_documented_bytes() -> None:
    """The encoding written out by hand, as a reader of the documentation would."""

    def i(*numbers: int) -> bytes:
        return struct.pack(f"<{len(numbers)}q", *numbers)

    def s(text: str) -> bytes:
        return i(len(text.encode())) + text.encode()

    def attr(name: str, ints: tuple[int, ...] = (), floats: tuple[float, ...] = (), strings: tuple[str, ...] = ()) -> bytes:
        packed = b"".join(bytes.fromhex("000000000000f87f") if value != value else struct.pack("<d", value) for value in floats)
        return s(name) + i(len(ints), *ints) + i(len(floats)) + packed + i(len(strings)) + b"".join(map(s, strings))

    leaf = i(1) + s("") + i(0) + i(0)
    expected = b"".join(
        (
            *(s("jacloom.graph.1"), i(1)),
            *(i(3), s(""), i(0), i(1), leaf),
            *(i(5), s(""), i(1), s("µ"), i(1), leaf),
            i(2),
            # function 0: one weak input; custom_call, then gather at constant 0
            *(i(1), s("float64"), i(2, 2, 3), i(1), i(2)),
            *(s("custom_call"), i(1, 0), i(1), i(1), attr("rule", (0,))),
            *(
                s("gather"),
                i(2, 1, -1),
                i(1),
                i(3),
                attr("slice_sizes", (1, 3)),
                attr("mode", strings=("CLIP",)),
                attr("fill_value", floats=(float("nan"),)),
            ),
            *(i(1, 2), i(1, 0), i(1, 0)),
            # function 1
            *(i(1), s("float64"), i(2, 2, 3), i(0), i(0), i(1, 0), i(0), i(0)),
            # rule 0
            *(i(1), i(1, 1), s("refuses"), i(0), s("no"), i(1, 1)),
            # constant 0
            *(i(1), s("int32"), i(1, 1), i(0), hashlib.sha256(b"\x07\0\0\0").digest()),
        )
    )
    body = Function("g", (Type("float64", (2, 3)),), (), (0,))
    main = Function(
        "f",
        (Type("float64", (2, 3), weak=True),),
        (
            Node("custom_call", (0,), {"rule": 0}),
            Node("gather", (1, -1), {"slice_sizes": (1, 3), "mode": "CLIP", "fill_value": float("nan"), "unique_indices": False}),
        ),
        (2,),
    )
    tree = Tree(TreeKind.DICT, (LEAF,), ("µ",))
    whole = Graph((main, body), (Rule(1, (True,), "no"),), (constant([7], "int32"),), tuple_of(1), tree, producer="test")
    assert graph_id(whole) == hashlib.sha256(expected).hexdigest()


SCRIPT = """
import sys
from jacloom_graph.identity import canonicalize, graph_id
from jacloom_graph.wire import from_bytes
print(graph_id(from_bytes(sys.stdin.buffer.read())))
"""


def test_the_id_is_the_same_in_every_process() -> None:
    original = wild(random.Random(1), 8)
    data = to_bytes(original)
    path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2] / "proto"), os.environ.get("PYTHONPATH"))))
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path}
        done = subprocess.run([sys.executable, "-c", SCRIPT], input=data, capture_output=True, check=True, env=environment, timeout=60)
        assert done.stdout.decode().strip() == graph_id(original)


def test_the_id_of_a_known_graph_never_changes() -> None:
    """Ids name functions on disk and in clients of other versions.

    If this fails, the encoding or a row of the op table has changed. That takes a new opset.
    """
    assert graph_id(BASE) == "06e207895cb5c5bb2f11042c5ce0bd4ccf852ee9dd89b31ab55b969dd736b8a1"
    assert graph_id(OTHERS["transpose"]) == "8c575e4d987a33e47d117461ebd98212369b3970f3b9cb5b146eeb0e2e93a324"
