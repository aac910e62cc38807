"""The canonical form: what is one, in which order, and that it means what the graph meant."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from unit.programs import F64, call, constant, custom, function, graph, wild

from jacloom_graph.identity import canonicalize, constant_digest, graph_id
from jacloom_graph.types import Constant, Function, Graph, JvpRule, Node, Rule, Type, VjpRule
from jacloom_graph.wire import from_bytes, to_bytes

SIN, COS = Node("sin", (0,)), Node("cos", (0,))


def canonical_form(original: Graph) -> Graph:
    return canonicalize(original).graph


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
