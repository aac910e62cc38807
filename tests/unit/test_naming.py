"""Names of the arrays in a job's store."""

from __future__ import annotations

from jacloom_graph import tree
from jacloom_graph.answer import Derivative, Selection, arrays
from jacloom_graph.types import Type
from jacloom_server.jobs.naming import array_paths, leaf_names, relative

IN = tree.flatten(({"v": [1, 2], "x y": 3}, 4))[1]
OUT = tree.flatten({"a": 1, "b": (2,)})[1]


def test_leaves_are_named_by_the_steps_that_lead_to_them() -> None:
    assert leaf_names(IN) == ("0.v.0", "0.v.1", "0.x_y", "1")
    assert leaf_names(tree.LEAF) == ("",)


def test_steps_that_all_have_in_common_are_left_out() -> None:
    assert relative(leaf_names(IN), (0, 1, 2)) == ("v.0", "v.1", "x_y")
    assert relative(leaf_names(IN), (3,)) == ("",)
    assert relative(leaf_names(IN), (0, 3)) == ("0.v.0", "1")
    assert relative(leaf_names(IN), ()) == ()


def test_names_that_would_coincide_say_which_leaf_they_are() -> None:
    names = leaf_names(tree.flatten({"a/b": 1, "a_b": 2, "c": 3})[1])
    assert names == ("a_b-0", "a_b-1", "c")


def test_keys_cannot_lead_out_of_the_store() -> None:
    for name in leaf_names(tree.flatten({"../../etc": 1, "/": 2, "": 3, ".": 4, "a'b\"]": 5})[1]):
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz_-0123456789")


def test_arrays_are_named_by_what_they_are_and_whose() -> None:
    x, y = Type("float64", (2,)), Type("float64", (3,))
    chosen = Selection((0, 2), (0, 1), (1,), (x, y), (y, x), (x,))
    inputs = relative(leaf_names(IN), (0, 2))
    names = array_paths(arrays(Derivative.JACOBIAN, chosen), leaf_names(OUT), inputs)
    assert names == ("value/b.0", "jacobian/a/v.0", "jacobian/a/x_y", "jacobian/b.0/v.0", "jacobian/b.0/x_y")
    assert array_paths(arrays(Derivative.GRADIENT, chosen), leaf_names(OUT), inputs)[:2] == ("gradient/v.0", "gradient/x_y")
    assert array_paths(arrays(Derivative.JVP, chosen), ("",) * 2, inputs)[0] == "tangent"
