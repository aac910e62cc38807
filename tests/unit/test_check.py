"""The checks of a graph: whatever a careless or hostile writer gets wrong is refused with its place, quickly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.checked import CONSTANT, F64, SIN, call, function, node, refused
from unit.handmade import graph

from jacloom_graph.check import Census, check
from jacloom_graph.errors import Place, Reason
from jacloom_graph.tree import LEAF, tuple_of
from jacloom_graph.types import Constant, Function, Graph, Node, Rule, Tree, TreeKind, Type


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


def test_calls_must_not_form_a_cycle() -> None:
    fault = refused(graph(function(1, call(1)), function(1, call(2)), function(1, call(1))), Reason.INVALID_GRAPH, "1 -> 2 -> 1 do")
    assert fault.place == Place(1)
    refused(graph(function(1, call(0))), Reason.INVALID_GRAPH, "0 -> 0 do")
    unused = graph(function(1), *(function(1, call(1 + (at + 1) % 40)) for at in range(40)))
    refused(unused, Reason.INVALID_GRAPH, "1 -> 2 -> 3 -> 4 -> 5 -> 6 -> 7 -> 8 -> ... do")


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
