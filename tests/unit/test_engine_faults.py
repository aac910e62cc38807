"""The engine on what cannot be computed: faults as values, with their reason, field and place."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from unit.handmade import (
    DOUBLING,
    LAYER,
    REVERSE_ONLY,
    REVERSE_TWICE,
    SCALAR,
    VECTOR,
    X,
    arrays,
    fault,
    graph,
    inline,
    load_of,
    node,
    single,
    task,
)

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Function, JvpRule, Rule, TransposeRule, Type, VjpRule
from jacloom_worker import functions
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Kernel, Kind, Load, Survey, Task

pytestmark = pytest.mark.usefixtures("worker_jax")


@pytest.mark.parametrize(
    ("arguments", "field", "says"),
    [
        ((), "args", "takes 1 input leaves, and this call 1 seeds"),
        ((X, X, X), "args", "got 3 arrays"),
        ((X.astype(np.float32), X), "args[0]", r"must be float64 of shape \(4,\), got float32"),
        ((X, X[:3]), "seeds[0]", r"got float64 of shape \(3,\)"),
        ((X, X.astype(">f8")), "seeds[0]", "must be float64"),
    ],
)
def test_arguments_that_do_not_fit(arguments: tuple[np.ndarray, ...], field: str, says: str) -> None:
    answer = fault(Engine().run(task(LAYER, Kind.JVP), *arguments))
    assert (answer.reason, answer.field) == (Reason.ARGUMENT_MISMATCH, field)
    with pytest.raises(Fault, match=says):
        raise answer


@pytest.mark.parametrize(("start", "count"), [(-1, 2), (0, 3), (0, -1)])
def test_tiles_outside_their_width(start: int, count: int) -> None:
    assert fault(Engine().run(task(LAYER, Kind.FORWARD, start=start, count=count, width=2), X)).reason is Reason.INVALID_OPTION


def test_leaves_that_are_not_there() -> None:
    assert fault(Engine().run(task(LAYER, Kind.JVP, wrt=(1,)), X, X)).field == "wrt[0]"


def test_no_forward_mode_through_a_reverse_rule() -> None:
    here, three = Engine(), np.float64(3.0)
    answer = fault(here.run(task(REVERSE_ONLY, Kind.JVP), three, three))
    assert answer.reason is Reason.MODE_UNAVAILABLE
    assert str(answer.place) == "function 0, node 0 (custom_call)"
    assert arrays(here.run(task(REVERSE_ONLY, Kind.GRADIENT), three)) == (3.0,)


def test_second_derivatives_through_a_reverse_rule() -> None:
    here, three = Engine(), np.float64(3.0)
    assert arrays(here.run(task(REVERSE_ONLY, Kind.HVP), three, three)) == (3.0,)
    assert arrays(here.run(task(REVERSE_ONLY, Kind.HESSIAN, width=1, count=1), three)) == (1.0,)
    assert arrays(here.run(task(REVERSE_TWICE, Kind.GRADIENT), three)) == (2 * 3.0**4,)
    # Here the rule's call of the function is there and not needed: its value is multiplied by nothing that varies.
    entry = Function("entry", (SCALAR,), (node("custom_call", 0, rule=0), node("neg", 1)), (2,))
    linear = replace(REVERSE_TWICE, functions=(entry, *REVERSE_TWICE.functions[1:]))
    assert arrays(here.run(task(linear, Kind.HVP), three, three)) == (-3.0,)
    assert arrays(here.run(task(linear, Kind.HESSIAN, width=2, count=1), three))[0].tolist() == [[-1.0]]


@pytest.mark.parametrize(("kind", "options"), [(Kind.HVP, {}), (Kind.HESSIAN, {"width": 1, "count": 1})])
def test_a_second_derivative_that_is_refused_says_what_works(kind: Kind, options: dict[str, int]) -> None:
    seeds = [np.float64(1.0)] if kind is Kind.HVP else []
    answer = fault(Engine().run(task(REVERSE_TWICE, kind, **options), np.float64(3.0), *seeds))
    assert answer.reason is Reason.MODE_UNAVAILABLE
    assert str(answer.place) == "function 2, node 0 (custom_call)"
    assert "client.jacobian(jax.grad(f), mode='reverse')" in answer.message
    assert ("client.vjp(jax.grad(f), ...)" in answer.message) == (kind is Kind.HVP)
    assert "use reverse mode" not in answer.message


def test_advice_that_would_not_work_is_not_given() -> None:
    refusing = replace(REVERSE_TWICE.rules[0], derivative=VjpRule(4, 3, (0,)))
    forward = Function("forward", (SCALAR,), (node("custom_call", 0, rule=1),), (0, 1))
    second = Rule(1, (True,), "the rule of cube refuses")
    once = replace(REVERSE_TWICE, functions=(*REVERSE_TWICE.functions, forward), rules=(refusing, second))
    answer = fault(Engine().run(task(once, Kind.HVP), np.float64(3.0), np.float64(1.0)))
    assert answer.reason is Reason.MODE_UNAVAILABLE
    assert "jacobian" not in answer.message
    assert "in reverse twice there is none either: use a variant of the function" in answer.message


def test_a_rule_that_loops_is_no_obstacle_to_second_derivatives_in_reverse() -> None:
    looping = Function("backward", (SCALAR, SCALAR), (node("while", 0, cond=4, body=5), node("mul", 1, 2)), (3,))
    functions = (*REVERSE_TWICE.functions[:3], looping, *DOUBLING.functions[1:])
    answer = fault(
        Engine().run(task(replace(REVERSE_TWICE, functions=functions, constants=DOUBLING.constants), Kind.HVP), np.float64(3.0), np.float64(1.0))
    )
    assert answer.reason is Reason.MODE_UNAVAILABLE
    assert "through which the service goes back: try client.jacobian(jax.grad(f), mode='reverse')" in answer.message
    # Where the loop is in the function, JAX has no gradient to begin with.
    loop = Function("entry", (SCALAR,), (node("while", 0, cond=4, body=5), node("custom_call", 1, rule=0), node("integer_pow", 2, y=2)), (3,))
    functions = (loop, *REVERSE_TWICE.functions[1:], *DOUBLING.functions[1:])
    answer = fault(
        Engine().run(task(replace(REVERSE_TWICE, functions=functions, constants=DOUBLING.constants), Kind.HVP), np.float64(3.0), np.float64(1.0))
    )
    assert "in reverse twice there is none either" in answer.message


def test_a_call_with_arguments_of_other_types() -> None:
    callee = Function("callee", (Type("float32", (7, 2)),), (node("sin", 0),), (1,))
    called = graph(Function("entry", (VECTOR,), (node("call", 0, function=1),), (1,)), callee)
    answer = fault(Engine().describe(load_of(called)))
    assert (answer.reason, str(answer.place)) == (Reason.TYPE_MISMATCH, "function 1")
    assert answer.message == "function 1 takes (float32[7,2]), and is called with (float64[4])"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Kind.JVP, r"gives float64\[4\] as tangent of result 0, expected float64\[\]"),
        (Kind.VJP, r"gives float64\[4\] as cotangent of input 0, expected float64\[\]"),
    ],
)
def test_a_rule_with_a_transpose_of_other_types(kind: Kind, says: str) -> None:
    # Doubles a number; one of its rules answers with four.
    total = Function("total", (SCALAR,), (node("mul", 0, -1),), (1,))
    moved = node("broadcast_in_dim", 1, shape=(4,)) if kind is Kind.JVP else node("custom_call", 1, rule=0)
    jvp = Function("jvp", (SCALAR, SCALAR), (node("custom_call", 0, rule=0), moved), (2, 3))
    pulled = node("broadcast_in_dim", 0, shape=(4,)) if kind is Kind.VJP else node("mul", 0, -1)
    transpose = Function("transpose", (SCALAR,), (pulled,), (1,))
    ruled = graph(
        Function("entry", (SCALAR,), (node("custom_call", 0, rule=0),), (1,)),
        total,
        jvp,
        transpose,
        rules=(Rule(1, (True,), JvpRule(2, (0,), (TransposeRule(3, (0,)),))),),
        constants=(inline(np.array(2.0)),),
    )
    answer = fault(Engine().run(task(ruled, kind), np.float64(3.0), np.float64(1.0)))
    assert answer.reason is Reason.TYPE_MISMATCH
    assert re.search(says, answer.message)


def test_a_reverse_rule_with_a_cotangent_too_few() -> None:
    # Two outputs, so the rule gets two cotangents; one that takes only the first would read the second as its own first result.
    two = graph(
        Function("entry", (SCALAR,), (node("custom_call", 0, rule=0, results=2),), (1, 2)),
        Function("twice", (SCALAR,), (node("sin", 0), node("cos", 0)), (1, 2)),
        Function("forward", (SCALAR,), (node("sin", 0), node("cos", 0)), (0, 1, 2)),
        Function("backward", (SCALAR, SCALAR), (node("neg", 1),), (2,)),
        rules=(Rule(1, (True,), VjpRule(2, 3, (0,))),),
    )
    survey = Engine().survey(load_of(two), (0,), (0, 1))
    assert isinstance(survey, Survey)
    answer = fault(survey.reverse)
    assert (answer.reason, str(answer.place)) == (Reason.TYPE_MISMATCH, "function 3")
    assert "takes (float64[], float64[]), and is called with (float64[], float64[], float64[])" in answer.message


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [(Kind.FORWARD, {}, 128.0), (Kind.REVERSE, {}, 128.0), (Kind.HESSIAN, {}, 0.0), (Kind.HESSIAN, {"inner": "forward"}, 0.0)],
)
def test_a_loop_has_both_modes(kind: Kind, options: dict[str, Any], expected: float) -> None:
    # The loop doubles 1.5 seven times, and twice a number has the second derivative zero.
    assert arrays(Engine().run(task(DOUBLING, kind, count=1, width=1, **options), np.float64(1.5))) == (np.full((1, 1), expected),)


def test_a_program_larger_than_the_worker() -> None:
    wide = single((SCALAR,), (node("broadcast_in_dim", 0, shape=(1000, 1000)), node("sin", 1), node("reduce_sum", 2, axes=(0, 1))), (3,))
    answer = fault(Engine(memory_limit=1 << 20).run(task(wide, Kind.VALUE, values=(0,)), np.float64(1)))
    assert answer.reason is Reason.TOO_LARGE
    assert answer.place is not None
    assert answer.place.node == 0
    tile = task(LAYER, Kind.FORWARD, width=100_000, count=4)
    answer = fault(Engine(memory_limit=1 << 20).run(tile, X))
    assert answer.reason is Reason.OUT_OF_MEMORY
    assert "smaller tiles" in answer.message


def test_an_allocation_that_fails() -> None:
    answer = fault(Engine().run(task(LAYER, Kind.FORWARD, width=1 << 40, count=4), X))
    assert answer.reason is Reason.OUT_OF_MEMORY
    answer = fault(Engine().run(task(LAYER, Kind.FORWARD, width=1 << 50, count=4), X))
    assert answer.reason is Reason.TOO_LARGE


def test_the_unforeseen_is_named_by_an_id_and_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("secret path /home/someone")

    monkeypatch.setattr(functions, "load", fail)
    with caplog.at_level(logging.ERROR):
        answer = fault(Engine().run(task(LAYER, Kind.VALUE, values=(0,)), X))
    assert answer.reason is Reason.INTERNAL
    assert "secret" not in answer.message
    assert answer.message.split()[-1] in caplog.text
    assert "ZeroDivisionError: secret path" in caplog.text


def test_bytes_that_are_no_graph() -> None:
    bad = Load(b"\x0a\xff\xff\xff\xff\x0f no graph")
    here = Engine()
    assert fault(here.run(Task(Kernel("b" * 64, Kind.VALUE), bad))).reason is Reason.INVALID_GRAPH
    assert fault(here.describe(bad)).reason is Reason.INVALID_GRAPH
    assert fault(here.survey(bad, (0,), (0,))).reason is Reason.INVALID_GRAPH
