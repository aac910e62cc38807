"""The checks of a graph: whatever a careless or hostile writer gets wrong is refused with its place, quickly."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from jacloom_graph.check import Census, check
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.identity import canonicalize
from jacloom_graph.limits import Limits
from jacloom_graph.ops import TABLE
from jacloom_graph.ops.signatures import SIGNATURES
from jacloom_graph.tree import LEAF, tuple_of
from jacloom_graph.types import AttrValue, Constant, Function, Graph, JvpRule, Node, Rule, TransposeRule, Tree, TreeKind, Type, VjpRule
from jacloom_graph.wire import from_bytes, to_bytes

F64 = Type("float64")
SIN = Node("sin", (0,))


def function(inputs: int, *nodes: Node, outputs: tuple[int, ...] = (0,)) -> Function:
    return Function("", (F64,) * inputs, nodes, outputs)


def graph(*functions: Function, rules: tuple[Rule, ...] = (), constants: tuple[Constant, ...] = ()) -> Graph:
    entry = functions[0]
    outputs = len(entry.outputs)
    return Graph(functions, rules, constants, tuple_of(len(entry.inputs)), LEAF if outputs == 1 else tuple_of(outputs))


def node(op: str, operands: int, results: int = 1, **attrs: AttrValue) -> Node:
    return Node(op, (0,) * operands, attrs, results)


def call(index: int) -> Node:
    return Node("call", (0,), {"function": index})


def refused(bad: Graph, reason: Reason, text: str, limits: Limits | None = None) -> Fault:
    """Returns the fault of a bad graph, after a look at its reason and text."""
    with pytest.raises(Fault, match=text) as caught:
        check(bad, limits or Limits())
    assert caught.value.reason is reason
    assert len(str(caught.value)) < 600
    return caught.value


def test_good_graphs_pass_and_are_counted() -> None:
    assert check(graph(function(1, SIN))) == Census(functions=1, nodes=1, expanded_nodes=1, depth=1)
    assert check(graph(function(0, outputs=()))) == Census(functions=1, nodes=0, expanded_nodes=0, depth=1)
    shared = graph(function(1, call(1), call(1), SIN), function(1, call(2), SIN, SIN), function(1, SIN, SIN), function(1))
    # entry: 3 of its own and twice the 3 + 2 of function 1 with function 2 in it
    assert check(shared) == Census(functions=4, nodes=8, expanded_nodes=3 + 2 * (3 + 2), depth=3)


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (node("sin", 0), "sin takes 1 operands, got 0"),
        (node("mul", 3), "mul takes 2 operands, got 3"),
        (node("concatenate", 0), "concatenate takes at least 1 operands, got 0"),
        (Node("sin", (3,)), r"operand 0 is 3, but before this node there are 3 values \(0 to 2\) and 1 constants \(-1 to -1\)"),
        (Node("mul", (0, 4)), "operand 1 is 4"),
        (Node("sin", (-2,)), "operand 0 is -2"),
        (node("sin", 1, 0), "a node yields at least one value, got result_count 0"),
        (Node("sin", (0,), {}, 1, (F64, F64)), r"result_types must be empty or one per result \(1\), got 2"),
        (Node("sin", (0,), {}, 1, (Type("f8"),)), "unknown dtype 'f8'"),
        (Node("sin", (0,), {}, 1, (Type("int8", (3, -1)),)), "extents must not be negative"),
        (node("rev", 1), "rev needs attribute 'dimensions', a list of integers"),
        (node("rev", 1, dimensions=None), "attribute 'dimensions' must be a list of integers, got None"),
        (node("rev", 1, dimensions=0), "attribute 'dimensions' must be a list of integers, got 0"),
        (node("rev", 1, dimensions=(), axes=()), "rev has no attribute 'axes'; its attributes: dimensions"),
        (node("gather", 2, slice_sizes=(1,), mode="WRAP"), "attribute 'mode' must be one of CLIP, FILL_OR_DROP"),
        (node("convert_element_type", 1, new_dtype="double"), "unknown dtype 'double'"),
        (node("call", 1, function=2), "attribute 'function' refers to number 2 of the 2 functions there are"),
        (node("call", 1, function=-1), "attribute 'function' refers to number -1"),
        (node("custom_call", 1, rule=1), "attribute 'rule' refers to number 1 of the 1 rules there are"),
        (node("switch", 1, branches=(1, 2)), "attribute 'branches' refers to number 2"),
    ],
)
def test_a_bad_node_is_refused_with_its_place(bad: Node, text: str) -> None:
    entry = function(2, SIN, bad)
    fault = refused(graph(entry, function(1), rules=(Rule(1, (True,), "no"),), constants=(CONSTANT,)), Reason.INVALID_GRAPH, text)
    assert fault.place == Place(0, 1, bad.op)


CONSTANT = Constant(F64, np.array(1.0))


def test_an_unknown_op_is_unsupported() -> None:
    fault = refused(graph(function(1, SIN), function(1, Node("sine", (0,)))), Reason.UNSUPPORTED_OP, "there is no op 'sine'")
    assert fault.place == Place(1, 0, "sine")
    assert refused(replace(graph(function(1)), opset=2), Reason.UNSUPPORTED_OP, "opset 1 is known here, got 2").field == "opset"


def test_a_graph_needs_an_entry() -> None:
    assert refused(Graph((), (), (), tuple_of(0), LEAF), Reason.INVALID_GRAPH, "at least one").field == "functions"


def test_outputs_must_exist() -> None:
    fault = refused(graph(function(1), function(1, SIN, outputs=(0, 2))), Reason.INVALID_GRAPH, "output 1 is operand 2")
    assert fault.place == Place(1)
    refused(graph(function(1, outputs=(-1,))), Reason.INVALID_GRAPH, "output 0 is operand -1")
    check(graph(function(0, outputs=(-1,)), constants=(CONSTANT,)))


def test_inputs_must_have_types() -> None:
    bad = Function("", (F64, Type("float")), (), (0,))
    fault = refused(graph(bad), Reason.INVALID_GRAPH, "unknown dtype 'float'")
    assert (fault.place, fault.field) == (Place(0), "functions[0].inputs[1]")


@pytest.mark.parametrize(
    ("constant", "text", "field"),
    [
        (Constant(Type("real"), None), "unknown dtype", "constants[1].tensor"),
        (Constant(F64, None), "must have elements or a blob", "constants[1].tensor.blob"),
        (Constant(F64, None, "blobs/12"), "must have elements or a blob", "constants[1].tensor.blob"),
        (Constant(Type("float64", (2,)), np.zeros(3)), r"must be float64 of shape \(2,\), got float64 of shape \(3,\)", "constants[1].tensor"),
        (Constant(Type("float64", (2,)), np.zeros(2, "f4")), "got float32", "constants[1].tensor"),
        (Constant(Type("key<rbg>"), np.zeros(2, "u4")), r"must be uint32 of shape \(4,\)", "constants[1].tensor"),
    ],
)
def test_constants_must_have_elements_of_their_type(constant: Constant, text: str, field: str) -> None:
    assert refused(graph(function(1), constants=(CONSTANT, constant)), Reason.INVALID_GRAPH, text).field == field


def test_every_op_that_refers_to_functions_has_a_signature() -> None:
    assert {op.name for op in TABLE.values() if op.references} == set(SIGNATURES)


FUNCTIONS = {(inputs, outputs): 1 + at for at, (inputs, outputs) in enumerate((i, o) for i in range(5) for o in range(4))}
"""Numbers of functions with so many inputs and outputs."""


def structured(bad: Node) -> Graph:
    """Returns a graph with a node in its entry and a function of every small signature behind it."""
    others = [Function("", (F64,) * inputs, (), (-1,) * outputs) for inputs, outputs in FUNCTIONS]
    rules = tuple(Rule(number, (True,) * inputs, "no") for (inputs, _), number in FUNCTIONS.items())
    return graph(function(1, bad), *others, rules=rules, constants=(CONSTANT,))


SCAN = {"function": FUNCTIONS[4, 3], "length": 5, "num_consts": 1, "num_carry": 2}
WHILE = {"cond": FUNCTIONS[2, 1], "body": FUNCTIONS[3, 1], "cond_consts": 1, "body_consts": 2}
SOLVE = {"matvec": FUNCTIONS[2, 1], "vecmat": None, "solve": FUNCTIONS[3, 1], "transpose_solve": None, "const_lengths": (1, 0, 2, 0)}
BOTH_WAYS = {**SOLVE, "vecmat": FUNCTIONS[1, 1], "transpose_solve": FUNCTIONS[1, 1]}


@pytest.mark.parametrize(
    "good",
    [
        node("call", 2, 3, function=FUNCTIONS[2, 3]),
        node("call", 0, 1, function=FUNCTIONS[0, 1]),
        node("checkpoint", 3, 1, function=FUNCTIONS[3, 1]),
        node("custom_call", 2, 1, rule=FUNCTIONS[2, 1] - 1),
        node("scan", 4, 3, **SCAN),
        node("scan", 1, 1, function=FUNCTIONS[1, 1], length=0),
        node("while", 4, 1, **WHILE),
        node("while", 2, 2, cond=FUNCTIONS[2, 1], body=FUNCTIONS[2, 2]),
        node("switch", 3, 2, branches=(FUNCTIONS[2, 2],) * 3),
        node("switch", 1, 1, branches=(FUNCTIONS[0, 1],)),
        node("reduce", 4, 2, function=FUNCTIONS[4, 2], dimensions=(0,)),
        node("linear_solve", 4, 1, **SOLVE),
        node("linear_solve", 4, 1, **BOTH_WAYS),
        node("linear_solve", 4, 2, **{**SOLVE, "solve": FUNCTIONS[3, 2]}),
        node("scatter", 3, 1, scatter_dims_to_operand_dims=(), function=FUNCTIONS[2, 1]),
        node("scatter", 3, 1),
    ],
    ids=lambda good: f"{good.op}-{len(good.operands)}-{good.result_count}",
)
def test_structured_nodes_whose_functions_fit(good: Node) -> None:
    check(structured(good))


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (node("call", 2, 1, function=FUNCTIONS[1, 1]), "attribute 'function' needs a function of 2 inputs and 1 outputs; function 6 has 1 and 1"),
        (node("call", 2, 1, function=FUNCTIONS[2, 2]), "needs a function of 2 inputs and 1 outputs"),
        (node("checkpoint", 1, 1, function=FUNCTIONS[2, 1]), "needs a function of 1 inputs and 1 outputs"),
        (node("custom_call", 1, 1, rule=FUNCTIONS[2, 1] - 1), "attribute 'rule' needs a function of 1 inputs and 1 outputs"),
        (node("scan", 4, 3, **{**SCAN, "function": FUNCTIONS[3, 3]}), "needs a function of 4 inputs and 3 outputs"),
        (node("scan", 4, 3, **{**SCAN, "num_consts": 3}), r"scan: num_consts \+ num_carry is 5, but there are 4 operands"),
        (node("scan", 4, 1, **SCAN), "scan: num_carry is 2, but there are 1 results"),
        (node("scan", 4, 3, **{**SCAN, "num_consts": -1}), "must not be negative"),
        (node("scan", 4, 3, **{**SCAN, "length": -1}), "length must not be negative, got -1"),
        (node("scan", 4, 3, **SCAN, unroll=0), "unroll must be at least 1, got 0"),
        (node("while", 4, 2, **WHILE), "so there must be 1 results; got 2"),
        (node("while", 2, 1, **WHILE), "so there must be -1 results; got 1"),
        (node("while", 4, 1, **{**WHILE, "cond": FUNCTIONS[2, 2]}), "attribute 'cond' needs a function of 2 inputs and 1 outputs"),
        (node("while", 4, 1, **{**WHILE, "body": FUNCTIONS[2, 1]}), "attribute 'body' needs a function of 3 inputs and 1 outputs"),
        (node("while", 4, 1, **{**WHILE, "cond_consts": -1, "body_consts": 4}), "must not be negative"),
        (node("switch", 3, 2, branches=()), "there must be at least one branch"),
        (node("switch", 3, 2, branches=(FUNCTIONS[2, 2], FUNCTIONS[2, 1])), "attribute 'branches' needs a function of 2 inputs and 2 outputs"),
        (node("reduce", 3, 1, function=FUNCTIONS[3, 1], dimensions=()), "for each of 1 results, got 3 operands"),
        (node("reduce", 2, 1, function=FUNCTIONS[3, 1], dimensions=()), "needs a function of 2 inputs and 1 outputs"),
        (node("linear_solve", 4, 1, **{**SOLVE, "const_lengths": (1, 0, 2)}), "const_lengths must be four numbers"),
        (node("linear_solve", 4, 1, **{**SOLVE, "const_lengths": (1, 0, 2, -1)}), "const_lengths must be four numbers"),
        (node("linear_solve", 3, 1, **SOLVE), "the others must be at most 1, and at least one"),
        (node("linear_solve", 4, 1, **{**SOLVE, "solve": FUNCTIONS[2, 1]}), "attribute 'solve' needs a function of 3 inputs and 1 outputs"),
        (node("linear_solve", 4, 1, **{**BOTH_WAYS, "vecmat": FUNCTIONS[0, 1]}), "attribute 'vecmat' needs a function of 1 inputs and 1 outputs"),
        (node("scatter", 3, 1, function=FUNCTIONS[1, 1]), "needs a function of 2 inputs and 1 outputs"),
    ],
)
def test_structured_nodes_whose_functions_do_not_fit(bad: Node, text: str) -> None:
    assert refused(structured(bad), Reason.INVALID_GRAPH, text).place == Place(0, 0, bad.op)


def ruled(rule: Rule) -> Graph:
    return replace(structured(SIN), rules=(rule,))


BASE = FUNCTIONS[2, 1]


@pytest.mark.parametrize(
    "rule",
    [
        Rule(BASE, (False, False), "no"),
        Rule(BASE, (True, False), JvpRule(FUNCTIONS[3, 2], (0,))),
        Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 1], ())),
        Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[2, 1], (1,)),))),
        Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 1], (), (TransposeRule(FUNCTIONS[0, 2], (0, 1)),))),
        Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[2, 1], (0,)), TransposeRule(FUNCTIONS[2, 1], (1,))))),
        Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[1, 2], (0, 1)), TransposeRule(FUNCTIONS[2, 1], (1,))))),
        Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 1], FUNCTIONS[1, 2], (0, 1))),
        Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 3], FUNCTIONS[3, 1], (1,))),
        Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 3], FUNCTIONS[2, 1], (1,))),
    ],
    ids=str,
)
def test_rules_whose_functions_fit(rule: Rule) -> None:
    check(ruled(rule))


@pytest.mark.parametrize(
    ("rule", "text", "field"),
    [
        (Rule(99, (), "no"), "refers to function 99 of 21", "function"),
        (Rule(-1, (), "no"), "refers to function -1 of 21", "function"),
        (Rule(BASE, (True,), "no"), "one flag for each of the 2 inputs of function 10, got 1", "active"),
        (Rule(BASE, (True,) * 3, "no"), "got 3", "active"),
        (Rule(BASE, (True, False), JvpRule(99, (0,))), "refers to function 99", "jvp.function"),
        (Rule(BASE, (True, False), JvpRule(FUNCTIONS[4, 2], (0,))), "the rule needs a function of 3 inputs and 2 outputs", "jvp.function"),
        (Rule(BASE, (True, False), JvpRule(FUNCTIONS[3, 1], (0,))), "the rule needs a function of 3 inputs and 2 outputs", "jvp.function"),
        (Rule(BASE, (True, False), JvpRule(FUNCTIONS[3, 2], (1,))), r"positions below 1 in ascending order, got \[1\]", "jvp.outputs"),
        (Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(99, (1,)),))), "refers to function 99", "jvp.transposes[0].function"),
        (
            Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[2, 1], (2,)),))),
            r"positions below 2 in ascending order, got \[2\]",
            "jvp.transposes[0].inputs",
        ),
        (
            Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[1, 1], (1,)),))),
            "the transpose needs a function of 2 inputs and 1 outputs",
            "jvp.transposes[0].function",
        ),
        (
            Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[2, 1], (0,)), TransposeRule(FUNCTIONS[2, 1], (2,))))),
            r"positions below 2 in ascending order, got \[2\]",
            "jvp.transposes[1].inputs",
        ),
        (
            Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[2, 1], (1,)), TransposeRule(FUNCTIONS[2, 1], (0,))))),
            r"must come after those of the transpose before, \[1\], in ascending order, got \[0\]",
            "jvp.transposes[1].inputs",
        ),
        (
            Rule(BASE, (True, True), JvpRule(FUNCTIONS[4, 2], (0,), (TransposeRule(FUNCTIONS[2, 1], (1,)),) * 2)),
            r"must come after those of the transpose before, \[1\], in ascending order, got \[1\]",
            "jvp.transposes[1].inputs",
        ),
        (Rule(BASE, (True, True), VjpRule(99, FUNCTIONS[1, 2], (0, 1))), "refers to function 99", "vjp.forward"),
        (Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 1], 99, (0, 1))), "refers to function 99", "vjp.backward"),
        (Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 1], FUNCTIONS[1, 2], (1, 0))), "positions below 2 in ascending order", "vjp.inputs"),
        (Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 1], FUNCTIONS[1, 2], (0, 0))), "positions below 2 in ascending order", "vjp.inputs"),
        (Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 1], FUNCTIONS[1, 2], (0, 2))), "positions below 2 in ascending order", "vjp.inputs"),
        (Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 0], FUNCTIONS[1, 2], (0, 1))), "must return residuals and then the 1 outputs", "vjp.forward"),
        (Rule(BASE, (True, True), VjpRule(FUNCTIONS[1, 1], FUNCTIONS[1, 2], (0, 1))), "needs a function of 2 inputs and 1 outputs", "vjp.forward"),
        (
            Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 1], FUNCTIONS[2, 2], (0, 1))),
            "0 residuals and then at most 1 cotangents, takes 2",
            "vjp.backward",
        ),
        (
            Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 3], FUNCTIONS[1, 2], (0, 1))),
            "2 residuals and then at most 1 cotangents, takes 1",
            "vjp.backward",
        ),
        (Rule(BASE, (True, True), VjpRule(FUNCTIONS[2, 1], FUNCTIONS[1, 1], (0, 1))), "needs a function of 1 inputs and 2 outputs", "vjp.backward"),
    ],
)
def test_rules_whose_functions_do_not_fit(rule: Rule, text: str, field: str) -> None:
    assert refused(ruled(rule), Reason.INVALID_GRAPH, text).field == f"rules[0].{field}"


def test_calls_must_not_form_a_cycle() -> None:
    fault = refused(graph(function(1, call(1)), function(1, call(2)), function(1, call(1))), Reason.INVALID_GRAPH, "1 -> 2 -> 1 do")
    assert fault.place == Place(1)
    refused(graph(function(1, call(0))), Reason.INVALID_GRAPH, "0 -> 0 do")
    unused = graph(function(1), *(function(1, call(1 + (at + 1) % 40)) for at in range(40)))
    refused(unused, Reason.INVALID_GRAPH, "1 -> 2 -> 3 -> 4 -> 5 -> 6 -> 7 -> 8 -> ... do")


def test_a_custom_call_is_a_call_of_the_rules_function() -> None:
    custom = Node("custom_call", (0,), {"rule": 0})
    refused(graph(function(1, custom), function(1, custom), rules=(Rule(1, (True,), "no"),)), Reason.INVALID_GRAPH, "1 -> 1 do")
    counted = graph(function(1, custom), function(1, SIN, SIN), rules=(Rule(1, (True,), "no"),))
    assert check(counted) == Census(functions=2, nodes=3, expanded_nodes=3, depth=2)


def test_a_derivative_may_point_back() -> None:
    custom = Node("custom_call", (0,), {"rule": 0})
    jvp = function(2, custom, Node("mul", (1, 2)), outputs=(2, 3))
    tied = graph(function(1, custom), function(1, SIN), jvp, rules=(Rule(1, (True,), JvpRule(2, (0,))),))
    assert check(tied) == Census(functions=3, nodes=4, expanded_nodes=2, depth=2)


def chain(length: int, width: int = 1) -> Graph:
    """Returns functions that each call the next so many times; the last has one node."""
    return graph(*(function(1, *(call(at + 1),) * width) for at in range(length - 1)), function(1, SIN))


def test_depth_is_limited() -> None:
    assert check(chain(64)).depth == 64
    fault = refused(chain(65), Reason.TOO_LARGE, "calls may be 64 functions deep, got 65")
    assert fault.place == Place(0)


def test_expanded_size_is_counted_not_walked() -> None:
    began = time.perf_counter()
    refused(chain(999, width=20), Reason.TOO_LARGE, "calls may be 64 functions deep, got 999")
    fault = refused(chain(999, width=20), Reason.TOO_LARGE, "50,000 expanded nodes, got more than 10", Limits(depth=1000))
    assert fault.place == Place(0)
    refused(chain(17, width=2), Reason.TOO_LARGE, "a graph may have at most 50,000 expanded nodes, got 196,606")
    assert check(chain(15, width=2)).expanded_nodes == 3 * 2**14 - 2
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize(
    ("limit", "number"),
    [("functions", 2), ("rules", 1), ("constants", 1), ("nodes", 4), ("values", 7), ("operands", 9), ("references", 3), ("tree_nodes", 3)],
)
def test_numbers_are_limited(limit: str, number: int) -> None:
    entry = function(2, Node("mul", (0, 1)), call(1), Node("switch", (0, 2), {"branches": (1, 1)}), outputs=(0, 4))
    bounded = graph(entry, function(1, SIN), rules=(Rule(1, (True,), "no"),), constants=(CONSTANT,))
    check(bounded, Limits(**{limit: number}))
    text = f"a graph may have at most {number - 1} {limit.replace('_', ' ')}, got {number}"
    refused(bounded, Reason.TOO_LARGE, text, Limits(**{limit: number - 1}))


def test_a_node_cannot_claim_billions_of_results() -> None:
    refused(graph(function(1, node("split", 1, 2**32 - 1, sizes=()))), Reason.TOO_LARGE, "a graph may have at most 200,000 values, got 4,294,967,296")


def test_ranks_and_extents_are_limited() -> None:
    refused(graph(Function("", (Type("int8", (1,) * 17),), (), (0,))), Reason.TOO_LARGE, "an array may have 16 axes, got 17")
    refused(graph(function(1, Node("sin", (0,), {}, 1, (Type("int8", (2**31,)),)))), Reason.TOO_LARGE, "an axis may have extent 2,147,483,647")
    refused(graph(Function("", (Type("int8", (0, *(2**31 - 1,) * 3)),), (), (0,))), Reason.TOO_LARGE, "larger than any memory")


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (Tree(TreeKind.LEAF, (LEAF,)), "LEAF must not have children"),
        (Tree(TreeKind.NONE, name="x"), "NONE must not have children, keys or a name"),
        (Tree(TreeKind.TUPLE, (LEAF,), ("a",)), "TUPLE must not have keys"),
        (Tree(TreeKind.LIST, (LEAF,), name="a"), "LIST must not have keys or a name"),
        (Tree(TreeKind.CUSTOM, (LEAF,), ("a",)), "CUSTOM must not have keys"),
        (Tree(TreeKind.DICT, (LEAF,)), "DICT must have one key per child and no name, got 0 keys for 1 children"),
        (Tree(TreeKind.DICT, (LEAF, LEAF), ("b", "a")), "DICT must have its keys in ascending order"),
        (Tree(TreeKind.DICT, (LEAF, LEAF), ("a", "a")), "DICT must have its keys in ascending order, none twice"),
        (Tree(TreeKind.NAMEDTUPLE, (LEAF, LEAF), ("a",), "P"), "NAMEDTUPLE must have one field name per child"),
        (Tree(TreeKind.NAMEDTUPLE, (LEAF, LEAF), ("a", "a"), "P"), "none twice"),
        (Tree(TreeKind.NAMEDTUPLE, (LEAF,), ("a=1",), "P"), "NAMEDTUPLE must have identifiers as names"),
        (Tree(TreeKind.NAMEDTUPLE, (LEAF,), ("a",), "class"), "NAMEDTUPLE must have identifiers as names"),
        (Tree(TreeKind.TUPLE, (LEAF, LEAF)), "must have one leaf for each of 1 arrays, has 2"),
        (Tree(TreeKind.NONE), "must have one leaf for each of 1 arrays, has 0"),
    ],
)
def test_trees_must_be_well_formed(tree: Tree, text: str) -> None:
    good = graph(function(1))
    assert refused(replace(good, out_tree=tree), Reason.INVALID_GRAPH, text).field == "out_tree"
    assert refused(replace(good, in_tree=Tree(TreeKind.TUPLE, (tree,))), Reason.INVALID_GRAPH, text).field == "in_tree"


def test_arguments_are_a_tuple() -> None:
    assert refused(replace(graph(function(1)), in_tree=LEAF), Reason.INVALID_GRAPH, "must be a TUPLE").field == "in_tree"


def test_trees_may_be_deep_but_not_too_deep() -> None:
    tree = LEAF
    for _ in range(63):
        tree = Tree(TreeKind.LIST, (tree,))
    good = replace(graph(function(1)), out_tree=tree)
    check(good)
    assert from_bytes(to_bytes(good)).out_tree == tree
    for _ in range(5000):
        tree = Tree(TreeKind.LIST, (tree,))
    assert refused(replace(good, out_tree=tree), Reason.TOO_LARGE, "a tree may be 64 levels deep").field == "out_tree"


def test_the_largest_graph_is_handled_quickly() -> None:
    """Nearly all limits at once: 1000 functions, 18 000 nodes, and rules whose derivatives form a ring, one rule being different."""
    body = [Node("sin", (at,)) for at in range(17)]
    ring = [function(2, *body, Node("custom_call", (0,), {"rule": (at + 1) % 997}), outputs=(0, 19)) for at in range(997)]
    rules = [Rule(1, (True,), JvpRule(3 + at, (0,)) if at else "no") for at in range(997)]
    branches = Node("switch", (0, 0, 0), {"branches": tuple(range(3, 1000)) * 50}, 2)
    whole = graph(function(1, branches), function(1, SIN), function(2), *ring, rules=tuple(rules))
    began = time.perf_counter()
    read = from_bytes(to_bytes(whole))
    assert check(read, Limits(expanded_nodes=10**6)).expanded_nodes == 1 + 50 * 997 * (18 + 1)
    assert len(canonicalize(read).graph.functions) == 999
    assert time.perf_counter() - began < 20
