"""The limits of a graph: sizes are counted, not walked, so that a hostile graph is refused as quickly as any."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from unit.checked import CONSTANT, SIN, call, function, node, refused
from unit.handmade import graph

from jacloom_graph.check import check
from jacloom_graph.errors import Place, Reason
from jacloom_graph.identity import canonicalize
from jacloom_graph.limits import Limits
from jacloom_graph.tree import LEAF
from jacloom_graph.types import Function, Graph, JvpRule, Node, Rule, Tree, TreeKind, Type
from jacloom_graph.wire import from_bytes, to_bytes


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
