"""Loops of unknown length in reverse. JAX has no such derivative, so the reference is its forward mode, or a scan of known length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import assert_close
from conformance.roundtrip import flat, through_bytes
from jax import lax

from jacloom_worker import checkpointed
from jacloom_worker.raising import Program

X = np.array([0.5, 1.5, 3.0])
W = np.array([[0.3, -0.2, 0.1], [0.0, 0.4, -0.3], [0.2, 0.1, 0.5]])
LARGE = np.random.default_rng(0).normal(size=(90, 120)) / 90  # above 64 KiB, so an argument of what is compiled


def root(a: Any) -> Any:
    """Newton's iteration for the cube root of every entry: the number of steps depends on the entries."""
    step = lambda c: (c[0] - (c[0] ** 3 - c[1]) / (3 * c[0] ** 2), c[1])  # noqa: E731
    return lax.while_loop(lambda c: jnp.any(jnp.abs(c[0] ** 3 - c[1]) > 1e-9 * c[1]), step, (jnp.ones_like(a), a))[0]


def growing(x: Any, steps: Any) -> Any:
    return lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, jnp.tanh(W @ c[1]) + 0.1 * x), (0, x))[1]


def sampled(x: Any) -> Any:
    """Draws until the sum is large, with a random key among the carries."""

    def step(carry: Any) -> Any:
        key, total = carry
        key, used = jax.random.split(key)
        return key, total * (1 + jax.random.uniform(used, (3,)))

    return lax.while_loop(lambda c: jnp.sum(c[1]) < 20, step, (jax.random.key(1), x))[1]


KEY = jax.random.key(2)  # an array of the graph, where a key that is made inside is an operation


def from_outside(x: Any) -> Any:
    step = lambda c: (jax.random.fold_in(c[0], 1), c[1] * (1 + jax.random.uniform(c[0])))  # noqa: E731
    return lax.while_loop(lambda c: jnp.sum(c[1]) < 20, step, (KEY, x))[1]


def shared(x: Any) -> Any:
    """A loop within a function that is called twice and has a large constant."""

    @jax.jit
    def part(x: Any) -> Any:
        wide = jnp.sin(LARGE @ jnp.tile(x, 40))
        for _ in range(6):
            wide = jnp.cos(wide) * wide
        return x + lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c * 1.3 + jnp.sum(wide**2) + jnp.sum(LARGE[0]), x)

    return part(part(x))


DYNAMIC: dict[str, Callable[..., Any]] = {
    "newton": root,
    "newton, one entry": lambda x: root(x[1]),
    "no step at all": lambda x: lax.while_loop(lambda c: jnp.sum(c) < -1, jnp.sin, x * 2),
    "a constant that is differentiated": lambda x: lax.while_loop(lambda c: jnp.sum(c) < 50, lambda c: c * x[1] + x[2], x[:2]),
    "carries that stay and integers": lambda x: lax.while_loop(
        lambda c: c[0] < x[2] * 2, lambda c: (c[0] + 1, c[1], c[2] * 1.1 + c[1]), (0, x[0], x[1])
    )[1:],
    "loop in loop": lambda x: lax.while_loop(lambda c: jnp.sum(c) < 50, lambda c: c * 1.1 + 0.1 * root(c[0]), x),
    "loop in scan": lambda x: lax.scan(lambda c, a: (root(c + a), c), x[0], x),
    "loop in a branch": lambda x: lax.cond(x[0] > 0, root, jnp.sin, x),
    "scan in loop": lambda x: lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: lax.scan(lambda d, b: (d * b + 1, d), c[0], x)[1] + c, x),
    "random key": sampled,
    "random key from outside": from_outside,
    "relu": lambda x: lax.while_loop(lambda c: jnp.sum(c) < 50, lambda c: jax.nn.relu(c - 1) + c, x),
    "shared, with a large constant": shared,
    "batch": lambda x: jax.vmap(root)(jnp.stack([x, 40 * x])),
    "weak start": lambda x: lax.while_loop(lambda c: c < 9, lambda c: c * x[1], 1.0),
    "complex": lambda x: jnp.real(lax.while_loop(lambda c: jnp.abs(c) < 9, lambda c: c * (1.2 + x[0] * 1j), x[1] + 0j)),
}


def reversible(program: Program) -> Callable[..., list[Any]]:
    return lambda *leaves: program.apply(program.large, leaves, reverse=True)


@pytest.fixture(autouse=True)
def wide() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


class TestDynamic:
    @pytest.mark.parametrize("name", DYNAMIC)
    def test_rows_are_those_of_forward_mode(self, name: str) -> None:
        program, _ = through_bytes(DYNAMIC[name], [X])
        assert_close(jax.jit(jax.jacrev(reversible(program)))(X), jax.jit(jax.jacfwd(flat(DYNAMIC[name], [X])))(X), 1e-9)

    def test_reverse_over_reverse_is_refused(self) -> None:
        program, _ = through_bytes(root, [X])
        with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
            jax.jit(jax.jacrev(jax.jacrev(lambda x: reversible(program)(x)[0])))(X)

    @pytest.mark.parametrize("name", ["newton", "loop in loop", "batch", "a constant that is differentiated"])
    def test_second_derivatives(self, name: str) -> None:
        program, _ = through_bytes(DYNAMIC[name], [X])
        assert_close(jax.jit(jax.jacfwd(jax.jacrev(reversible(program))))(X), jax.jit(jax.jacfwd(jax.jacfwd(flat(DYNAMIC[name], [X]))))(X), 1e-8)

    @pytest.mark.parametrize("steps", [0, 1, 2, 7, 8, 9, 40, 300])
    def test_more_steps_than_checkpoints(self, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpointed, "_MOST_SLOTS", 8)
        program, _ = through_bytes(growing, [X, steps])
        ours = jax.jit(jax.jacrev(reversible(program)))(X, np.int64(steps))
        step = lambda c, x: jnp.tanh(W @ c) + 0.1 * x  # noqa: E731
        expected = jax.jit(jax.jacrev(lambda x: lax.scan(lambda c, _: (step(c, x), None), x, length=steps)[0]))(X)
        assert_close(ours, expected, 1e-13)

    def test_loops_of_a_batch_that_end_where_the_step_has_no_derivative(self) -> None:
        # Both end at 0, where the root's derivative is infinite; the first is then stepped on along with the second.
        # Another is at 0 from the start. The constant is under the root, so that what comes of it would reach the constant's cotangent.
        def falling(x: Any, a: Any) -> Any:
            return lax.while_loop(lambda c: c[0] > 0, lambda c: (jnp.maximum(jnp.sqrt(a * c[0]) - 1, 0), c[1] + c[0]), (x, x))[1]

        batched = lambda a: jnp.sum(jax.vmap(falling, (0, None))(np.array([0.5, 0.0, 9.0]), a))  # noqa: E731
        program, _ = through_bytes(batched, [1.1])
        (ours,) = (jax.grad(lambda a: reversible(program)(a)[0])(1.1),)
        assert np.isfinite(ours)
        assert_close(ours, jax.jacfwd(lambda a: falling(0.5, a) + falling(9.0, a))(1.1), 1e-12)

    def test_memory_does_not_grow_with_the_steps(self) -> None:
        wide = np.linspace(0.0, 1.0, 50_000)  # 400 KB, of which 10 fit the checkpoints
        program, _ = through_bytes(lambda x, n: lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, jnp.sin(c[1])), (0, x))[1], [wide, 1])
        compiled = jax.jit(lambda x, n: jax.vjp(lambda x: reversible(program)(x, n)[0], x)[1](jnp.ones_like(x))).lower(wide, np.int64(1)).compile()
        # One program for any number of steps, and it holds the checkpoints and little more.
        assert compiled.memory_analysis().temp_size_in_bytes < 2 * checkpointed.CHECKPOINT_BYTES
        (cotangent,) = compiled(wide, np.int64(60))
        expected = jax.jit(jax.grad(lambda x: jnp.sum(lax.fori_loop(0, 60, lambda _, c: jnp.sin(c), x))))(wide)
        assert_close(cotangent, expected, 1e-12)

    def test_only_what_is_differentiated_gets_a_cotangent(self) -> None:
        program, _ = through_bytes(lambda x, w: lax.while_loop(lambda c: jnp.sum(c) < 50, lambda c: w @ c + 1.5 * c, x), [X, abs(W)])
        # Rows with respect to the matrix, and their sums over the steps, are three by three by three.
        for argument, there in ((0, False), (1, True)):
            rows = jax.make_jaxpr(jax.jacrev(reversible(program), argument))(X, abs(W))
            assert ("f64[3,3,3]" in str(rows)) is there


def implicit(x: Any) -> Any:
    """A root with a rule for its tangent, which iterates for the value."""

    @jax.custom_jvp
    def solved(x: Any) -> Any:
        return root(x) * 2

    @solved.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        y = root(primals[0])
        return 2 * y, 2 * tangents[0] / (3 * y**2)

    return solved(x)


def backward(x: Any) -> Any:
    """A function whose reverse rule iterates, in its forward part and in its backward part."""

    @jax.custom_vjp
    def solved(x: Any) -> Any:
        return root(x) * 2

    def back(y: Any, cotangent: Any) -> Any:
        return (2 * cotangent / (3 * y**2) * lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c * 1.3 + y, y),)

    solved.defvjp(lambda x: (root(x) * 2, root(x)), back)
    return solved(x)


@pytest.mark.parametrize("function", [implicit, backward])
def test_second_derivatives_of_rules_that_loop(function: Callable[..., Any]) -> None:
    # The code of a rule is differentiated forward, however the function around it is.
    loss = lambda x: jnp.sum(function(x) ** 2)  # noqa: E731
    program, _ = through_bytes(loss, [X])
    ours = jax.jit(jax.jacfwd(jax.grad(lambda x: reversible(program)(x)[0])))(X)
    assert_close(ours, jax.jit(jax.jacfwd(jax.grad(loss)))(X), 1e-10)


class TestCounted:
    @pytest.mark.parametrize("steps", [0, 1, 7])
    def test_a_loop_that_counts_becomes_a_scan(self, steps: int) -> None:
        function = lambda x: lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, jnp.sin(c[1]) * x), (0, x))[1]  # noqa: E731
        program, _ = through_bytes(function, [X])
        text = str(jax.make_jaxpr(reversible(program))(X))
        assert f"length={steps}" in text
        assert "while" not in text
        assert_close(jax.jacrev(reversible(program))(X), jax.jacfwd(flat(function, [X]))(X), 1e-12)

    @pytest.mark.parametrize("start", [0.0, np.arange(70)])
    def test_what_is_not_counted_ahead_is_checkpointed(self, start: Any) -> None:
        # Compiled by itself, a sum of times might round otherwise and end elsewhere; and large arrays are not computed while tracing.
        function = lambda x: lax.while_loop(lambda c: jnp.max(c[0]) < 75, lambda c: (c[0] + 1, c[1] * x), (start, x))[1]  # noqa: E731
        program, _ = through_bytes(function, [X / 3])
        assert "while" in str(jax.make_jaxpr(reversible(program))(X / 3))
        assert_close(jax.jacrev(reversible(program))(X / 3), jax.jacfwd(flat(function, [X]))(X / 3), 1e-12)

    def test_only_the_states_are_kept(self) -> None:
        def deep(c: Any) -> Any:
            for _ in range(20):
                c = jnp.sin(c) * jnp.cos(c)
            return c

        wide = np.linspace(0.0, 1.0, 10_000)
        function = lambda x: jnp.sum(lax.while_loop(lambda c: c[0] < 100, lambda c: (c[0] + 1, deep(c[1])), (0, x))[1])  # noqa: E731
        program, _ = through_bytes(function, [wide])
        compiled = jax.jit(jax.grad(lambda x: reversible(program)(x)[0])).lower(wide).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 3 * 100 * wide.nbytes

    def test_a_loop_without_end_is_not_counted_to_it(self) -> None:
        program, _ = through_bytes(lambda x: lax.while_loop(lambda c: c[0] >= 0, lambda c: (c[0] * 1, c[1] * x), (0, x))[1], [X])
        assert "while" in str(jax.make_jaxpr(reversible(program))(X))

    def test_states_too_large_to_keep(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("jacloom_worker.whiles.SCAN_BYTES", 100)
        program, _ = through_bytes(lambda x: lax.while_loop(lambda c: c[0] < 7, lambda c: (c[0] + 1, c[1] * x), (0, x))[1], [X])
        assert "while" in str(jax.make_jaxpr(reversible(program))(X))
