"""Prices of programs whose operations can be counted by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacloom_graph.errors import Fault, Reason
from jacloom_worker.modes import live
from jacloom_worker.price import LOOP_GUESS, Tally, price

pytestmark = pytest.mark.usefixtures("worker_jax")

W = np.ones((3, 5))
X = np.ones(5)


def tally(function: Callable[..., Any], *args: Any, varying: Sequence[bool] | None = None) -> Tally:
    return price(live(jax.make_jaxpr(function)(*args)), [True] * len(args) if varying is None else varying)


@pytest.mark.parametrize(
    ("function", "args", "flops"),
    [
        (lambda x: x + x, (X,), 5),
        (lambda x: -x * 2, (X,), 10),
        (jnp.tanh, (X,), 5 * 40),
        (jnp.sum, (X,), 5),
        (lambda x: x[::-1].reshape(5, 1), (X,), 0),
        (lambda w, x: w @ x, (W, X), 2 * 3 * 5),
        (lambda w, x: w @ x, (W * 1j, X * 1j), 4 * 2 * 3 * 5),
        (lambda a: jnp.einsum("bij,bkj->bik", a, a), (np.ones((7, 3, 5)),), 7 * 2 * 3 * 3 * 5),
        (lambda x, k: lax.conv(x, k, (1, 1), "VALID"), (np.ones((2, 3, 8, 8)), np.ones((4, 3, 3, 3))), 2 * (2 * 4 * 6 * 6) * (3 * 3 * 3)),
        (jnp.fft.fft, (np.ones((3, 8), complex),), 5 * 24 * 3),
        (lambda a: lax.linalg.householder_product(a, a[:, 0]), (np.ones((2, 6, 4)),), 2 * 4 / 3 * 6 * 4 * 4),
        (lambda x: x.sort(), (np.ones((3, 8)),), 100 * 24 * 3),
        (lambda x: jax.jit(jnp.exp)(x), (X,), 5 * 40),
        (lambda x: jax.checkpoint(jnp.exp)(x), (X,), 5 * 40),
        (jnp.exp, (np.zeros((0, 2)),), 0),
        (lambda x: x * 2, (np.float64(1),), 1),
    ],
)
def test_operations(function: Callable[..., Any], args: tuple[Any, ...], flops: float) -> None:
    got = tally(function, *args)
    assert got.seed_flops == flops
    assert got.shared_flops == got.shared_bytes == 0


def test_dead_code_costs_nothing() -> None:
    assert tally(lambda x: (jnp.exp(x), x + 1)[1], X).seed_flops == 5


class TestLoops:
    def test_scan_multiplies_by_its_length(self) -> None:
        function = lambda x: lax.scan(lambda c, _: (jnp.sin(c), c * 2), x, None, length=7)  # noqa: E731
        assert tally(function, X).seed_flops == 7 * (150 + 1) * 5

    def test_while_is_guessed(self) -> None:
        function = lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: c + c, x)  # noqa: E731
        assert tally(function, X).seed_flops == LOOP_GUESS * (5 + 1)

    def test_a_branch_is_the_dearest_or_all_where_seeds_choose(self) -> None:
        function = lambda k, x: lax.cond(k, jnp.exp, lambda x: x + 1, x)  # noqa: E731
        assert tally(function, np.bool_(True), X, varying=[False, True]).seed_flops == 200
        assert tally(function, np.bool_(True), X).seed_flops >= 205

    def test_carries_vary_as_soon_as_one_step_makes_them(self) -> None:
        # The seed reaches `a` in the first step, `b` in the second, the output in the third; `c` never.
        def step(carry: Any, _: None) -> tuple[Any, Any]:
            a, b, c, s = carry
            return (s * 1.0, a * 1.0, c * 1.0, s), b * 1.0

        function = lambda s: lax.scan(step, (1.0, 1.0, 1.0, s), None, length=10)  # noqa: E731
        got = tally(function, np.float64(0), varying=[True])
        assert (got.seed_flops, got.shared_flops) == (30, 10)


class TestSeeds:
    def test_a_pass_repeats_only_what_depends_on_the_seed(self) -> None:
        function = lambda x: jnp.tanh(W @ x)  # noqa: E731
        got = tally(lambda x, v: jax.jvp(function, (x,), (v,))[1], X, X, varying=[False, True])
        assert got.shared_flops >= 30 + 3 * 40
        assert 30 <= got.seed_flops <= 30 + 3 * 4
        reverse = tally(lambda x, w: jax.vjp(function, x)[1](w)[0], X, np.ones(3), varying=[False, True])
        assert 30 <= reverse.seed_flops <= 30 + 3 * 4

    def test_what_is_shared_for_one_operation_alone_is_computed_within_it(self) -> None:
        got = tally(lambda y, v: -jnp.cos(y) * v, X, X, varying=[False, True])
        assert (got.seed_flops, got.shared_flops) == (5 * (150 + 1 + 1), 0)

    def test_what_is_used_elsewhere_or_not_by_elements_is_computed_once(self) -> None:
        twice = tally(lambda y, v: [(c := jnp.cos(y)) * v, c], X, X, varying=[False, True])
        assert (twice.seed_flops, twice.shared_flops) == (5, 5 * 150)
        product = tally(lambda y, v: W @ (jnp.cos(y) * y) * v, X, W[:, 0], varying=[False, True])
        assert (product.seed_flops, product.shared_flops) == (3, 5 * 151 + 30)

    @pytest.mark.parametrize(
        ("function", "weight"), [(lambda y: jax.random.gamma(jax.random.key(0), y), 16_000), (lambda y: lax.igamma(jnp.ones(5), y), 45_000)]
    )
    def test_a_loop_over_elements_is_no_part_of_what_reads_it(self, function: Callable[..., Any], weight: float) -> None:
        got = tally(lambda y, v: function(y) * v, X, X, varying=[False, True])
        assert got.seed_flops == 5
        assert 5 * weight <= got.shared_flops <= 5 * weight + 1000

    def test_a_factorization_is_shared_and_its_solves_are_not(self) -> None:
        a = np.eye(20)
        got = tally(lambda b, v: jax.jvp(lambda b: jnp.linalg.solve(a, b), (b,), (v,))[1], np.ones(20), np.ones(20), varying=[False, True])
        assert 2 * 400 <= got.seed_flops <= 2 * 400 + 500
        assert got.shared_flops >= 2 / 3 * 20**3

    def test_operands_that_seeds_share_are_read_once(self) -> None:
        got = tally(lambda w, v: w @ v, W, X, varying=[False, True])
        assert (got.shared_bytes, got.seed_bytes) == (8 * 15, 8 * (5 + 3))

    def test_peak_counts_what_is_alive_for_one_seed(self) -> None:
        big, small = 8 * 1000, 8
        got = tally(lambda x, v: jnp.sum(jnp.sin(v) * x), np.ones(1000), np.ones(1000), varying=[False, True])
        assert got.seed_peak == 2 * big
        kept = tally(lambda v: (jnp.sin(v), jnp.cos(v), v), np.ones(1000))
        assert kept.seed_peak == 3 * big
        looped = tally(lambda v: lax.scan(lambda c, _: (jnp.sum(jnp.broadcast_to(c, (1000,))), None), v, None, length=9)[0], np.float64(1))
        assert big <= looped.seed_peak <= big + 4 * small


def test_a_jvp_through_a_reverse_rule_is_refused_where_it_is_used() -> None:
    @jax.custom_vjp
    def triple(x: jax.Array) -> jax.Array:
        return 3 * x

    triple.defvjp(lambda x: (3 * x, None), lambda _, cotangent: (3 * cotangent,))
    jvp = lambda function: jax.make_jaxpr(lambda x, v: jax.jvp(function, (x,), (v,)))(X, X)  # noqa: E731
    with pytest.raises(Fault, match="reverse rule only") as caught:
        live(jvp(lambda x: lax.scan(lambda c, _: (triple(c), None), x, None, length=2)[0]))
    assert caught.value.reason is Reason.MODE_UNAVAILABLE
    live(jvp(lambda x: (triple(x), jnp.sin(x))[1]))


def test_what_going_back_through_a_loop_needs_of_each_step_is_shared() -> None:
    def pulled(x: Any, cotangent: Any) -> Any:
        return jax.vjp(lambda x: lax.scan(lambda carry, _: (jnp.sin(carry), None), x, None, length=1000)[0], x)[1](cotangent)

    def pushed(x: Any, tangent: Any) -> Any:
        return jax.jvp(lambda x: lax.scan(lambda carry, _: (jnp.sin(carry), None), x, None, length=1000)[0], (x,), (tangent,))[1]

    assert tally(pulled, X, X, varying=[False, True]).cost.shared_peak == 1000 * X.nbytes
    assert tally(pushed, X, X, varying=[False, True]).cost.shared_peak <= 3 * X.nbytes
