"""The canonical form and the id: what is one, in which order, what counts, and that it is the same everywhere."""

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

from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.identity import canonicalize, constant_digest, graph_id
from jacloom_graph.tree import LEAF, tuple_of
from jacloom_graph.types import Constant, Function, Graph, JvpRule, Node, Rule, TransposeRule, Tree, TreeKind, Type, VjpRule
from jacloom_graph.wire import from_bytes, to_bytes

F64 = Type("float64")


def canonical_form(original: Graph) -> Graph:
    return canonicalize(original).graph


def function(*nodes: Node, inputs: tuple[Type, ...] = (F64,), outputs: tuple[int, ...] | None = None, name: str = "") -> Function:
    last = len(inputs) + sum(node.result_count for node in nodes) - 1
    return Function(name, inputs, nodes, (last,) if outputs is None else outputs)


def call(index: int, *operands: int) -> Node:
    return Node("call", operands or (0,), {"function": index})


def custom(rule: int, *operands: int) -> Node:
    return Node("custom_call", operands or (0,), {"rule": rule})


def graph(*functions: Function, rules: tuple[Rule, ...] = (), constants: tuple[Constant, ...] = ()) -> Graph:
    entry = functions[0]
    outputs = len(entry.outputs)
    return Graph(functions, rules, constants, tuple_of(len(entry.inputs)), LEAF if outputs == 1 else tuple_of(outputs))


def constant(value: object, dtype: str = "float64", weak: bool = False) -> Constant:
    array = np.asarray(value, dtype)
    return Constant(Type(dtype, array.shape, weak), array)


SIN, COS = Node("sin", (0,)), Node("cos", (0,))


def test_equal_functions_are_one_and_unused_ones_are_gone() -> None:
    original = graph(
        function(call(3), call(1, 1), call(4, 2)),
        function(SIN, name="first"),
        function(COS, name="unused"),
        function(SIN, name="second"),
        function(COS),
    )
    result = canonicalize(original)
    assert result.graph.functions == (function(call(1), call(1, 1), call(2, 2)), function(SIN, name="second"), function(COS))
    assert result.functions == (0, 1, 2, 1, 2)
    assert canonicalize(graph(function(SIN), function(COS))).functions == (0, None)


def test_functions_are_numbered_depth_first_in_order_of_first_encounter() -> None:
    switch = Node("switch", (0, 0), {"branches": (4, 5)})
    while_ = Node("while", (0,), {"cond": 3, "body": 2})
    leaf = [function(Node("integer_pow", (0,), {"y": power})) for power in range(6)]
    original = graph(function(switch, while_), function(), leaf[2], leaf[3], function(call(6)), leaf[5], leaf[4])
    result = canonicalize(original)
    # entry, branch 0, what branch 0 calls, branch 1, cond (before body in the op table), body
    assert result.functions == (0, None, 5, 4, 1, 3, 2)
    assert result.graph.entry.nodes[0].attrs == {"branches": (1, 3)}


def test_a_rule_that_points_back_is_kept_as_a_knot() -> None:
    """relu: the function of its JVP rule calls relu again."""
    relu, jvp = function(Node("max", (0, -1))), function(custom(0), Node("mul", (1, 2)), inputs=(F64, F64), outputs=(2, 3))
    tied = graph(function(custom(0)), relu, jvp, rules=(Rule(1, (True,), JvpRule(2, (0,))),), constants=(constant(0.0),))
    result = canonicalize(tied)
    assert result.graph.functions == (function(custom(0)), relu, jvp)
    assert result.graph.rules == tied.rules


def test_a_knot_written_out_twice_is_one() -> None:
    """Two rules whose functions call each other's rule cannot be told apart from one that calls itself."""

    def relu(rules: int) -> Graph:
        bodies = [function(Node("max", (0, -1))) for _ in range(rules)]
        pushes = [function(custom((k + 1) % rules), Node("mul", (1, 2)), inputs=(F64, F64), outputs=(2, 3)) for k in range(rules)]
        table = tuple(Rule(1 + k, (True,), JvpRule(1 + rules + k, (0,))) for k in range(rules))
        return graph(function(custom(rules - 1)), *bodies, *pushes, rules=table, constants=(constant(0.0),))

    assert canonical_form(relu(1)) == canonical_form(relu(2)) == canonical_form(relu(5))
    assert graph_id(relu(1)) == graph_id(relu(2)) == graph_id(relu(5))


def test_one_difference_far_down_the_knot_keeps_all_apart() -> None:
    bodies = [function(SIN), function(SIN), function(COS)]
    pushes = [function(custom((k + 1) % 3), inputs=(F64, F64), outputs=(2, 1)) for k in range(3)]
    table = tuple(Rule(1 + k, (True,), JvpRule(4 + k, (0,))) for k in range(3))
    result = canonical_form(graph(function(custom(0)), *bodies, *pushes, rules=table))
    assert len(result.rules) == 3
    assert len(result.functions) == 6  # the two bodies of sin are one


def test_a_reverse_rule_brings_its_functions_in_order() -> None:
    forward, backward = function(inputs=(F64,), outputs=(0, 0)), function(Node("mul", (0, 1)), inputs=(F64, F64))
    original = graph(function(custom(0)), backward, forward, function(SIN), rules=(Rule(3, (True,), VjpRule(2, 1, (0,))),))
    result = canonicalize(original)
    assert result.functions == (0, 3, 2, 1)
    assert result.graph.rules == (Rule(1, (True,), VjpRule(2, 3, (0,))),)


def test_constants_are_one_by_type_and_content_in_order_of_use() -> None:
    constants = (constant(1.0), constant([2.0]), constant(1.0), constant(1.0, weak=True), constant(1, "int64"), constant(9.0))
    callee = function(Node("mul", (0, -1)), Node("mul", (1, -5)))
    original = graph(function(call(1), Node("mul", (1, -4)), Node("mul", (2, -3)), outputs=(3, -2)), callee, constants=constants)
    result = canonical_form(original)
    assert [each.type for each in result.constants] == [Type("float64", weak=True), F64, Type("float64", (1,)), Type("int64")]
    assert result.entry == function(call(1), Node("mul", (1, -1)), Node("mul", (2, -2)), outputs=(3, -3))
    assert result.functions[1] == function(Node("mul", (0, -2)), Node("mul", (1, -4)))


def test_zeros_of_either_sign_and_all_nans_are_told_apart() -> None:
    nans = [np.array(bits, np.uint64).view(np.float64) for bits in (0x7FF8000000000000, 0xFFF8000000000001)]
    values = [constant(0.0), constant(-0.0), constant(nans[0]), constant(nans[1]), constant(nans[0])]
    result = canonical_form(graph(function(outputs=(-1, -2, -3, -4, -5)), constants=tuple(values)))
    assert result.entry.outputs == (-1, -2, -3, -4, -3)


def test_nodes_that_need_no_change_are_not_copied() -> None:
    original = graph(function(SIN, Node("integer_pow", (1,), {"y": 3})))
    assert canonical_form(original).entry.nodes[1] is original.entry.nodes[1]


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
    both = canonical_form(graph(function(outputs=(-1, -2)), constants=(by_name, inline)))
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


def wild(source: random.Random, size: int) -> Graph:
    """Returns a graph at random in which functions call later ones, rules refer to any, and much is equal to something else."""

    def node(at: int, values: int) -> Node:
        later = range(at + 1, size)
        match source.randrange(6):
            case 0 if later:
                return call(source.choice(later), source.randrange(values))
            case 1 if later:
                return Node("switch", (0, values - 1), {"branches": tuple(source.choices(later, k=2))})
            case 2:
                return custom(source.randrange(3), source.randrange(values))
            case 3:
                return Node("mul", (values - 1, -1 - source.randrange(6)))
            case _:
                return Node(source.choice(("sin", "cos")), (values - 1,))

    def body(at: int) -> Function:
        return function(*(node(at, 1 + k) for k in range(source.randrange(3) + (2 if at == 0 else 0))))

    rules = tuple(Rule(source.randrange(1, size), (True,), JvpRule(source.randrange(1, size), (0,))) for _ in range(3))
    constants = tuple(constant(source.randrange(3)) for _ in range(6))
    return graph(*(body(at) for at in range(size)), rules=rules, constants=constants)


def rewritten(original: Graph, source: random.Random) -> Graph:
    """Returns the same program with every function, rule and constant stored twice, all in another order, each reference to either of the two."""
    functions, rules, constants = len(original.functions), len(original.rules), len(original.constants)
    place = {
        "function": [0, *source.sample(range(1, 2 * functions), 2 * functions - 1)],
        "rule": source.sample(range(2 * rules), 2 * rules),
        "constant": source.sample(range(2 * constants), 2 * constants),
    }
    count = {"function": functions, "rule": rules, "constant": constants}

    def either(sort: str, index: int) -> int:
        return place[sort][index + source.choice((0, count[sort]))]

    def operands(values: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(value if value >= 0 else -1 - either("constant", -1 - value) for value in values)

    def node(each: Node) -> Node:
        attrs = dict(each.attrs)
        for name, sort in (("function", "function"), ("rule", "rule")):
            if name in attrs:
                attrs[name] = either(sort, attrs[name])  # type: ignore[arg-type]
        if "branches" in attrs:
            attrs["branches"] = tuple(either("function", index) for index in attrs["branches"])  # type: ignore[union-attr, arg-type]
        return replace(each, operands=operands(each.operands), attrs=attrs)

    new_functions: list[Function] = [original.entry] * (2 * functions)
    for at, each in enumerate(original.functions * 2):
        new_functions[place["function"][at]] = replace(each, name=f"f{at}", nodes=tuple(map(node, each.nodes)), outputs=operands(each.outputs))
    new_rules: list[Rule] = [original.rules[0]] * (2 * rules)
    for at, rule in enumerate(original.rules * 2):
        assert isinstance(rule.derivative, JvpRule)
        new_rules[place["rule"][at]] = Rule(
            either("function", rule.function), rule.active, JvpRule(either("function", rule.derivative.function), (0,))
        )
    new_constants: list[Constant] = [original.constants[0]] * (2 * constants)
    for at, each_constant in enumerate(original.constants * 2):
        new_constants[place["constant"][at]] = each_constant
    return replace(original, functions=tuple(new_functions), rules=tuple(new_rules), constants=tuple(new_constants))


def unfolded(original: Graph, index: int, depth: int) -> object:
    """Returns a function as nested tuples, references followed so many levels down: what it means, whatever its number."""
    each = original.functions[index]

    def operand(value: int) -> object:
        return value if value >= 0 else (original.constants[-1 - value].type, constant_digest(original.constants[-1 - value]))

    def refer(name: str, value: object) -> object:
        if depth == 0:
            return None
        if name == "rule":
            rule = original.rules[value]  # type: ignore[call-overload]
            return unfolded(original, rule.function, depth - 1), unfolded(original, rule.derivative.function, depth - 1)
        return [unfolded(original, index, depth - 1) for index in (value if isinstance(value, tuple) else (value,))]

    nodes = [(n.op, list(map(operand, n.operands)), [(name, refer(name, value)) for name, value in sorted(n.attrs.items())]) for n in each.nodes]
    return nodes, list(map(operand, each.outputs))


@pytest.mark.parametrize("seed", range(40))
def test_the_same_program_written_differently_has_one_canonical_form(seed: int) -> None:
    source = random.Random(seed)
    original = wild(source, source.randrange(2, 9))
    result = canonicalize(original)
    again = rewritten(original, source)
    other = canonicalize(again)
    assert other.id == result.id
    assert [replace(each, name="") for each in other.graph.functions] == [replace(each, name="") for each in result.graph.functions]
    assert other.graph.rules == result.graph.rules
    assert list(map(constant_digest, other.graph.constants)) == list(map(constant_digest, result.graph.constants))
    # It means what it meant, is as small as it can be, and is its own canonical form.
    for old, new in enumerate(result.functions):
        if new is not None:
            assert unfolded(result.graph, new, 4) == unfolded(original, old, 4)
    fresh = canonicalize(result.graph)
    assert (fresh.graph, fresh.id, fresh.functions) == (result.graph, result.id, tuple(range(len(result.graph.functions))))
    assert graph_id(from_bytes(to_bytes(again))) == result.id


SCRIPT = """
import sys
from jacloom_graph.identity import graph_id
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
