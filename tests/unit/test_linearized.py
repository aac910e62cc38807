"""Products with a derivative at a point that stays: equal to those that know nothing of the point, without computing the function again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.handmade import LAYER, REVERSE_ONLY, VECTOR, X, arrays, fault, graph, node, single, task

from jacloom_graph.errors import Reason
from jacloom_graph.types import Function, Graph, Type
from jacloom_worker import engine as engine_module
from jacloom_worker import infer, linearized
from jacloom_worker.bounded import Bounded
from jacloom_worker.engine import Engine
from jacloom_worker.kernels import Subject
from jacloom_worker.linearized import Linearizer
from jacloom_worker.modes import equations
from jacloom_worker.protocol import Done, Kernel, Kind, Task
from jacloom_worker.splitting import Split, split

pytestmark = pytest.mark.usefixtures("worker_jax")

N = 5
KINDS = (Kind.JVP, Kind.VJP, Kind.HVP)
SCAN = graph(
    Function("entry", (Type("float64", (N,)),), (node("scan", 0, function=1, length=30, num_carry=1), node("reduce_sum", 1, axes=(0,))), (2,)),
    Function("body", (Type("float64", (N,)),), (node("sin", 0),), (1,)),
)
"""The sum of what thirty sines make of each number."""
POINTS = np.linspace(-1, 1, 4 * N).reshape(4, N)
"""Four of them."""


def subject_of(function: Callable[..., Sequence[Any]], *leaves: Any, constants: tuple[np.ndarray, ...] = ()) -> Subject:
    inputs = tuple(infer.type_of(jnp.asarray(leaf)) for leaf in leaves)
    apply: Any = (lambda constants, leaves: function(*constants, *leaves)) if constants else (lambda _, leaves: function(*leaves))
    placed = tuple(map(jax.device_put, constants))
    return Subject(apply, inputs, infer.output_types(apply, inputs, placed), placed)


def names(halves: Split) -> set[str]:
    """Returns the operations of the program that seeds go through."""
    return {eqn.primitive.name for eqn in equations(halves.seeds.jaxpr, set())}


def iterated(x: jax.Array) -> list[jax.Array]:
    return [jax.lax.scan(lambda y, _: (jnp.sin(y) * 0.9 + jnp.exp(-y), None), x, None, length=7)[0]]


def kernel_of(kind: Kind, **options: Any) -> Kernel:
    return Kernel("f" * 64, kind, **({"wrt": (0,), "outputs": (0,)} | options))


def product(source: Graph, kind: Kind, point: str, **options: Any) -> Task:
    return replace(task(source, kind, **options), point=point, linearize=True)


def seed(kind: Kind) -> np.ndarray:
    return np.array(2.0) if kind is Kind.VJP else np.arange(1.0, N + 1)


def kept(here: Engine) -> Bounded[tuple[Kernel, str], list[jax.Array]]:
    return here._linearizer._kept


class TestSplit:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_function_is_no_part_of_a_product(self, kind: Kind) -> None:
        function = iterated if kind is not Kind.HVP else lambda x: [iterated(x)[0].sum()]
        halves = split(subject_of(function, X), kernel_of(kind))
        assert names(halves).isdisjoint({"sin", "cos", "exp"})
        assert "scan" in names(halves)
        assert {"sin", "exp"} <= {eqn.primitive.name for eqn in equations(halves.point.jaxpr, set())}
        assert halves.pays

    def test_constants_and_leaves_go_on_and_are_not_kept(self) -> None:
        weights = np.linspace(-1, 1, 12).reshape(3, 4)
        subject = subject_of(lambda w, x, y: [jnp.tanh(w @ x) * y], X, X[:3], constants=(weights,))
        forward = split(subject, kernel_of(Kind.JVP, wrt=(1, 0)))
        assert forward.forwarded == (0, 2)  # the weights and y, which the derivative of a product needs; x it does not
        assert [aval.shape for aval in forward.kept] == [(3,)]

    def test_what_is_easily_had_is_not_kept(self) -> None:
        halves = split(subject_of(lambda x: [jnp.tanh(x) * x[::-1]], X), kernel_of(Kind.JVP))
        assert [aval.shape for aval in halves.kept] == [(4,)]  # tanh(x); neither 1 - tanh(x) nor the reversed x
        moves = split(subject_of(lambda x: [x[1:] * x[:-1]], X), kernel_of(Kind.JVP))
        assert (moves.kept, moves.forwarded) == ((), (0,))
        assert not moves.pays

    def test_equal_arrays_are_kept_once(self) -> None:
        def function(x: jax.Array, y: jax.Array) -> list[jax.Array]:
            factor = jnp.exp(x)
            return [factor * y, factor @ y]

        halves = split(subject_of(function, X, X), kernel_of(Kind.JVP, wrt=(1,), outputs=(0, 1)))
        assert (len(halves.kept), halves.nbytes) == (1, X.nbytes)

    def test_a_loop_of_unknown_length_does_not_pay(self) -> None:
        def function(x: jax.Array) -> list[jax.Array]:
            return [jax.lax.while_loop(lambda y: jnp.max(y) < 100, lambda y: y * jnp.exp(y), x)]

        assert not split(subject_of(function, X + 2), kernel_of(Kind.JVP)).pays

    def test_a_random_number_that_is_tried_for_until_it_fits_is_kept(self) -> None:
        halves = split(subject_of(lambda x, key: [jax.random.gamma(key, 2.0, (4,)) * x], X, jax.random.key(4)), kernel_of(Kind.JVP))
        assert "random_gamma" not in names(halves)
        assert [aval.shape for aval in halves.kept] == [(4,)]
        assert halves.pays

    def test_keys_and_integers_are_leaves(self) -> None:
        def function(x: jax.Array, count: jax.Array, key: jax.Array) -> list[jax.Array]:
            step = lambda carry, _: ((jnp.sin(carry[0]) * jax.random.normal(carry[1], (4,)), jax.random.split(carry[1])[0]), None)  # noqa: E731
            return [jax.lax.scan(step, (x * count, key), None, length=3)[0][0]]

        halves = split(subject_of(function, X, np.int32(3), jax.random.key(4)), kernel_of(Kind.JVP))
        assert names(halves).isdisjoint({"random_bits", "threefry2x32", "sin", "cos"})
        raw = np.asarray(jax.random.key_data(jax.random.key(4)))
        _, expected = jax.jvp(lambda x: function(x, jnp.int32(3), jax.random.key(4))[0], (X,), (X[::-1],))
        given = [[X, np.int32(3), raw][number] for number in halves.forwarded]
        computed = jax.jit(jax.extend.core.jaxpr_as_fun(halves.point))(X, np.int32(3), raw)
        (tangent,) = halves.batched(0)(*given, *computed, X[::-1])
        np.testing.assert_allclose(tangent, expected, rtol=1e-13)


class TestEngine:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("width", [0, 3])
    def test_products_are_those_of_a_kernel_that_knows_no_point(self, kind: Kind, width: int) -> None:
        here, options = Engine(), {"values": (0,), "width": width, "count": min(width, 2)}
        seeds = np.stack([seed(kind), -3 * seed(kind)]) if width else seed(kind)
        for name, x in zip("abab", [POINTS[0], POINTS[1]] * 2, strict=True):
            found = arrays(here.run(product(SCAN, kind, name, **options), x, seeds))
            expected = arrays(Engine().run(task(SCAN, kind, **options), x, seeds))
            assert [(array.dtype, array.shape) for array in found] == [(array.dtype, array.shape) for array in expected]
            for mine, theirs in zip(found, expected, strict=True):
                np.testing.assert_allclose(mine, theirs, rtol=1e-13)
        assert len(kept(here)) == 2

    def test_a_point_is_computed_once_for_all_widths(self) -> None:
        here = Engine()
        first = arrays(here.run(product(SCAN, Kind.JVP, "point"), POINTS[0], seed(Kind.JVP)))
        # No leaf goes on into the product: with other leaves under the same name it can only be that of the first.
        again = arrays(here.run(product(SCAN, Kind.JVP, "point"), POINTS[1], seed(Kind.JVP)))
        batch = arrays(here.run(product(SCAN, Kind.JVP, "point", width=2, count=1), POINTS[1], seed(Kind.JVP)[None]))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_allclose(first, np.concatenate(batch), rtol=1e-14)
        assert len(kept(here)) == 1

    def test_other_seeds_at_a_point_that_lies_on_a_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # where arguments are kept, too
        here, cubes = Engine(), single((VECTOR,), (node("integer_pow", 0, y=3),), (1,))
        for v in (X, -2 * X):
            (found,) = arrays(here.run(product(cubes, Kind.JVP, "a"), X, v))
            np.testing.assert_allclose(found, 3 * X**2 * v)

    def test_an_unnamed_point_is_not_kept(self) -> None:
        here = Engine()
        first, second = (arrays(here.run(product(SCAN, Kind.JVP, ""), x, seed(Kind.JVP)))[0] for x in POINTS[:2])
        assert first != second
        assert len(kept(here)) == 0

    def test_points_used_longest_ago_leave_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(linearized, "ALL_BYTES", 2 * 30 * 8 * N)
        here = Engine()
        for name, x in zip("aba", POINTS[[0, 1, 0]], strict=True):
            here.run(product(SCAN, Kind.JVP, name), x, seed(Kind.JVP))
        here.run(product(SCAN, Kind.JVP, "c"), POINTS[2], seed(Kind.JVP))
        assert [key[1] for key in kept(here)] == ["a", "c"]
        assert kept(here).nbytes == 2 * 30 * 8 * N
        (found,) = arrays(here.run(product(SCAN, Kind.JVP, "b"), POINTS[1], seed(Kind.JVP)))
        (expected,) = arrays(here.run(task(SCAN, Kind.JVP), POINTS[1], seed(Kind.JVP)))
        np.testing.assert_allclose(found, expected, rtol=1e-13)

    def test_a_point_that_needs_too_much_room_is_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(linearized, "ONE_BYTES", 30 * 8 * N - 1)
        here = Engine()
        (found,) = arrays(here.run(product(SCAN, Kind.JVP, "a"), POINTS[0], seed(Kind.JVP)))
        (expected,) = arrays(here.run(task(SCAN, Kind.JVP), POINTS[0], seed(Kind.JVP)))
        np.testing.assert_array_equal(found, expected)
        assert len(kept(here)) == 0

    def test_a_cheap_function_is_computed_each_time(self) -> None:
        here, squares = Engine(), single((VECTOR,), (node("mul", 0, 0),), (1,))
        for x in (X, X + 1):  # under one name, and each is its own
            (found,) = arrays(here.run(product(squares, Kind.JVP, "a"), x, X))
            np.testing.assert_allclose(found, 2 * x * X)
        assert len(kept(here)) == 0

    def test_refusals_are_those_of_a_single_product(self) -> None:
        def refused(**flags: Any) -> Any:
            return fault(Engine().run(replace(task(REVERSE_ONLY, Kind.JVP), **flags), np.array(2.0), np.array(1.0)))

        plain, found = refused(), refused(point="a", linearize=True)
        assert found.reason is Reason.MODE_UNAVAILABLE
        assert (found.message, found.place) == (plain.message, plain.place)
        assert fault(Engine().run(product(SCAN, Kind.JVP, "a"), POINTS[0], X)).field == "seeds[0]"

    def test_functions_with_a_reverse_rule_only(self) -> None:
        here = Engine()
        found = [arrays(here.run(product(REVERSE_ONLY, kind, "a"), np.array(3.0), np.array(5.0)))[0] for kind in (Kind.VJP, Kind.HVP)]
        np.testing.assert_allclose(found, [15.0, 5.0])

    def test_points_that_nobody_asks_for_leave_after_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now, here = 1000.0, Engine()
        monkeypatch.setattr(time, "monotonic", lambda: now)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # where arguments are kept, too
        for name in "aba":
            here.run(product(SCAN, Kind.JVP, name), POINTS["ab".index(name)], seed(Kind.JVP))
            now += engine_module.IDLE_SECONDS / 2
        here.tidy()
        assert [key[1] for key in kept(here)] == list(here._points) == ["a"]
        now += engine_module.IDLE_SECONDS / 2
        here.tidy()
        assert len(kept(here)) == len(here._points) == 0

    def test_a_function_takes_its_points_along(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine_module, "_FUNCTIONS", 1)
        here = Engine()
        here.run(product(SCAN, Kind.JVP, "a"), POINTS[0], seed(Kind.JVP))
        assert len(kept(here)) == 1
        here.run(task(LAYER, Kind.VALUE, values=(0,)), X)
        assert len(kept(here)) == 0

    def test_kept_arrays_make_room_for_computations(self) -> None:
        here = Engine(memory_limit=16 * 30 * 8 * N)
        for name in "abc":
            here.run(product(SCAN, Kind.JVP, name), POINTS[0], seed(Kind.JVP))
        assert len(kept(here)) == 3
        here._linearizer.make_room(14 * 30 * 8 * N)
        assert [key[1] for key in kept(here)] == ["b", "c"]

    def test_what_is_compiled_where_there_is_no_room_for_a_point_counts_as_compiling_and_must_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise MemoryError("no room")

        def large(here: Engine, *args: Any) -> Any:
            return replace(plain(here, *args), nbytes=1 << 40)

        asked, (limited, free), plain = product(SCAN, Kind.JVP, "a"), (Engine(memory_limit=1 << 30), Engine()), Engine._plain
        for here in (limited, free):
            arrays(here.run(asked, POINTS[0], seed(Kind.JVP)))
        monkeypatch.setattr(Linearizer, "run", full)
        done = free.run(asked, POINTS[0], seed(Kind.JVP))
        assert isinstance(done, Done)
        assert done.compile_seconds > 0
        monkeypatch.setattr(Engine, "_plain", large)
        found = fault(limited.run(asked, POINTS[0], seed(Kind.JVP)))
        assert found.reason is Reason.OUT_OF_MEMORY
        assert "the kernel needs 1,099,511,627,776 bytes" in found.message

    def test_without_memory_for_it_a_point_is_not_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise MemoryError("no room")

        here = Engine()
        here.run(product(SCAN, Kind.VJP, "a"), POINTS[0], seed(Kind.VJP))
        with monkeypatch.context() as patch:
            patch.setattr(Linearizer, "run", full)
            (found,) = arrays(here.run(product(SCAN, Kind.JVP, "a"), POINTS[0], seed(Kind.JVP)))
        (expected,) = arrays(here.run(task(SCAN, Kind.JVP), POINTS[0], seed(Kind.JVP)))
        np.testing.assert_array_equal(found, expected)
        assert len(kept(here)) == 0
