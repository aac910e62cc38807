"""Sparse results through a real service: equal to JAX's, in any format, of any function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.sparse.programs import X, chain, curvature, dense, energy, passes
from scipy import sparse

import jacloom as jl
from jacloom_graph import tensor


class TestFormats:
    @pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
    @pytest.mark.parametrize("output", ["csr", "csc", "coo"])
    def test_a_jacobian_in_any_format_and_mode(self, client: jl.Client, output: Any, mode: Any) -> None:
        got = client.jacobian(chain, output=output, mode=mode)(X)
        assert type(got) is getattr(sparse, f"{output}_array")
        assert (got.shape, got.nnz, got.dtype) == ((3, 4), 6, np.float64)
        np.testing.assert_allclose(got.toarray(), dense(jax.jacobian, chain, X), rtol=1e-12)
        got.data[:] = 0  # the caller's own
        np.testing.assert_allclose(client.jacobian(chain, output=output, mode=mode)(X + 1).toarray(), dense(jax.jacobian, chain, X + 1), rtol=1e-12)

    def test_a_mode_after_the_other_has_its_own_tiles(self, client: jl.Client) -> None:
        # Both compute the entries in the same order, of columns the one, of rows the other: their structures are not the same.
        f = lambda x: x[jnp.array([1, 2, 3])] ** 2  # noqa: E731
        turn = lambda x: x[jnp.array([1, 3, 2, 0])] ** 2  # noqa: E731
        for mode in ("forward", "reverse", "forward"):
            assert client.jacobian(f, output="csr", mode=mode)(X).toarray().tolist() == [[0, -2, 0, 0], [0, 0, 4, 0], [0, 0, 0, 6]]
            assert client.jacobian(turn, output="csr", mode=mode)(X).toarray().tolist() == [[0, -2, 0, 0], [0, 0, 0, 6], [0, 0, 4, 0], [1, 0, 0, 0]]

    def test_outputs_below_one_another_and_arguments_side_by_side(self, client: jl.Client) -> None:
        def f(a: jax.Array, b: dict[str, jax.Array], *, scale: float = 1.0) -> Any:
            return {"y": a[:, None] * b["v"] * scale, "first": (b["u"] ** 2, a[0] * b["v"][1])}

        args = (np.array([1.0, 2.0, 4.0]), {"v": np.array([3.0, 5.0]), "u": np.float64(7.0)})
        for argnums in (0, 1, (1, 0)):
            got = client.jacobian(f, argnums, output="csr")(*args, scale=2.0)
            np.testing.assert_allclose(got.toarray(), dense(jax.jacobian, f, *args, argnums=argnums, scale=2.0))
        assert client.jacobian(f, (0, 1), output="csr")(*args).shape == (8, 6)

    def test_two_precisions(self, client: jl.Client) -> None:
        def f(a: jax.Array, b: jax.Array) -> Any:
            return a[:2] * 3, (b**2).astype(np.float64)

        args = (np.arange(1, 4, dtype=np.float32), np.array([2.0, 5.0]))
        got = client.jacobian(f, (0, 1), output="csr")(*args)
        assert got.dtype == np.float64
        assert got.toarray().tolist() == [[3, 0, 0, 0, 0], [0, 3, 0, 0, 0], [0, 0, 0, 4, 0], [0, 0, 0, 0, 10]]
        pattern = sparse.csr_array(got != 0)
        blocks = client.jacobian(f, (0, 1), sparsity=pattern)(*args)
        plain = client.jacobian(f, (0, 1), sparsity="dense")(*args)
        for mine, theirs in zip(jax.tree.leaves(blocks), jax.tree.leaves(plain), strict=True):
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            np.testing.assert_array_equal(mine, theirs)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_short_floats_come_in_float32_and_blocks_as_they_are(self, client: jl.Client, dtype: str) -> None:
        x = np.arange(1.0, 6.0).astype(tensor.DTYPES[dtype])
        got = client.jacobian(lambda x: x[1:] ** 2, output="csr")(x)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got.toarray(), np.diag(2.0 * np.arange(1.0, 6.0))[1:])
        large = np.ones(700, tensor.DTYPES[dtype])
        assert passes(lambda on: client.jacobian(lambda x: x[1:] ** 2, on_progress=on), large) == ("coloured forward", 1)
        blocks = client.jacobian(lambda x: x[1:] ** 2)(large)
        assert blocks.dtype == tensor.DTYPES[dtype]
        np.testing.assert_array_equal(blocks.astype(np.float32), 2 * np.eye(700)[1:])

    def test_aux_comes_along(self, client: jl.Client) -> None:
        f = lambda x: (chain(x), {"first": x[0], "count": jnp.arange(2)})  # noqa: E731
        got, aux = client.jacobian(f, has_aux=True, output="csr")(X)
        np.testing.assert_allclose(got.toarray(), dense(jax.jacobian, chain, X))
        assert (aux["first"], aux["count"].tolist()) == (0.5, [0, 1])
        got, aux = client.hessian(lambda x: (energy(x), x[1]), has_aux=True, output="csc")(X)
        np.testing.assert_allclose(got.toarray(), curvature(energy, X))
        assert aux == -1.0


class TestComplexNumbers:
    Z = np.array([1.0 + 2j, -3.0 + 1j, 0.5 - 1j])

    @pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
    def test_holomorphic_functions(self, client: jl.Client, mode: Any) -> None:
        got = client.jacobian(lambda z: z[:2] ** 2 * 1j, holomorphic=True, output="csr", mode=mode)(self.Z)
        np.testing.assert_allclose(got.toarray(), [[2j * self.Z[0], 0, 0], [0, 2j * self.Z[1], 0]])

    def test_holomorphic_second_derivatives(self, client: jl.Client) -> None:
        got = client.hessian(lambda z: jnp.sum(z[:2] ** 3), holomorphic=True, output="csr")(self.Z)
        np.testing.assert_allclose(got.toarray(), np.diag([6 * self.Z[0], 6 * self.Z[1], 0]))

    def test_real_functions_of_complex_numbers_have_rows(self, client: jl.Client) -> None:
        f = lambda z: jnp.abs(z[:2]) ** 2  # noqa: E731
        got = client.jacobian(f, output="csr")(self.Z)
        with jax.enable_x64(True):
            np.testing.assert_allclose(got.toarray(), jax.jacrev(f)(self.Z))
        large = np.full(600, 1 + 2j)
        assert passes(lambda on: client.jacobian(lambda z: jnp.abs(z[1:]) ** 2, on_progress=on), large) == ("coloured reverse", 1)

    def test_complex_functions_of_real_numbers_have_columns(self, client: jl.Client) -> None:
        got = client.jacobian(lambda x: (1 + 2j) * x[:3] ** 2, output="csr")(X)
        np.testing.assert_allclose(got.toarray(), (1 + 2j) * np.diag(2 * X)[:3])


class TestEdges:
    @pytest.mark.parametrize("output", ["csr", "csc", "coo"])
    def test_no_columns_and_no_rows(self, client: jl.Client, output: Any) -> None:
        got = client.jacobian(lambda x: jnp.concatenate([x, jnp.ones(2)]), output=output)(np.zeros(0))
        assert (got.shape, got.nnz) == ((2, 0), 0)
        got = client.jacobian(lambda x: x[:0], output=output)(X)
        assert (got.shape, got.nnz) == ((0, 4), 0)
        got = client.hessian(lambda x: jnp.sum(x**2) + 1, output=output)(np.zeros(0))
        assert (got.shape, got.nnz) == ((0, 0), 0)
        assert client.jacobian(lambda z: jnp.abs(z[:0]), output=output)(X + 1j).shape == (0, 4)

    def test_scalars(self, client: jl.Client) -> None:
        assert client.jacobian(lambda x: x**3, output="csr")(2.0).toarray().tolist() == [[12.0]]
        assert client.hessian(lambda x: x**3, output="csr")(2.0).toarray().tolist() == [[12.0]]
        assert client.jacobian(lambda x: jnp.stack([x, x**2, 0 * x + 1]), output="coo")(3.0).toarray().tolist() == [[1.0], [6.0], [0.0]]

    @pytest.mark.parametrize("f", [lambda x: jnp.floor(x[:3]), lambda x: jnp.arange(3.0) + 0 * jnp.sign(x[:3]), lambda x: x[:3] > 0])
    def test_a_derivative_that_is_zero_takes_no_pass(self, client: jl.Client, f: Any) -> None:
        whole = lambda x: f(x).astype(np.float64)  # noqa: E731
        assert passes(lambda on: client.jacobian(whole, output="csr", on_progress=on), X) == ("empty", 0)
        got = client.jacobian(whole, output="csr")(X)
        assert (got.shape, got.nnz, got.dtype) == ((3, 4), 0, np.float64)

    def test_a_large_zero_is_dense_if_that_is_wanted(self, client: jl.Client) -> None:
        got, value = client.jacobian(lambda x: (jnp.floor(x[1:]), x[0]), has_aux=True)(np.ones(600))
        assert (got.shape, value) == ((599, 600), 1.0)
        assert not got.any()

    def test_a_linear_function_has_no_second_derivatives(self, client: jl.Client) -> None:
        assert passes(lambda on: client.hessian(jnp.sum, output="csr", on_progress=on), X) == ("empty", 0)
        assert client.hessian(jnp.sum, output="csr")(X).nnz == 0

    def test_a_zero_of_the_pattern_is_there_though_the_value_vanishes(self, client: jl.Client) -> None:
        got = client.jacobian(lambda x: x[:3] ** 2, output="csr")(np.array([0.0, 1.0, 0.0, 2.0]))
        assert (got.nnz, got.data.tolist()) == (3, [0.0, 2.0, 0.0])


class TestFunctions:
    def test_loops_and_scans(self, client: jl.Client) -> None:
        def scanned(x: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda y, _: (y + 0.1 * (jnp.roll(y, 1) * y), None), x, length=2)[0][1:]

        def looped(x: jax.Array) -> jax.Array:
            return jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + 0.1 * c[1] ** 2), (0, x))[1][1:]

        x = np.linspace(0.5, 1.5, 12)
        for f in (scanned, looped):
            for mode in ("auto", "forward", "reverse"):
                literal: Any = mode
                got = client.jacobian(f, output="csr", mode=literal)(x)
                np.testing.assert_allclose(got.toarray(), dense(jax.jacfwd, f, x), rtol=1e-12)
                assert got.nnz == (33 if f is scanned else 11)

    def test_a_function_that_has_only_rows(self, client: jl.Client) -> None:
        @jax.custom_vjp
        def f(x: jax.Array) -> jax.Array:
            return jnp.sin(x[1:])

        f.defvjp(lambda x: (jnp.sin(x[1:]), x), lambda x, bar: (jnp.concatenate([jnp.zeros(1), bar * jnp.cos(x[1:])]),))
        got = client.jacobian(f, output="csr")(X)
        np.testing.assert_allclose(got.toarray(), np.diag(np.cos(X))[1:])
        assert got.nnz == 3
        with pytest.raises(jl.ModeUnavailableError):
            client.jacobian(f, output="csr", mode="forward")(X)

    def test_by_handle_id_and_file(self, client: jl.Client, tmp_path: Path) -> None:
        handle = client.register(chain, X)
        expected = dense(jax.jacobian, chain, X)
        np.testing.assert_allclose(client.jacobian(handle, output="csr")(X).toarray(), expected)
        np.testing.assert_allclose(client.jacobian(handle.id, output="csr")(X).toarray(), expected)
        saved = jl.trace(chain, X)
        saved.save(tmp_path / "chain.jacloom")
        np.testing.assert_allclose(client.jacobian(jl.load(tmp_path / "chain.jacloom"), output="csr")(X).toarray(), expected)

    def test_what_is_no_array_is_part_of_the_function(self, client: jl.Client) -> None:
        def f(x: jax.Array, kind: str, *, shift: int) -> jax.Array:
            return jnp.roll(x, shift)[:3] ** (2 if kind == "square" else 3)

        for kind, shift in (("square", 1), ("cube", 2)):
            with jax.enable_x64(True):
                expected = jax.jacobian(lambda x: f(x, kind, shift=shift))(X)  # noqa: B023
            np.testing.assert_allclose(client.jacobian(jax.tree_util.Partial(f, kind=kind, shift=shift), output="csr")(X).toarray(), expected)


@st.composite
def functions(draw: st.DrawFn) -> tuple[Callable[[jax.Array], jax.Array], np.ndarray]:
    """Draws a function made of selections, products with sparse matrices that are fixed, and what acts on each entry; and a point."""
    n = draw(st.integers(1, 7))
    steps: list[tuple[Literal["take", "times", "each", "pair"], Any]] = []
    width = n
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["take", "times", "each", "pair"]))
        if kind == "take":
            steps.append(("take", np.array(draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=8)))))
            width = len(steps[-1][1])
        elif kind == "times":
            m = draw(st.integers(1, 8))
            entries = draw(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0]), min_size=m * width, max_size=m * width))
            steps.append(("times", np.array(entries).reshape(m, width)))
            width = m
        elif kind == "each":
            steps.append(("each", draw(st.sampled_from([jnp.sin, jnp.square, jnp.floor]))))
        else:
            steps.append(("pair", draw(st.integers(0, width - 1))))

    def f(x: jax.Array) -> jax.Array:
        for kind, what in steps:
            if kind == "take":
                x = x[what]
            elif kind == "times":
                x = jnp.asarray(what) @ x
            elif kind == "each":
                x = what(x)
            else:
                x = x * x[what]
        return x

    return f, np.linspace(0.3, 1.7, n)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(functions())
def test_any_function_in_any_mode(client: jl.Client, drawn: tuple[Callable[[jax.Array], jax.Array], np.ndarray]) -> None:
    f, x = drawn
    expected = dense(jax.jacobian, f, x)
    for mode in ("auto", "forward", "reverse"):
        literal: Any = mode
        got = client.jacobian(f, output="csr", mode=literal)(x)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got.toarray(), expected, rtol=1e-10, atol=1e-12)
    scalar = lambda x: jnp.sum(jnp.sin(f(x)))  # noqa: E731
    np.testing.assert_allclose(client.hessian(scalar, output="csr")(x).toarray(), curvature(scalar, x), rtol=1e-9, atol=1e-11)
