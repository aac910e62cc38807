"""Functions of every kind of structure through the graph: values, columns and rows equal JAX's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import FORWARD, REVERSE, assert_close, assert_same
from conformance.roundtrip import through_bytes

from jacloom._trace import trace
from jacloom_graph.errors import Fault

X = np.array([0.0, 0.5, -1.0, 2.0])
MATRIX = np.random.default_rng(0).normal(size=(3, 4))
LARGE = np.random.default_rng(1).normal(size=(90, 120))  # above 64 KiB, so an argument of what is compiled


def kept_key(x: jax.Array) -> jax.Array:
    """Draws again in the backward pass, for which one branch keeps its key and the other has none to keep."""
    draw = jax.checkpoint(lambda x, key: jnp.sum(jnp.sin(x) * jax.random.normal(key) * x))
    key = jax.random.key(0)
    return jax.lax.cond(x[1] > 0, lambda x, key: draw(x, jax.random.fold_in(key, 1)), lambda x, key: jnp.sum(x) * 2, x, key)


def summed(x: jax.Array) -> jax.Array:
    """Goes round a loop in which an entry sees the others of its batch."""
    return jax.lax.fori_loop(0, 2, lambda _, c: c + 0.1 * jax.lax.psum(jnp.sin(c), ("i", "j")) - jax.lax.psum(c**2, "j"), x)


SMOOTH = {
    "tanh of a product": lambda x: jnp.tanh(MATRIX @ x),
    "large constant": lambda x: jnp.tanh(LARGE @ jnp.tile(x, 30)),
    "solve": lambda x: jnp.linalg.solve(jnp.eye(4) * 3 + jnp.outer(x, x), x),
    "cholesky": lambda x: jnp.linalg.cholesky(jnp.eye(4) * 9 + jnp.outer(x, x)),
    "svd": lambda x: jnp.linalg.svd(MATRIX * (1 + x), compute_uv=False),
    "eigh": lambda x: jnp.linalg.eigh(jnp.diag(jnp.arange(4.0)) + jnp.outer(x, x))[0],
    "cg": lambda x: jax.scipy.sparse.linalg.cg(lambda v: v * 3 + x.sum() * v, x)[0],
    "fft": lambda x: jnp.abs(jnp.fft.rfft(x + 1)),
    "logsumexp": lambda x: jax.nn.logsumexp(x),
    "softmax": lambda x: jax.nn.softmax(jnp.outer(x, x)) @ x,
    "interpolation": lambda x: jnp.interp(x, jnp.arange(5.0), jnp.arange(5.0) ** 2),
    "sort": lambda x: jnp.sort(x) * jnp.arange(4.0),
    "gather": lambda x: x[jnp.array([3, 0, 0, 9])],
    "scatter": lambda x: jnp.zeros(6).at[jnp.array([1, 1, 4, 5])].add(x).at[0].set(x[1] ** 2),
    "convolution": lambda x: jnp.convolve(x, jnp.array([1.0, -2.0, 0.5]), mode="same"),
    "cumulative": lambda x: jnp.cumsum(x) * jnp.cumprod(x),
    "reduction with a function": lambda x: jax.lax.reduce(x, 0.0, lambda a, b: a + b + 0 * a, (0,)),
    "window": lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (2,), (1,), "VALID"),
    "scan": lambda x: jax.lax.scan(lambda c, a: (jnp.sin(c) * a, c + a), x[0], x),
    "scan in scan": lambda x: jax.lax.scan(lambda c, a: (jax.lax.scan(lambda d, b: (d * b + a, None), c, x)[0], c), x[1], x),
    "static loop": lambda x: jax.lax.fori_loop(0, 5, lambda i, c: jnp.sin(c) + i, x),
    "cond": lambda x: jax.lax.cond(x[1] > 0, jnp.sin, lambda c: c * c, x),
    "switch": lambda x: jax.lax.switch(2, [jnp.sin, jnp.cos, lambda c: c**3], x),
    "cond in scan": lambda x: jax.lax.scan(lambda c, a: (jax.lax.cond(a > 0, lambda: c * a, lambda: c - a), c), x[1], x),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(jnp.sin(x))),
    "checkpoint with a policy": jax.checkpoint(lambda x: jnp.sin(MATRIX @ x), policy=jax.checkpoint_policies.dots_saveable),
    "random numbers": lambda x: x * jax.random.normal(jax.random.key(3), (4,)),
    "raw random key": lambda x: x * jax.random.uniform(jax.random.PRNGKey(3), (4,)),
    "gamma samples": lambda x: jax.random.gamma(jax.random.key(1), jnp.abs(x) + 0.5),
    "special functions": lambda x: jax.scipy.special.betainc(2.0, 3.0, jax.nn.sigmoid(x)) + jax.lax.lgamma(x + 3) + jax.lax.digamma(x + 3),
    "rounding": lambda x: jnp.floor(x) * x + jnp.round(x) + jnp.sign(x) * x,
    "by platform": lambda x: jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos),
    "no entries": lambda x: x[:0] * 2,
    "a batch axis": jax.vmap(lambda v: jnp.sin(v) * v),
    "a batch axis with a name": jax.vmap(lambda v: v - jax.lax.pmean(jnp.sin(v), "i") * jax.lax.axis_index("i"), axis_name="i"),
    "two batch axes with names": lambda x: jax.vmap(lambda v: jax.vmap(lambda w: summed(v * w), axis_name="j")(x[:3]), axis_name="i")(x),
    "a derivative": jax.grad(lambda x: jnp.sum(jnp.sin(x) * x)),
    "a derivative of a branch": jax.grad(lambda x: jax.lax.cond(x[1] > 0, lambda c: jnp.sum(jnp.sin(c) * c), jnp.sum, x)),
    "a derivative of a branch that keeps a key": jax.grad(lambda x: kept_key(x)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_columns_and_rows(name: str) -> None:
    assert_same(SMOOTH[name], X)


def test_a_scalar_function_of_a_scalar() -> None:
    assert_same(lambda s: s**2 * 3, 2.0, transforms=((FORWARD,), (REVERSE,), (REVERSE, FORWARD)))


def test_trees_of_arguments_and_results() -> None:
    def fun(params: dict[str, object], xs: list[jax.Array]) -> dict[str, object]:
        return {"sum": params["w"] @ xs[0] + params["b"], "parts": (xs[1] ** 2, [params["b"]])}  # type: ignore[operator]

    traced = assert_same(fun, {"w": MATRIX, "b": np.arange(3.0)}, [X, np.float64(2.0)])
    assert str(traced.graph.entry.inputs[0]) == "float64[3]"  # keys of a dict are sorted: b before w


def test_scatter_with_a_function_has_a_value_and_as_in_jax_no_derivative() -> None:
    assert_same(lambda x: x.at[1].apply(lambda old: jnp.sin(old) + x.shape[0]), X, transforms=())


def test_columns_of_a_dynamic_loop() -> None:
    assert_same(lambda x: jax.lax.while_loop(lambda c: jnp.sum(c) < 50.0, lambda c: c * 1.5 + 0.1, x), X, transforms=((FORWARD,),))


def test_a_batch_of_dynamic_loops_stops_each_on_its_own() -> None:
    assert_same(jax.vmap(lambda s: jax.lax.while_loop(lambda c: c < 10.0, lambda c: c * 1.7 + 0.3, s)), abs(X), transforms=((FORWARD,),))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_precision_is_kept(dtype: str) -> None:
    program, _ = through_bytes(lambda x: jnp.sin(x) * 2, [jnp.dtype(dtype).type(0.5) * np.ones(3, jnp.dtype(dtype))])
    assert program.graph.entry.inputs[0].dtype == dtype
    with jax.enable_x64(True):
        assert jax.eval_shape(program, jax.ShapeDtypeStruct((3,), dtype))[0].dtype == dtype


CARRY = jnp.array([1.0, 2.0, 3.0, 4.0], jnp.float32)


def test_a_float32_function_with_a_module_constant_as_carry() -> None:
    assert_same(lambda x: jax.lax.scan(lambda c, a: (c * a, c + a), CARRY, x)[0], X.astype(np.float32), tolerance=1e-5)


def test_float64_arguments_widen_a_float32_function_as_jax_does() -> None:
    traced = trace(lambda x: x * CARRY, (X,))
    assert traced.graph.entry.nodes[-1].result_types[0].dtype == "float64"


def test_a_transpose_of_the_users_own_counts_in_reverse() -> None:
    def fun(x: jax.Array) -> Any:
        return jax.custom_derivatives.linear_call(lambda r, v: v / r, lambda r, ct: 3 * ct / r, jnp.arange(1.0, 5.0), jnp.sin(x))

    program, _ = through_bytes(fun, [X])
    with jax.enable_x64(True):
        one = lambda x: program(x)[0]  # noqa: E731
        columns = np.diag(np.cos(X) / np.arange(1.0, 5.0))
        np.testing.assert_allclose(jax.jacfwd(one)(X), columns, rtol=1e-12)
        np.testing.assert_allclose(jax.jacrev(one)(X), 3 * columns, rtol=1e-12)


def by_both(x: jax.Array, further: Any) -> Any:
    """A linear function and a transpose of the user's own, which close over arrays."""
    scale = np.arange(1.0, 5.0)
    return jax.custom_derivatives.linear_call(lambda r, v: r * v / scale, lambda r, ct: 3 * ct / scale + further, jnp.arange(2.0, 6.0), jnp.sin(x))


@pytest.mark.parametrize("further", [0.5 * np.arange(4.0), jnp.asarray(0.5 * np.arange(4.0))], ids=["numpy", "jax"])
def test_a_transpose_of_the_users_own_closes_over_arrays(further: Any) -> None:
    # JAX has no batch of such a call, so its own passes are compared, and not its Jacobians.
    there = lambda x: by_both(x, further)  # noqa: E731
    program, _ = through_bytes(there, [X])
    here = lambda x: program(x)[0]  # noqa: E731
    along, back = X + 1, X - 1
    slope = lambda f: lambda x: jax.vjp(f, x)[1](back)[0]  # noqa: E731
    with jax.enable_x64(True):
        for derivative in (
            lambda f: jax.jvp(f, (X,), (along,)),
            lambda f: slope(f)(X),
            lambda f: jax.jvp(slope(f), (X,), (along,)),
            lambda f: jax.vjp(slope(f), X)[1](along),
        ):
            assert_close(derivative(here), derivative(there), 1e-12)


def test_a_transpose_of_the_users_own_closes_over_what_is_not_differentiated() -> None:
    program, _ = through_bytes(lambda x, further: by_both(x, jnp.sin(further)), [X, X], active=[0])
    with jax.enable_x64(True):
        rows = jax.jacrev(lambda x: program(x, X)[0])(X)
        np.testing.assert_allclose(rows, (3 * np.diag(1 / np.arange(1.0, 5.0)) + np.sin(X)) * np.cos(X), rtol=1e-12)


def test_a_transpose_of_the_users_own_that_closes_over_what_is_differentiated_is_refused() -> None:
    with pytest.raises(Fault, match=f"at {__file__}:.* closes over a traced value; pass the value as an argument"):
        trace(lambda x: by_both(x, jnp.sin(x)), (X,))


KEYS = jax.random.split(jax.random.key(0), 9_000)  # above 64 KiB


def test_large_arrays_of_keys() -> None:
    assert_same(lambda x: x * jax.random.normal(KEYS[5], (4,)), X)
    assert_same(lambda x: x[1] * jax.lax.scan(lambda c, key: (c, jax.random.uniform(key)), 0.0, KEYS)[1][-3:], X)


def test_cloned_keys() -> None:
    assert_same(lambda x: x * jax.random.normal(jax.random.clone(jax.random.key(3)), (4,)), X)


def test_python_numbers_of_a_32_bit_trace_keep_32_bits() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return x * jax.random.randint(jax.random.key(3), (4,), -5, 10)

    x = X.astype(np.float32)
    program, _ = through_bytes(fun, (x,), x64=False)
    expected = fun(jnp.asarray(x))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(program(x)[0], expected)


def test_a_linear_solve_that_says_more_than_its_solution() -> None:
    matrix = np.array([[3.0, 1.0, 0.0, 0.5], [0.0, 2.0, 1.0, 0.0], [0.0, 0.5, 4.0, 0.0], [1.0, 0.0, 0.0, 2.0]])

    def solve(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        def direct(_: Any, b: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.linalg.solve(matrix, b), jnp.int32(7)

        def transposed(_: Any, b: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.linalg.solve(matrix.T, b), jnp.int32(7)

        return jax.lax.custom_linear_solve(lambda v: jnp.asarray(matrix) @ v, x, direct, transposed, has_aux=True)

    program, _ = through_bytes(solve, (X,))
    with jax.enable_x64(True):
        solution, steps = program(X)
        np.testing.assert_allclose(solution, np.linalg.solve(matrix, X), rtol=1e-12)
        assert steps == 7
        for transform in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(transform(lambda x: program(x)[0])(X), np.linalg.inv(matrix), rtol=1e-10, atol=1e-12)


def test_conjugates_of_complex_arrays() -> None:
    z = np.array([1 + 2j, -0.5 + 1j, 2 - 1j])
    program, _ = through_bytes(lambda z: (jnp.conj(z) * z).real.sum() + jnp.linalg.norm(z), (z,))
    with jax.enable_x64(True):
        expected = jax.grad(lambda z: (jnp.conj(z) * z).real.sum() + jnp.linalg.norm(z))(z)
        np.testing.assert_allclose(jax.grad(lambda z: program(z)[0])(z), expected, rtol=1e-12)


def test_a_symmetric_solve_with_a_loop_in_its_product() -> None:
    def fun(x: jax.Array) -> Any:
        product = lambda v: jax.lax.while_loop(lambda c: c[0] < x[3], lambda c: (c[0] + 1, c[1] * x + c[1]), (0, v))[1]  # noqa: E731
        return jax.lax.custom_linear_solve(product, x**2, solve=lambda _, b: b / (1 + x) ** 2.0, symmetric=True)

    assert_same(fun, X + 0.3, transforms=())
