"""Patterns read off programs: matrices written out, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jacloom_worker import pattern

pytestmark = pytest.mark.usefixtures("worker_jax")


def forward(fun: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    """Returns the pattern of a Jacobian, from its products with columns: a row a string, ``x`` where an entry can differ from zero."""
    points = [jnp.zeros(shape) for shape in shapes]

    def product(points: list[jax.Array], tangents: list[jax.Array]) -> Any:
        return jax.jvp(lambda *args: jax.tree.leaves(fun(*args)), points, tangents)[1]

    closed = jax.make_jaxpr(product)(points, points)
    return drawn(pattern.detect(closed, range(len(shapes), 2 * len(shapes)), [None] * (2 * len(shapes))))


def reverse(fun: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    """Returns the same from products with rows."""
    points = [jnp.zeros(shape) for shape in shapes]
    outs = jax.eval_shape(lambda *args: jax.tree.leaves(fun(*args)), *points)

    def product(points: list[jax.Array], cotangents: list[jax.Array]) -> Any:
        return jax.vjp(lambda *args: jax.tree.leaves(fun(*args)), *points)[1](cotangents)

    closed = jax.make_jaxpr(product)(points, [jnp.zeros(out.shape) for out in outs])
    return drawn(pattern.detect(closed, range(len(shapes), len(closed.in_avals)), [None] * len(closed.in_avals)).T)


def drawn(matrix: Any) -> list[str]:
    return ["".join(".x"[entry] for entry in row) for row in matrix.toarray().astype(int)]


def both(fun: Callable[..., Any], *shapes: tuple[int, ...]) -> list[str]:
    """Returns the pattern that both directions agree on."""
    found = forward(fun, *shapes)
    assert reverse(fun, *shapes) == found
    return found


def test_elementwise_and_slices() -> None:
    assert both(lambda x: x[:-2] * jnp.sin(x[1:-1]) + x[2:] ** 2, (5,)) == ["xxx..", ".xxx.", "..xxx"]


def test_what_has_no_derivative_has_no_entry() -> None:
    assert both(lambda x: jnp.floor(x) + jnp.where(x > 0, 1.0, 2.0) * lax.stop_gradient(x), (2,)) == ["..", ".."]


def test_several_arguments_and_outputs_one_after_the_other() -> None:
    assert both(lambda a, b: (a * b[0], b.sum()), (2,), (3,)) == ["x.x..", ".xx..", "..xxx"]


def test_known_zeros_of_factors() -> None:
    assert both(lambda x: x * jnp.array([0.0, 2.0, 0.0]), (3,)) == ["...", ".x.", "..."]


def test_products_with_a_known_matrix_have_its_pattern() -> None:
    matrix = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 3.0], [0.0, 1.0, 0.0]])
    assert both(lambda x: matrix @ jnp.tanh(x), (3,)) == ["x..", "...", "x.x", ".x."]


def test_products_of_batches() -> None:
    assert both(lambda x: jnp.einsum("bij,bj->bi", jnp.ones((2, 1, 2)), x), (2, 2)) == ["xx..", "..xx"]


def test_a_product_of_two_that_depend() -> None:
    assert both(lambda x: x @ x, (2, 2)) == ["xxx.", "xx.x", "x.xx", ".xxx"]


def test_reshape_transpose_reverse_pad_concatenate() -> None:
    assert both(lambda x: x.reshape(3, 2).T.ravel()[::-1], (6,)) == [".....x", "...x..", ".x....", "....x.", "..x...", "x....."]
    assert forward(lambda x: lax.pad(x, jnp.sum(x[:1]), [(1, -1, 1)]), (3,)) == ["x..", "x..", "x..", ".x.", "x.."]
    assert both(lambda x: jnp.concatenate([x[1:], x[:1]]), (3,)) == [".x.", "..x", "x.."]


def test_reductions_and_running_totals() -> None:
    assert both(lambda x: x.sum(0), (2, 3)) == ["x..x..", ".x..x.", "..x..x"]
    assert both(lambda x: jnp.prod(x, 1), (2, 3)) == ["xxx...", "...xxx"]
    assert both(jnp.cumsum, (3,)) == ["x..", "xx.", "xxx"]
    assert both(lambda x: lax.cumsum(x, reverse=True), (3,)) == ["xxx", ".xx", "..x"]


@pytest.mark.parametrize("size", [15, 16, 17, 40, 1100])
def test_running_totals_of_any_length(size: int) -> None:
    assert both(jnp.cumsum, (size,)) == ["x" * (row + 1) + "." * (size - row - 1) for row in range(size)]
    backwards = lambda x: lax.cumsum(x.reshape(-1, 2), reverse=True)[:, 1]  # noqa: E731
    assert both(backwards, (2 * size,)) == [".." * row + ".x" * (size - row) for row in range(size)]


def test_sort_and_transform_are_dense_along_their_axis_only() -> None:
    assert both(lambda x: jnp.sort(x, axis=1), (2, 2)) == ["xx..", "xx..", "..xx", "..xx"]
    assert both(lambda x: jnp.abs(jnp.fft.fft(x)), (2, 2)) == ["xx..", "xx..", "..xx", "..xx"]


def test_gather_with_known_bounded_and_unknown_indices() -> None:
    assert both(lambda x: x[jnp.array([2, 0])], (3,)) == ["..x", "x.."]
    assert forward(lambda x: x[jnp.argmax(x[:2])], (4,)) == ["xx.."]
    assert forward(lambda x, i: x[i.astype(int)], (3,), ()) == ["xxx."]
    assert both(lambda x: jnp.take_along_axis(x, jnp.argsort(x, axis=1), axis=1), (2, 2)) == ["xx..", "xx..", "..xx", "..xx"]


def test_gather_beyond_the_edge_reads_nothing_or_the_last() -> None:
    assert both(lambda x: x.at[jnp.array([1, 7])].get(mode="fill", fill_value=0.0), (3,)) == [".x.", "..."]
    assert both(lambda x: x.at[jnp.array([1, 7])].get(mode="clip"), (3,)) == [".x.", "..x"]


def test_scatter_adds_or_overwrites() -> None:
    assert both(lambda x, y: x.at[jnp.array([0, 2])].add(y), (3,), (2,)) == ["x..x.", ".x...", "..x.x"]
    assert both(lambda x, y: x.at[jnp.array([0, 2])].set(y), (3,), (2,)) == ["...x.", ".x...", "....x"]
    assert forward(lambda x, y: x.at[jnp.argmax(x)].set(y), (3,), ()) == ["x..x", ".x.x", "..xx"]


def test_dynamic_slices_of_bounded_start() -> None:
    assert forward(lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:2]),), (2,)), (5,)) == ["xx...", ".xx.."]
    assert forward(lambda x, y: lax.dynamic_update_slice(x, y, (jnp.argmax(x[:2]),)), (4,), (2,)) == ["x...x.", ".x..xx", "..x..x", "...x.."]


def test_an_index_that_may_be_anywhere_in_a_large_array_reads_and_writes_all_along_its_axis() -> None:
    assert forward(lambda x, i: x[i.astype(int)], (100, 2), ()) == ["x." * 100 + ".", ".x" * 100 + "."]
    found = forward(lambda x, y, i: x.at[i.astype(int)].set(y), (100,), (), ())
    assert found == ["." * row + "x" + "." * (99 - row) + "x." for row in range(100)]


def test_choices_known_and_unknown() -> None:
    assert both(lambda x: jnp.where(jnp.arange(3) < 1, x, x[::-1]), (3,)) == ["x..", ".x.", "x.."]
    assert both(lambda x: jnp.where(x > 0, x, x[::-1]), (3,)) == ["x.x", ".x.", "x.x"]


def test_branches_known_and_unknown() -> None:
    branches = [lambda y: y[:1], lambda y: y[1:2], lambda y: y[2:]]
    assert forward(lambda x: lax.switch(jnp.argmax(x[:2]), branches, x), (3,)) == ["xx."]
    assert forward(lambda x: lax.switch(x[0].astype(int), branches, x), (3,)) == ["xxx"]


def test_convolutions_leave_out_padding_and_zeros_of_the_kernel() -> None:
    kernel = jnp.array([[[1.0, 0.0, 1.0]]])
    assert both(lambda x: lax.conv_general_dilated(x[None, None], kernel, (1,), "SAME"), (4,)) == [".x..", "x.x.", ".x.x", "..x."]
    assert both(lambda k: lax.conv_general_dilated(jnp.ones((1, 1, 3)), k, (1,), "SAME"), (1, 1, 3)) == [".xx", "xxx", "xx."]


def test_grouped_convolutions_mix_their_groups_only() -> None:
    def depthwise(x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x[None], jnp.ones((2, 1, 2)), (1,), "VALID", feature_group_count=2)

    assert both(depthwise, (2, 3)) == ["xx....", ".xx...", "...xx.", "....xx"]


def test_windows() -> None:
    assert both(lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID"), (4,)) == ["xx..", "..xx"]
    assert both(lambda x: lax.reduce_window(x, 0.0, lax.add, (2,), (1,), "VALID"), (3,)) == ["xx.", ".xx"]


def test_a_scan_is_composed_step_by_step() -> None:
    def heat(x: jax.Array) -> jax.Array:
        return lax.scan(lambda u, _: (u[jnp.array([1, 2, 3, 4, 4])] + u, None), x, None, length=2)[0]

    assert both(heat, (5,)) == ["xxx..", ".xxx.", "..xxx", "...xx", "....x"]


def test_what_a_scan_puts_out_depends_on_what_came_before() -> None:
    assert both(lambda x: lax.scan(lambda c, a: (c + a, c * a), 0.0, x)[1], (3,)) == ["x..", "xx.", "xxx"]
    assert both(lambda x: lax.scan(lambda c, a: (c + a, c * a), 0.0, x, reverse=True)[1], (3,)) == ["xxx", ".xx", "..x"]


def test_a_scan_of_no_steps() -> None:
    assert both(lambda x: lax.scan(lambda c, _: (c * 2.0, None), x, None, length=0)[0], (2,)) == ["x.", ".x"]


def test_a_loop_of_unknown_length_brings_together_what_any_number_of_steps_does() -> None:
    def shifting(x: jax.Array) -> jax.Array:
        return lax.while_loop(lambda state: state[0] < state[1][0], lambda state: (state[0] + 1, jnp.append(state[1][1:], 0.0)), (0, x))[1]

    assert forward(shifting, (3,)) == ["xxx", ".xx", "..x"]


def test_a_solve_is_dense_within_each_block() -> None:
    matrix = jnp.array([[2.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])

    def solve(b: jax.Array) -> jax.Array:
        return lax.custom_linear_solve(lambda v: matrix @ v, b, lambda matvec, b: jnp.linalg.inv(matrix) @ b, lambda matvec, b: b)

    assert forward(solve, (3,)) == ["xx.", "xx.", "..x"]


def test_factorizations_are_dense_within_each_matrix_of_a_batch() -> None:
    found = forward(lambda x: jnp.linalg.cholesky(x + 3 * jnp.eye(2)), (2, 2, 2))
    assert all(row[4:] == "...." for row in found[:4])
    assert all(row[:4] == "...." for row in found[4:])


def test_custom_rules_decide() -> None:
    @jax.custom_jvp
    def straight_through(x: jax.Array) -> jax.Array:
        return jnp.round(x)

    straight_through.defjvp(lambda primals, tangents: (jnp.round(primals[0]), tangents[0]))
    assert both(straight_through, (2,)) == ["x.", ".x"]

    @jax.custom_vjp
    def shifted(x: jax.Array) -> jax.Array:
        return x

    shifted.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.roll(cotangent, 1),))
    assert reverse(shifted, (3,)) == [".x.", "..x", "x.."]


def test_an_unknown_operation_mixes_its_own_operands_only() -> None:
    def mixed(x: jax.Array) -> jax.Array:
        return jnp.concatenate([lax.ragged_dot(x[:4].reshape(2, 2), jnp.ones((1, 2, 2)), jnp.array([2])).ravel(), x[4:]])

    assert forward(mixed, (5,)) == ["xxxx."] * 4 + ["....x"]


def test_scalars_and_empty_arrays() -> None:
    assert both(lambda x: x * 2.0, ()) == ["x"]
    assert both(lambda x: (x, jnp.sum(x)), (0,)) == [""]
    assert forward(lambda x: x[:0], (2,)) == []


def test_large_patterns_are_found_without_a_dense_matrix() -> None:
    size = 200_000

    def ring(x: jax.Array) -> jax.Array:
        return jnp.roll(x, 1) - 2 * x + jnp.roll(x, -1) * x

    closed = jax.make_jaxpr(lambda x, t: jax.jvp(ring, (x,), (t,))[1])(jnp.zeros(size), jnp.zeros(size))
    found = pattern.detect(closed, [1], [None, None])
    assert found.nnz == 3 * size
    assert found[[0]].indices.tolist() == [0, 1, size - 1]


def test_a_pattern_that_would_not_fit_is_refused() -> None:
    closed = jax.make_jaxpr(lambda x, t: jax.jvp(jnp.cumsum, (x,), (t,))[1])(jnp.zeros(3000), jnp.zeros(3000))
    with pytest.raises(pattern.TooDense):
        pattern.detect(closed, [1], [None, None], most=100_000)
