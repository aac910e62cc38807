"""Where a rule that calls functions with rules ends: in a knot where it comes back to itself, and nowhere else than JAX's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import FORWARD, REVERSE, assert_same
from conformance.roundtrip import through_bytes

from jacloom._trace import MAX_RULE_ORDER, trace
from jacloom_graph.errors import Fault
from jacloom_graph.types import JvpRule

X = np.array([0.0, 0.5, -1.0, 2.0])


def test_a_rule_that_calls_its_own_function_is_a_knot() -> None:
    graph = trace(jax.nn.relu, (X,)).graph
    (rule,) = graph.rules
    assert isinstance(rule.derivative, JvpRule)
    calls = [node.attrs["rule"] for node in graph.functions[rule.derivative.function].nodes if node.op == "custom_call"]
    assert calls == [0]  # back to the rule that it is part of


def family(last: int) -> Any:
    """Returns a cube whose rule says that its slope is a cube, whose rule .., until one says that it is 7 x: the same programs but for the last."""
    member = jax.custom_jvp(lambda x: x**3)
    following = family(last - 1) if last else None
    member.defjvp(lambda primals, tangents: (member(*primals), tangents[0] * (following(*primals) if following else 7 * primals[0])))
    return member


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def counted(order: int, x: jax.Array) -> jax.Array:
    return x**3


@counted.defjvp
def counted_jvp(order: int, primals: Any, tangents: Any) -> Any:
    return counted(order, *primals), tangents[0] * (counted(order + 1, *primals) if order < 2 else 7 * primals[0])


@pytest.mark.parametrize("fun", [family(2), lambda x: counted(0, x)], ids=["another function", "another static argument"])
def test_equal_programs_with_different_rules_are_no_knot(fun: Any) -> None:
    third = (FORWARD, REVERSE, FORWARD)
    assert_same(fun, np.float64(1.25), transforms=(third[:1], third[:2], third))


@partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["left"])
@dataclass
class Counted:
    """A number with another, which is no leaf."""

    value: Any
    left: int


@jax.custom_jvp
def counting(counted: Counted) -> Any:
    return jnp.sin(counted.value)


@counting.defjvp
def _counting(primals: Any, tangents: Any) -> Any:
    ((counted,), (moved,)) = primals, tangents
    factor = counting(Counted(counted.value, counted.left - 1)) if counted.left else 100.0
    return jnp.sin(counted.value), factor * moved.value


@jax.custom_vjp
def counting_back(counted: Counted) -> Any:
    return jnp.sin(counted.value)


def _counting_back(counted: Counted, cotangent: Any) -> Any:
    factor = counting_back(Counted(counted.value, counted.left - 1)) if counted.left else 100.0
    return (Counted(factor * cotangent, counted.left),)


counting_back.defvjp(lambda counted: (jnp.sin(counted.value), counted), _counting_back)


@pytest.mark.parametrize(("fun", "first"), [(counting, jax.jacfwd), (counting_back, jax.jacrev)])
def test_rules_of_equal_programs_are_told_apart_by_what_is_no_leaf(fun: Any, first: Any) -> None:
    program, _ = through_bytes(lambda x: fun(Counted(x, 2)), (np.asarray(0.7),))
    with jax.enable_x64(True):
        ours, theirs, at = lambda x: program(x)[0], lambda x: fun(Counted(x, 2)), jnp.asarray(0.7)
        for _ in range(3):
            ours, theirs = first(ours), first(theirs)
            np.testing.assert_allclose(ours(at), theirs(at), rtol=1e-12)
        assert ours(at) == 100.0


def test_a_rule_that_unrolls_says_where_it_ends() -> None:
    program, traced = through_bytes(jnp.sinc, (X,))
    assert len(traced.graph.rules) == MAX_RULE_ORDER + 1
    deep: Any = lambda x: program(x)[0]  # noqa: E731
    for _ in range(MAX_RULE_ORDER + 1):
        deep = jax.jacfwd(deep)
    with jax.enable_x64(True), pytest.raises(Fault, match=f"up to derivatives of order {MAX_RULE_ORDER}"):
        deep(X)
