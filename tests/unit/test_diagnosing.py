"""What is not finite and where it began: found by the engine in traced functions, compared with what their authors know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jacloom as jl
from jacloom_graph import tensor, wire
from jacloom_graph.errors import Reason
from jacloom_worker import diagnosing, functions, observing
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Diagnosis, Kernel, Kind, Load, Missing, NonFinite, Task

pytestmark = pytest.mark.usefixtures("worker_jax")

X = np.array([0.5, -1.0, 2.0])
GRID = np.linspace(0.25, 3.0, 6).reshape(2, 3)


def diagnosed(f: Any, *args: Any, wrt: Sequence[int] | None = None) -> Diagnosis:
    """Returns the diagnosis of a JAX function, differentiated with respect to all leaves that can be."""
    traced = jl.trace(f, *args)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(args)]
    wrt = [at for at, type_ in enumerate(traced.inputs) if type_.dtype in tensor.INEXACT] if wrt is None else wrt
    outputs = tuple(at for at, type_ in enumerate(traced.outputs) if type_.dtype in tensor.INEXACT)
    kernel = Kernel(traced.id, Kind.VALUE, tuple(wrt), outputs)
    found = Engine().diagnose(Task(kernel, Load(wire.to_bytes(traced.graph))), *arrays)
    assert isinstance(found, Diagnosis), found
    return found


def brief(found: NonFinite | None) -> Any:
    """Returns the op, what it made, in how many of how many entries."""
    return found and (found.place.op if found.place else None, found.kind, found.count, found.size)


def test_all_is_well() -> None:
    found = diagnosed(lambda x, y: {"a": jnp.tanh(x) @ y, "n": jnp.arange(4)}, GRID, X)
    assert (found.value, found.derivative) == (None, None)
    assert (found.forward.finite, found.reverse.finite) == (True, True)
    assert (found.unused, found.constant, found.unwatched) == ((), (), None)


def test_logarithm_of_a_negative_number() -> None:
    found = diagnosed(lambda x: jnp.sum(jnp.log(x * 2) ** 2), X)
    assert brief(found.value) == ("log", "nan", 1, 3)
    assert found.value is not None
    assert found.value.operands == ((-2.0, 4.0),)
    # The derivative of the square is made of that NaN.
    assert found.derivative == found.value
    assert (found.forward.finite, found.forward.leaves, found.reverse.finite, found.reverse.leaves) == (False, (0,), False, (0,))


def test_zero_by_zero_in_the_derivative_only() -> None:
    found = diagnosed(lambda x: jnp.sqrt(jnp.sum(x**2)), np.zeros((2, 3)))
    assert found.value is None
    assert brief(found.derivative) == ("sqrt", "nan", 1, 1) or brief(found.derivative) == ("mul", "nan", 1, 1)
    assert (found.forward.finite, found.reverse.finite) == (False, False)


def test_the_trap_of_where_and_sqrt() -> None:
    f = lambda x: jnp.sum(jnp.where(x > 0, jnp.sqrt(x * 3), 0.0))  # noqa: E731
    found = diagnosed(f, np.array([1.0, 0.0, 4.0]))
    assert found.value is None
    assert brief(found.derivative) == ("sqrt", "inf", 1, 3)
    assert (found.forward.finite, found.reverse.finite, found.reverse.leaves) == (True, False, (0,))
    assert diagnosed(f, np.array([1.0, 0.5, 4.0])).derivative is None


def test_the_steep_one_is_on_the_way() -> None:
    def f(x: jax.Array, c: jax.Array) -> jax.Array:
        other = jnp.sqrt(c)  # not differentiated
        jnp.cbrt(x)  # not used
        count = jnp.floor(jax.jit(jnp.sqrt)(x)).sum() + jnp.cbrt(x).astype(int).sum()  # with no derivative
        still = jnp.cbrt(lax.stop_gradient(x))
        return jnp.sum(jnp.where(x > 0, jnp.arccosh(x + 1), 0.0)) + other.sum() + still.sum() + count

    found = diagnosed(f, np.array([1.0, 0.0]), np.zeros(3), wrt=[0])
    assert brief(found.derivative) == ("acosh", "inf", 1, 2)


def test_what_a_where_drops_counts_in_reverse() -> None:
    dropped = diagnosed(lambda x: jnp.where(x > 0, jnp.exp(jnp.log(x) * 2), 0.0).sum(), X)
    assert dropped.value is None
    assert brief(dropped.derivative) == ("log", "nan", 1, 3)
    infinite = diagnosed(lambda x, c: jnp.where(c < 5, x * c, 0.0).sum(), X, np.array([1.0, np.inf, np.inf]), wrt=[0])
    assert infinite.derivative == NonFinite("inf", 2, 3, input=1)


def test_a_step_of_a_scan() -> None:
    def f(x: jax.Array, deltas: jax.Array) -> Any:
        def step(carry: jax.Array, delta: jax.Array) -> tuple[jax.Array, jax.Array]:
            moved = carry - delta
            return moved, jnp.log(moved).sum()

        return lax.scan(step, x, deltas)[1].sum()

    found = diagnosed(f, np.array([2.5, 9.0]), np.ones(4))
    assert brief(found.value) == ("log", "nan", 1, 2)
    assert found.value is not None
    assert found.value.iterations == (2,)
    assert found.value.operands == ((-0.5, 6.0),)
    backwards = diagnosed(lambda x: lax.scan(lambda c, s: (c, jnp.log(s)), x[0], x, reverse=True)[1].sum(), np.array([3.0, -1.0, 2.0, 1.0, 1.5]))
    assert backwards.value is not None
    assert backwards.value.iterations == (3,)


def test_a_slice_has_the_origins_of_what_is_in_it() -> None:
    rows = np.array([3.0, -1.0, 2.0, np.inf, 1.0])
    found = diagnosed(lambda x: lax.scan(lambda c, s: (c + jnp.log(s), None), 0.0, x)[0], rows).value
    assert brief(found) == ("log", "nan", 1, 1)
    assert found is not None
    assert found.cause is None


def test_a_loop_within_a_loop() -> None:
    def inner(x: jax.Array, n: jax.Array) -> jax.Array:
        return lax.fori_loop(0, 3, lambda i, y: jnp.where((i == 1) & (n == 2), jnp.log(y - 9.0), y), x)

    found = diagnosed(lambda x: lax.while_loop(lambda s: s[0] < 4, lambda s: (s[0] + 1, inner(s[1], s[0])), (0, x))[1], X)
    assert brief(found.value) == ("log", "nan", 3, 3)
    assert found.value is not None
    assert found.value.iterations == (2, 1)


def test_within_a_function_under_jit_and_a_checkpoint() -> None:
    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        return jax.checkpoint(lambda y: jnp.arccos(y) * 2)(x).sum()

    assert brief(diagnosed(lambda x: inner(x + 1) * 3, X).value) == ("acos", "nan", 2, 3)


def test_within_the_branch_that_is_taken() -> None:
    def f(x: jax.Array, n: jax.Array) -> jax.Array:
        return lax.switch(n, [lambda y: jnp.log(y), lambda y: y * 1e200 * 1e200, lambda y: y], x).sum()

    assert brief(diagnosed(f, X, np.int32(0)).value) == ("log", "nan", 1, 3)
    both_ways = diagnosed(f, X, np.int32(1)).value
    assert brief(both_ways) == ("reduce_sum", "nan", 1, 1)
    assert both_ways is not None
    assert brief(both_ways.cause) == ("mul", "inf", 3, 3)
    assert diagnosed(f, X, np.int32(7)).value is None
    assert diagnosed(f, X, np.int32(2)).derivative is None


def test_a_mask_of_infinities_does_no_harm() -> None:
    def f(x: jax.Array) -> jax.Array:
        scores = jnp.where(jnp.arange(3) < 2, x, -jnp.inf)
        return jnp.sum(jax.nn.softmax(scores, axis=-1) ** 2) + lax.reduce(x, -jnp.inf, lax.max, (0, 1))

    found = diagnosed(f, GRID)
    assert (found.value, found.derivative) == (None, None)
    # And is not blamed for what goes wrong beside it.
    worse = diagnosed(lambda x: jnp.exp(jnp.where(jnp.arange(3) < 2, x, -jnp.inf)).sum() + jnp.log(-x).sum(), GRID)
    assert brief(worse.value) == ("log", "nan", 6, 6)


def test_an_overflow_and_what_it_becomes() -> None:
    found = diagnosed(lambda x: jnp.exp(x * 1000), X[[0, 2]])
    assert brief(found.value) == ("exp", "inf", 1, 2)
    assert found.derivative == found.value
    naive = diagnosed(lambda x: jnp.exp(x * 1000) / jnp.sum(jnp.exp(x * 1000)), X * 1000)
    assert naive.value is not None
    assert brief(naive.value) == ("div", "nan", 2, 3)
    assert brief(naive.value.cause) == ("exp", "inf", 2, 3)


def test_value_and_derivative_at_one_operation() -> None:
    found = diagnosed(lambda x: jnp.log(x * 0.0), X + 2)
    assert brief(found.value) == ("log", "inf", 3, 3)
    assert brief(found.derivative) == ("log", "nan", 3, 3)
    assert found.derivative is not None
    assert found.derivative.cause == found.value


def test_the_sign_of_an_infinity_tells_whose_it_is() -> None:
    found = diagnosed(lambda x: jnp.where(jnp.arange(3) < 2, jnp.exp(x * 1000), -jnp.inf).max(), GRID)
    assert brief(found.value) == ("exp", "inf", 5, 6)
    beside = diagnosed(lambda x: (jnp.where(jnp.arange(3) < 2, x, -jnp.inf) * 1e308 * 1e3).max(), GRID)
    assert brief(beside.value) == ("mul", "inf", 4, 6)
    turned = diagnosed(lambda x: -jnp.exp(x * 1000), GRID)
    assert brief(turned.value) == ("exp", "inf", 5, 6)


def test_what_is_dropped_is_no_finding() -> None:
    found = diagnosed(lambda x: (jnp.log(x), jnp.arcsin(x))[1] + jnp.where(x > -5, 1.0, jnp.log(x)), X)
    assert brief(found.value) == ("asin", "nan", 1, 3)


def test_an_input_and_a_constant_that_are_not_finite() -> None:
    holed = GRID.copy()
    holed[1, 2] = np.nan
    found = diagnosed(lambda x, y: jnp.sin(y).sum() * x, X, holed)
    assert found.value == NonFinite("nan", 1, 6, input=1)
    table = np.array([1.0, np.inf, 2.0])
    found = diagnosed(lambda x: x + table, X)
    assert found.value is not None
    assert (found.value.kind, found.value.count, found.value.place) == ("inf", 1, None)
    assert found.value.constant is not None
    # A NaN that is made of it begins at an operation.
    found = diagnosed(lambda x: x * 0 * table, X)
    assert brief(found.value) == ("mul", "nan", 1, 3)
    assert found.value is not None
    assert found.value.cause is not None
    assert found.value.cause.constant is not None


def test_the_calls_that_lead_to_a_finding() -> None:
    def f(x: jax.Array) -> jax.Array:
        first = jax.jit(lambda x: jax.jit(lambda x: jnp.log(x - 3))(x * 2).sum())
        return first(x + 4) + first(x)  # one function, and only the second call has a negative number

    found = diagnosed(f, X).value
    assert brief(found) == ("log", "nan", 2, 3)
    assert found is not None
    assert found.place is not None
    assert [(place.function, place.op) for place in found.calls] == [(0, "call"), (1, "call")]
    entry = jl.trace(f, X).graph.entry
    assert found.calls[0].node == [index for index, node in enumerate(entry.nodes) if node.op == "call"][1]
    assert found.place.function == 2
    assert diagnosed(lambda x: jnp.log(x), X).value.calls == ()  # type: ignore[union-attr]


def test_a_constant_begins_where_it_is_used() -> None:
    holed = np.array([1.0, np.nan, 2.0])

    def late(x: jax.Array) -> jax.Array:
        return jnp.log(x) + jax.jit(lambda x: jnp.sin(x) * holed)(x)

    assert brief(diagnosed(late, X).value) == ("log", "nan", 1, 3)
    found = diagnosed(late, np.abs(X)).value
    assert found is not None
    assert found.constant is not None
    assert [place.op for place in found.calls] == ["call", "mul"]
    loop = diagnosed(lambda x: lax.fori_loop(0, 2, lambda _, y: y + holed, x), X).value
    assert loop is not None
    assert loop.constant is not None
    assert loop.calls[0].op in ("scan", "while")


def test_unused_and_constant_leaves() -> None:
    def f(x: jax.Array, y: jax.Array, z: jax.Array, n: jax.Array, w: jax.Array) -> jax.Array:
        looped = lax.fori_loop(0, 2, lambda _, s: (s[0] * 2, s[1] + y), (x, y))[0]
        return looped.sum() + jnp.floor(z).sum() + jnp.where(w > 0, 1.0, 2.0).sum()

    found = diagnosed(f, X, X, GRID, np.arange(3), np.float64(2.0))
    assert (found.unused, found.constant) == ((1, 3), (2, 4))
    assert diagnosed(f, X, X, GRID, np.arange(3), np.float64(2.0), wrt=[0]).constant == ()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "complex128"])
def test_other_dtypes(dtype: str) -> None:
    x = np.array([1.0, 0.0, 2.0, 4.0]).astype(tensor.DTYPES[dtype])
    found = diagnosed(lambda x: 1 / (x * 2), x)
    assert found.value is not None
    assert found.value.place is not None
    assert (found.value.place.op, found.value.count, found.value.size) == ("div", 1, 4)
    assert found.value.operands[1] == (0.0, 8.0)
    assert diagnosed(lambda x: x * 2, x).value is None


def test_scalars_and_empty_arrays() -> None:
    assert brief(diagnosed(jnp.log, np.float64(-1.0)).value) == ("log", "nan", 1, 1)
    found = diagnosed(lambda x, y: (x.sum() + jnp.log(y), x * 2), np.zeros((0, 3)), np.float64(0.0))
    assert brief(found.value) == ("log", "inf", 1, 1)
    assert found.reverse.leaves == (1,)
    empty = diagnosed(lambda x: lax.scan(lambda c, s: (c * s, c), jnp.float64(1.0), x), np.zeros(0))
    assert (empty.value, empty.derivative) == (None, None)
    nothing = diagnosed(lambda n: n + 1, np.arange(3))
    assert (nothing.value, nothing.forward.finite, nothing.reverse.finite) == (None, None, None)


@jax.custom_jvp
def root(x: jax.Array) -> jax.Array:
    return jnp.log(jnp.exp(x)) + jnp.sqrt(x)


@root.defjvp
def _(primals: Any, tangents: Any) -> Any:
    (x,), (t,) = primals, tangents
    return root(x), t / jnp.abs(x)


def test_custom_rules_decide_derivatives_and_their_functions_values() -> None:
    value = diagnosed(lambda x: root(x).sum(), X)
    assert brief(value.value) == ("sqrt", "nan", 1, 3)
    slope = diagnosed(lambda x: root(x).sum(), np.array([0.0, 1.0]))
    assert slope.value is None
    assert brief(slope.derivative) == ("custom_call", "inf", 1, 2)
    assert diagnosed(lambda x: jax.nn.relu(x).sum() + jnp.linalg.norm(x + 1), np.array([0.0, 0.0, 1.0])).derivative is None


@jax.custom_vjp
def scaled(x: jax.Array) -> jax.Array:
    return x * 2


scaled.defvjp(lambda x: (scaled(x), x), lambda x, g: (g / x,))


def test_modes_that_there_are_not() -> None:
    rows = diagnosed(lambda x: scaled(x), X)
    assert (rows.forward.finite, rows.reverse.finite) == (None, True)
    assert rows.forward.refusal is not None
    assert rows.forward.refusal.reason is Reason.MODE_UNAVAILABLE
    assert rows.forward.refusal.place is not None
    steep = diagnosed(lambda x: scaled(x), np.array([0.0, 1.0]))
    assert brief(steep.derivative) == ("custom_call", "inf", 1, 2)
    behind = diagnosed(lambda x: jnp.where(x > 0, jnp.sqrt(scaled(x) - 2), 0.0), np.array([1.0, 3.0, 2.0]))
    assert brief(behind.derivative) == ("sqrt", "inf", 1, 3)
    both = diagnosed(lambda x: jnp.log(scaled(x) - 10), X)
    assert brief(both.value) == ("log", "nan", 3, 3)


def test_keys_and_linear_algebra_pass_through() -> None:
    def f(x: jax.Array, seed: jax.Array) -> jax.Array:
        keys = jax.random.split(jax.random.key(seed), 3)
        noise = lax.scan(lambda c, key: (c, jax.random.normal(key, (2,))), 0.0, keys)[1]
        a = noise @ noise.T + jnp.eye(3)
        return jnp.log(jnp.linalg.solve(a, x) * 0 - 1.0).sum()

    assert brief(diagnosed(f, X, np.uint32(3)).value) == ("log", "nan", 3, 3)


def test_loops_are_watched_for_a_while() -> None:
    def f(x: jax.Array) -> jax.Array:
        return lax.scan(lambda c, _: (jnp.sqrt(c - 1.0), None), x, length=50)[0]

    traced = jl.trace(f, X + 100)
    load, engine = Load(wire.to_bytes(traced.graph)), Engine()
    task = Task(Kernel(traced.id, Kind.VALUE, (0,), (0,)), load)
    subject, _ = functions.load(load)
    # Two nodes an iteration; the second makes a NaN.
    for most, op, iterations, watched in [(observing.MOST_NODES, "sqrt", (1,), None), (6, "sqrt", (1,), 3), (2, "scan", (), 1), (0, "scan", (), 0)]:
        found = diagnosing.diagnose(engine.run, subject, lambda: functions.program(load), task, [X + 2], most)
        assert found.value is not None
        assert found.value.place is not None
        assert (found.value.place.op, found.value.iterations) == (op, iterations)
        assert (found.unwatched and (found.unwatched[0].op, found.unwatched[1])) == (None if watched is None else ("scan", watched))


@jax.custom_jvp
def lifted(x: jax.Array, n: jax.Array) -> Any:
    return x**2, n + 1


@lifted.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return lifted(*primals), (3 * primals[0] * tangents[0], np.zeros((), jax.dtypes.float0))


def everything(x: jax.Array, y: jax.Array, n: jax.Array) -> Any:
    """Uses each op that holds functions, in ways that leave some values without a tangent."""
    rows, sums = lax.scan(lambda c, s: ((c[0] * 1.1, c[1] + s.sum()), {"s": s * c[0], "n": n}), (y[0], 0.0), x, reverse=True)
    count, grown = lax.while_loop(lambda s: s[1].sum() < 50, lambda s: (s[0] + 1, s[1] * 2 + jnp.floor(y)), (n, jnp.abs(y) + 1))
    picked = lax.switch(n, [jnp.sin, lambda z: z * y[0], jnp.cos], x)
    solved = jnp.linalg.solve(x @ x.T + 3 * jnp.eye(2), x)
    most = lax.reduce(x, 0.5, lambda a, b: a * b + a + b, (1,))
    square, m = lifted(x, n)
    inner = jax.checkpoint(lambda z: jax.jit(jnp.tanh)(z) * rows[1])(y)
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(jax.random.split(jax.random.key(7), 2))
    windows = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2), (1, 1), "VALID")
    return [sums, count, grown, picked, solved, most, square, m, inner, noise * x, windows, x.at[0].multiply(y), jnp.sort(x, axis=1), y.astype(int)]


@pytest.mark.parametrize("most", [observing.MOST_NODES, 12, 0])
def test_watching_computes_the_same(most: int) -> None:
    args = (GRID, X, np.int64(1))
    traced = jl.trace(everything, *args)
    program = functions.program(Load(wire.to_bytes(traced.graph)))
    observer = observing.Observer(program, probing=True, most=most)
    tangents = (np.cos(GRID), np.sin(X))
    watched = observer.watch(0, [observer.enter(*each) for each in zip(range(3), args, (*tangents, None), strict=True)])
    values, slopes = jax.jvp(lambda *active: program(*active, args[2]), args[:2], tangents)
    assert len(values) == len(watched) == 15
    for mine, value, slope in zip(watched, values, slopes, strict=True):
        np.testing.assert_allclose(mine.value, value, rtol=1e-12)
        assert mine.value.dtype == value.dtype
        assert not mine.origins
        assert not mine.slopes
        if mine.tangent is None:
            assert slope.dtype == jax.dtypes.float0 or not slope.any()
        else:
            np.testing.assert_allclose(mine.tangent, slope, rtol=1e-12)
    assert observer.steep is None
    assert (observer.unwatched is None) == (most > 1000)


def test_an_engine_needs_the_function() -> None:
    assert Engine().diagnose(Task(Kernel("0" * 64, Kind.VALUE)), X) == Missing()
