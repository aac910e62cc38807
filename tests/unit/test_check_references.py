"""The checks of nodes and rules that refer to functions: each must find functions that take and give what it passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from unit.checked import CONSTANT, F64, SIN, function, node, refused
from unit.handmade import graph

from jacloom_graph.check import Census, check
from jacloom_graph.errors import Place, Reason
from jacloom_graph.ops import TABLE
from jacloom_graph.ops.signatures import SIGNATURES
from jacloom_graph.types import Function, Graph, JvpRule, Node, Rule, TransposeRule, VjpRule


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
