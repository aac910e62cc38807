"""In which modes functions can be differentiated, leaf by leaf, and how many derivatives are traced to find out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.one_way import backward_only, forward_only, untouchable

import jacloom as jl
from jacloom._trace import trace as trace_graph
from jacloom_graph import tensor, wire
from jacloom_graph.errors import Fault, Reason
from jacloom_worker import differentiability
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Availability, DerivativeReport, Load, Survey

pytestmark = pytest.mark.usefixtures("worker_jax")

X = np.array([0.5, -1.0, 2.0])
GRID = np.linspace(0.25, 3.0, 6).reshape(2, 3)


def load_of(f: Any, *args: Any) -> Load:
    return Load(wire.to_bytes(jl.trace(f, *args).graph))


def report(f: Any, *args: Any) -> DerivativeReport:
    load = load_of(f, *args)
    found = differentiability.derivatives(Engine()._blueprint(load).subject, seconds=1e9)  # a busy machine shall not change what is found
    _agrees_with_surveys(found, load, f, args)
    return found


def _agrees_with_surveys(found: DerivativeReport, load: Load, f: Any, args: tuple[Any, ...]) -> None:
    """Asks for each of a few leaves by itself what planning a Jacobian would ask."""
    inputs = jl.trace(f, *args).inputs
    for leaf, modes in list(enumerate(found.leaves))[:6]:
        if inputs[leaf].dtype in tensor.INEXACT and found.outputs:
            alone = Engine().survey(load, (leaf,), found.outputs)
            assert isinstance(alone, Survey)
            assert modes.forward.available is not isinstance(alone.forward, Fault)
            assert modes.reverse.available is not isinstance(alone.reverse, Fault)


def table(found: DerivativeReport) -> list[tuple[bool | None, bool | None]]:
    return [(leaf.forward.available, leaf.reverse.available) for leaf in found.leaves]


def why(found: Availability) -> str:
    assert found.refusal is not None
    return found.refusal.message


def test_many_good_leaves_cost_two_traces() -> None:
    leaves = [np.full((2, 3), 0.1 * at) for at in range(200)]
    found = report(lambda leaves: {"sum": sum(jnp.tanh(leaf) for leaf in leaves), "count": jnp.arange(3)}, leaves)
    assert table(found) == [(True, True)] * 200
    assert (found.outputs, found.traces) == ((1,), 2)


def test_leaves_without_derivatives_name_their_dtype() -> None:
    key, empty = jax.random.key(0), np.zeros((0, 3))
    found = report(lambda x, n, flag, key, empty, s: jnp.where(flag, x * n, s) + empty.sum(), X, np.arange(3, dtype=np.int32), X > 0, key, empty, 2.0)
    assert table(found) == [(True, True), (False, False), (False, False), (False, False), (True, True), (True, True)]
    assert [why(found.leaves[leaf].reverse) for leaf in (1, 2, 3)] == [
        "no derivative: int32",
        "no derivative: bool",
        "no derivative: key<threefry2x32>",
    ]
    assert found.traces == 2


@pytest.mark.parametrize(
    ("f", "op"),
    [
        (lambda a: jnp.abs(jnp.linalg.eig(a @ a.T)[1]), "eig"),
        (lambda a: jnp.linalg.svd(a, full_matrices=True)[0], "svd"),
        (lambda a: a.reshape(-1).at[jnp.array([0, 0])].multiply(a[0, :2]), "scatter_mul"),
    ],
    ids=["eigenvectors", "full svd", "repeated products"],
)
def test_operations_that_jax_differentiates_in_some_cases_only(f: Any, op: str) -> None:
    refused = report(f, GRID).leaves[0].reverse.refusal
    assert refused is not None
    assert (refused.reason, refused.place is not None and refused.place.op) == (Reason.MODE_UNAVAILABLE, op)
    assert refused.message.startswith(f"{op} has no derivative in this mode: ")


@pytest.mark.parametrize("place", [0, 77, 99])
def test_one_bad_leaf_costs_a_logarithm(place: int) -> None:
    def f(leaves: list[jax.Array]) -> jax.Array:
        return sum(untouchable(leaf) if at == place else jnp.sin(leaf) for at, leaf in enumerate(leaves))  # type: ignore[return-value]

    found = report(f, [GRID] * 100)
    assert [leaf for leaf, modes in enumerate(table(found)) if modes != (True, True)] == [place]
    refusal = found.leaves[place].forward.refusal
    assert refusal is not None
    assert (refusal.reason, "measured, not computed" in refusal.message) == (Reason.MODE_UNAVAILABLE, True)
    assert refusal.place is not None
    assert refusal.place.op == "custom_call"
    assert 2 * (1 + 2 * 6) <= found.traces <= 2 * (1 + 2 * 7)


def test_a_reverse_rule_is_blamed_on_the_leaves_that_reach_it_in_one_trace() -> None:
    def called(x: jax.Array, y: jax.Array) -> jax.Array:
        for _ in range(8):  # long enough to be a call of its own in the worker
            x, y = jnp.sin(x) * 1.5, jnp.cos(y) + 0.5
        return backward_only(x) + y

    def f(direct: Any, inner: Any, beside: Any, floored: Any, unused: Any) -> Any:
        return backward_only(direct * 2).sum() + jax.jit(called)(inner, beside) + backward_only(jnp.floor(floored)).sum()

    found = report(f, GRID, X, X, GRID, GRID)
    assert table(found) == [(False, True), (False, True), (True, True), (True, True), (True, True)]
    assert found.traces == 2
    assert "reverse rule only" in why(found.leaves[0].forward)


def test_a_reverse_rule_within_a_scan_is_blamed_on_what_the_carry_brings_there() -> None:
    def f(start: Any, late: Any, each: Any, weight: Any, beside: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            one, two, _, four = carry
            # What starts in the third carry reaches the rule two rounds later, what starts in the fourth never.
            return (backward_only(one) * weight, one + two, two + x, four * x), four + jnp.sin(x)

        (_, two, _, four), out = jax.lax.scan(step, (two_of(start), start, late, beside), each)
        return two + four + out.sum()

    def two_of(x: Any) -> Any:
        return jnp.zeros_like(x)

    found = report(f, X[0], X[1], GRID[0], X[2], X[0])
    assert [leaf.forward.available for leaf in found.leaves] == [True, True, True, False, True]

    def g(start: Any, late: Any, each: Any, weight: Any, beside: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            _, two, three, four = carry
            return (backward_only(two) * weight, three + 1, two * x, four * jnp.cos(x)), four + 1

        final, out = jax.lax.scan(step, (start, start, late, beside), each)
        return final[0] + final[3] + out.sum()

    found = report(g, X[0], X[1], GRID[0], X[2], X[0])
    assert [leaf.forward.available for leaf in found.leaves] == [False, False, False, True, True]
    assert [leaf.reverse.available for leaf in found.leaves] == [True] * 5
    assert found.traces == 2


def test_a_reverse_rule_within_a_branch_is_found_by_halves() -> None:
    found = report(lambda x, y: jax.lax.cond(x.sum() > 0, backward_only, jnp.sin, x) + y, X, X)
    assert table(found) == [(False, True), (True, True)]
    assert found.traces == 4


def test_a_solve_without_a_transpose_goes_forward_only() -> None:
    found = report(lambda x, y: forward_only(x) + y, X, X)
    assert table(found) == [(True, False), (True, True)]
    assert found.leaves[0].reverse.refusal is not None
    assert found.leaves[0].reverse.refusal.reason is Reason.MODE_UNAVAILABLE
    assert found.leaves[0].reverse.refusal.place is not None
    assert found.leaves[0].reverse.refusal.place.op == "linear_solve"
    assert "transpose_solve" in why(found.leaves[0].reverse)


def test_a_rule_that_is_not_linear_goes_forward_only() -> None:
    size = jax.custom_jvp(lambda x: jnp.sqrt(x**2))
    size.defjvp(lambda primals, tangents: (size(*primals), jnp.abs(tangents[0])))
    found = report(lambda x, y: jnp.sin(size(x * 2)) + y, X, X)
    assert table(found) == [(True, False), (True, True)]
    refusal = found.leaves[0].reverse.refusal
    assert refusal is not None
    assert str(refusal.place) == "function 0, node 1 (custom_call)"


def test_loops_of_unknown_length_go_both_ways() -> None:
    found = report(lambda x: jax.lax.while_loop(lambda c: jnp.max(c) > 0.1, lambda c: jnp.sin(c) * x, x), X)
    assert table(found) == [(True, True)]


def test_what_was_recorded_for_other_inputs_is_not_known() -> None:
    product = jax.custom_jvp(lambda x, y: x * y)
    product.defjvp(lambda primals, tangents: (primals[0] * primals[1], tangents[0] * primals[1] + primals[0] * tangents[1]))
    narrow = trace_graph(product, (X, X + 1), active=(0,))
    found = Engine().derivatives(Load(wire.to_bytes(narrow.graph)))
    assert isinstance(found, DerivativeReport)
    assert table(found) == [(True, True), (None, None)]
    assert "trace the function again for this argnums" in why(found.leaves[1].forward)


def test_what_a_rule_says_in_its_own_words_is_a_refusal() -> None:
    worded = jax.custom_jvp(lambda x: x * 2)

    def refuse(*_: Any) -> Any:
        raise RuntimeError("the table was recorded for other inputs")

    worded.defjvp(refuse)
    found = report(lambda x, y: worded(x) + y, X, X)
    assert table(found) == [(False, False), (True, True)]
    assert "recorded for other inputs" in why(found.leaves[0].forward)


@pytest.mark.parametrize(
    ("f", "x", "expected"),
    [
        (lambda z, y: jnp.abs(z) * y, X + 1j, [(False, True), (True, True)]),
        (lambda x, y: x * 1j + y, X, [(True, False), (True, False)]),
        (lambda z, y: jnp.exp(z) * y, X + 1j, [(False, False), (True, False)]),
    ],
    ids=["C to R", "R to C", "C to C"],
)
def test_complex_numbers_leave_the_modes_that_jax_leaves(f: Any, x: Any, expected: Any) -> None:
    found = report(f, x, X)
    assert table(found) == expected
    reasons = [why(each) for leaf in found.leaves for each in (leaf.forward, leaf.reverse) if each.refusal]
    assert all("holomorphic=True" in reason for reason in reasons)


def test_nothing_to_differentiate_takes_no_trace() -> None:
    found = report(lambda x, n: jnp.argmax(x) + n, X, 3)
    assert table(found) == [(False, False)]
    assert why(found.leaves[0].forward) == "no derivative: none of the outputs is floating-point or complex"
    assert (found.outputs, found.traces) == ((), 0)
    assert report(lambda n: n * 1.5, np.arange(4)).traces == 0
    assert report(lambda: jnp.ones(3)).leaves == ()


def test_the_number_of_traces_is_bounded_and_what_stays_open_says_so() -> None:
    f = lambda leaves: sum(map(untouchable, leaves))  # noqa: E731
    subject = Engine()._blueprint(load_of(f, [GRID] * 14)).subject
    found = differentiability.derivatives(subject, most=9, seconds=1e9)
    assert found.traces == 18
    states = {modes.forward.available for modes in found.leaves}
    assert states == {False, None}
    (open_,) = {why(modes.reverse) for modes in found.leaves if modes.reverse.available is None}
    assert "not found out for this leaf by itself in 9 traces" in open_
    assert "measured, not computed" in open_
    whole = differentiability.derivatives(subject, most=1000, seconds=1e9)
    assert table(whole) == [(False, False)] * 14
    hasty = differentiability.derivatives(subject, seconds=0)
    assert (table(hasty), hasty.traces) == ([(None, None)] * 14, 2)


def test_faults_of_the_worker_are_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(differentiability.kernels, "traced", starved)
    found = Engine().derivatives(load_of(jnp.sin, X))
    assert isinstance(found, Fault)
    assert found.reason is Reason.OUT_OF_MEMORY
    broken = Engine().derivatives(Load(b"no graph"))
    assert isinstance(broken, Fault)


def test_nothing_is_compiled() -> None:
    load = load_of(lambda x: backward_only(x) + jnp.sin(x), X)
    events: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    Engine().derivatives(load)
    jax.monitoring.unregister_event_duration_listener(listen)
    assert [event for event in events if "trace" in event]
    assert not [event for event in events if "compile" in event and "backend" in event]
