"""Sparse derivatives through a real service: equal to JAX's, in as few passes as the pattern allows, its structure sent once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from integration.service import Answer, collect
from scipy import sparse

import jacloom as jl
from jacloom._deadline import Deadline
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph import tensor

X = np.array([0.5, -1.0, 2.0, 3.0])
ARRAYS = (pb.POINTERS, pb.INDICES, pb.SOURCES, pb.BOUNDS, pb.ENTRIES)


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def chain(x: jax.Array) -> jax.Array:
    """Two entries a row: a matrix of ``n - 1`` by ``n`` that two columns at a time give."""
    return jnp.sin(x[1:]) * x[:-1]


def arrow(x: jax.Array) -> jax.Array:
    """Dense first row and column, a diagonal, and a row of zeros."""
    return jnp.concatenate([jnp.sum(x**2)[None], x[1:] ** 3 * x[0], jnp.zeros(1)])


def energy(x: jax.Array) -> jax.Array:
    """Its Hessian is an arrowhead."""
    return jnp.sum(x[1:] ** 3 * x[0]) + x[0] ** 4


def dense(transform: Callable[..., Any], f: Callable[..., Any], *args: Any, **kwargs: Any) -> np.ndarray:
    """Returns JAX's derivative as one matrix: outputs below one another, arguments side by side, as a sparse one is."""
    argnums = kwargs.pop("argnums", 0)
    with jax.enable_x64(True):
        found = transform(f, argnums)(*args, **kwargs)
        outs = jax.tree.leaves(jax.eval_shape(f, *args, **kwargs))
    leaves = jax.tree.leaves(found)
    per = len(leaves) // len(outs)
    rows = [leaves[at * per : (at + 1) * per] for at in range(len(outs))]
    return np.block([[np.asarray(block).reshape(out.size, -1) for block in row] for row, out in zip(rows, outs, strict=True)])


def curvature(f: Callable[..., Any], x: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.hessian(f)(x))


def asked(
    client: jl.Client, f: Callable[..., Any], x: np.ndarray, method: str = "Jacobian", args: tuple[np.ndarray, ...] = (), **options: Any
) -> Answer:
    """Returns what the service itself answers, its structure and entries apart."""
    pattern = options.pop("pattern", None)
    function = client.register(f, x, *args)
    request = pb.CallRequest(
        function=function.name, args=map(tensor.to_message, (x, *args)), wrt=[] if method == "Evaluate" else [0], options=pb.Options(**options)
    )
    if pattern is not None:
        request.pattern.CopyFrom(pb.Pattern(pointers=tensor.to_message(pattern[0]), indices=tensor.to_message(pattern[1])))
    with client._session.connection.stubs(Deadline(60)) as stubs:
        return collect(getattr(stubs.derivatives, method)(request, timeout=60, metadata=stubs.metadata))


def passes(run: Callable[..., Any], *args: Any) -> tuple[str, int]:
    """Returns the strategy of a call and the passes that it took."""
    seen: list[jl.Progress] = []
    run(seen.append)(*args)
    summary = seen[-1].summary
    assert summary is not None
    assert summary.passes == seen[-1].plan.passes
    return seen[-1].plan.strategy, summary.passes


def matrix(answer: Answer) -> np.ndarray:
    pointers, indices, sources, _, entries = answer.arrays
    sizes = answer.header.structure
    return sparse.csr_array((entries[sources], indices, pointers), (sizes.rows, sizes.columns)).toarray()


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


class TestPasses:
    def test_columns_that_share_no_row_share_a_pass(self, client: jl.Client) -> None:
        assert passes(lambda on: client.jacobian(chain, output="csr", mode="forward", on_progress=on), X) == ("coloured forward", 2)
        assert passes(lambda on: client.jacobian(chain, output="csr", mode="reverse", on_progress=on), X) == ("coloured reverse", 2)

    def test_a_dense_result_is_computed_by_its_pattern_where_that_pays(self, client: jl.Client) -> None:
        x = np.linspace(0.0, 1.0, 600)
        plan = client.explain(chain, x)
        assert (plan.strategy, plan.passes) == ("coloured forward", 2)
        assert [option.passes for option in plan.considered if option.strategy in ("forward", "reverse")] == [600, 599]
        assert passes(lambda on: client.jacobian(chain, on_progress=on), x) == ("coloured forward", 2)
        got = client.jacobian(chain)(x)
        assert type(got) is np.ndarray
        np.testing.assert_allclose(got, dense(jax.jacobian, chain, x), rtol=1e-12)
        assert passes(lambda on: client.jacobian(chain, sparsity="dense", on_progress=on), x) == ("forward", 600)

    def test_a_small_derivative_is_not_looked_at(self, client: jl.Client) -> None:
        assert passes(lambda on: client.jacobian(chain, on_progress=on), X)[1] in (3, 4)

    def test_an_arrowhead_takes_both_modes(self, client: jl.Client) -> None:
        x = np.linspace(1.0, 2.0, 50)
        plan = client.explain(arrow, x, output="csr")
        assert (plan.strategy, plan.passes, plan.considered[0].strategy) == ("bicoloured", 3, "bicoloured")
        assert passes(lambda on: client.jacobian(arrow, output="csr", on_progress=on), x) == ("bicoloured", 3)
        np.testing.assert_allclose(client.jacobian(arrow, output="csr")(x).toarray(), dense(jax.jacobian, arrow, x), rtol=1e-12)
        for mode, count in (("forward", 50), ("reverse", 50)):
            literal: Any = mode
            assert passes(lambda on, mode=literal: client.jacobian(arrow, output="csr", mode=mode, on_progress=on), x) == (f"coloured {mode}", count)
            np.testing.assert_allclose(client.jacobian(arrow, output="csr", mode=literal)(x).toarray(), dense(jax.jacobian, arrow, x), rtol=1e-12)

    @pytest.mark.parametrize("tile", [1, 2, 3, 7])
    def test_tiles_of_any_width(self, client: jl.Client, tile: int) -> None:
        x = np.linspace(1.0, 2.0, 9)
        wide = lambda x: jnp.convolve(x, x[:2])  # noqa: E731
        for f in (arrow, wide):
            for mode in ("auto", "forward", "reverse"):
                got = client.jacobian(f, output="csr", mode=mode, tile=tile)(x)
                np.testing.assert_allclose(got.toarray(), dense(jax.jacobian, f, x), rtol=1e-12)
        np.testing.assert_allclose(client.hessian(energy, output="csr", tile=tile)(x).toarray(), curvature(energy, x), rtol=1e-12)

    def test_a_hessian_is_read_off_its_mirror_image(self, client: jl.Client) -> None:
        x = np.linspace(1.0, 2.0, 40)
        assert passes(lambda on: client.hessian(energy, output="csr", on_progress=on), x) == ("star-coloured", 2)
        for output in ("csr", "csc", "coo"):
            kind: Any = output
            np.testing.assert_allclose(client.hessian(energy, output=kind)(x).toarray(), curvature(energy, x), rtol=1e-12)

    def test_a_dense_hessian_is_computed_by_its_pattern(self, client: jl.Client) -> None:
        x = np.linspace(1.0, 2.0, 400)
        assert passes(lambda on: client.hessian(energy, on_progress=on), x) == ("star-coloured", 2)
        np.testing.assert_allclose(client.hessian(energy)(x), curvature(energy, x), rtol=1e-12)

    def test_a_hessian_of_several_arguments(self, client: jl.Client) -> None:
        f = lambda a, b: jnp.sum(a[:2] ** 2 * b) + jnp.sum(b**4)  # noqa: E731
        a, b = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])
        np.testing.assert_allclose(
            client.hessian(f, (0, 1), output="csr")(a, b).toarray(),
            [[8, 0, 0, 2, 0], [0, 10, 0, 0, 4], [0, 0, 0, 0, 0], [2, 0, 0, 192, 0], [0, 4, 0, 0, 300]],
        )
        blocks = client.hessian(f, (0, 1), sparsity=np.ones((5, 5)))(a, b)
        with jax.enable_x64(True):
            for mine, theirs in zip(jax.tree.leaves(blocks), jax.tree.leaves(jax.hessian(f, (0, 1))(a, b)), strict=True):
                np.testing.assert_allclose(mine, theirs)

    def test_second_derivatives_that_only_forward_mode_has(self, client: jl.Client) -> None:
        f = lambda x: jnp.sum(jax.lax.custom_linear_solve(lambda y: 3 * y, x**3, lambda _, b: b / 3))  # noqa: E731
        np.testing.assert_allclose(client.hessian(f, output="csr")(X).toarray(), np.diag(2 * X))
        assert passes(lambda on: client.hessian(f, output="csr", on_progress=on), X) == ("star-coloured", 1)


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


class TestSpoiltEntries:
    FIXED = np.vstack([np.eye(5), np.eye(1, 5)])

    @pytest.mark.parametrize("mode", ["forward", "reverse"])
    def test_what_overflows_spoils_no_other_entry(self, client: jl.Client, mode: Any) -> None:
        # The second column overflows on its way to the product, which multiplies it by zero for the rows of all others.
        fixed = self.FIXED
        f = lambda x, scale: jnp.asarray(fixed) @ (x * scale * scale)  # noqa: E731
        x, scale = np.ones(5), np.array([1.0, 1e200, 2.0, 3.0, 4.0])
        assert passes(lambda on: client.jacobian(f, output="csr", mode=mode, on_progress=on), x, scale)[1] == (1 if mode == "forward" else 2)
        got = client.jacobian(f, output="csr", mode=mode)(x, scale).toarray()
        expected = np.diag([1.0, np.inf, 4.0, 9.0, 16.0])
        np.testing.assert_array_equal(got, np.vstack([expected, expected[:1]]))

    def test_what_is_nan_by_itself_stays_and_does_not_keep_others_from_repair(self, client: jl.Client) -> None:
        fixed = self.FIXED
        f = lambda x: jnp.asarray(fixed) @ (jnp.sqrt(x) * x)  # noqa: E731
        for mode in ("forward", "reverse"):
            literal: Any = mode
            got = client.jacobian(f, output="csr", mode=literal)(np.array([0.0, 1.0, 4.0, 9.0, 16.0])).toarray()
            expected = np.diag([np.nan, 1.5, 3.0, 4.5, 6.0])
            np.testing.assert_allclose(got, np.vstack([expected, expected[:1]]), rtol=1e-12)


class TestStructures:
    def test_the_structure_is_sent_once(self, client: jl.Client) -> None:
        first = asked(client, chain, X, sparsity=pb.SPARSE)
        assert tuple(array.part for array in first.header.arrays) == ARRAYS
        sizes = first.header.structure
        assert (sizes.rows, sizes.columns, sizes.nonzeros, sizes.computed, sizes.passes) == (3, 4, 6, 6, 2)
        np.testing.assert_allclose(matrix(first), dense(jax.jacobian, chain, X))
        assert first.arrays[3].tolist()[0] == 0
        assert first.arrays[3].tolist()[-1] == 6
        again = asked(client, chain, X + 1, sparsity=pb.SPARSE, structure=sizes.digest)
        assert [array.part for array in again.header.arrays] == [pb.ENTRIES]
        assert again.header.structure == sizes
        pointers, indices, sources, _, _ = first.arrays
        found = sparse.csr_array((again.arrays[0][sources], indices, pointers), (3, 4)).toarray()
        np.testing.assert_allclose(found, dense(jax.jacobian, chain, X + 1))
        other = asked(client, chain, X, sparsity=pb.SPARSE, structure="0" * 64)
        assert tuple(array.part for array in other.header.arrays) == ARRAYS

    def test_a_symmetric_matrix_is_sent_by_half(self, client: jl.Client) -> None:
        answer = asked(client, energy, X, "Hessian", sparsity=pb.SPARSE)
        assert (answer.header.structure.nonzeros, answer.header.structure.computed, answer.summary.passes) == (10, 7, 2)
        np.testing.assert_allclose(matrix(answer), curvature(energy, X))

    def test_the_client_names_what_it_holds(self, client: jl.Client) -> None:
        f = lambda x: chain(x) * 2  # noqa: E731
        for at in (X, X + 1, X - 1):
            np.testing.assert_allclose(client.jacobian(f, output="csr")(at).toarray(), dense(jax.jacobian, f, at))
        (key,) = [key for key in client._session._structures._entries if key[0] == client.register(f, X).id]
        held = client._session._structures.get(key)
        assert held is not None
        client.jacobian(f, output="csr", tile=2)(X)
        assert client._session._structures.get(key) is held, "it did not come again"

    def test_dense_is_dense(self, client: jl.Client) -> None:
        answer = asked(client, chain, np.ones(600), sparsity=pb.DENSE)
        assert not answer.header.HasField("structure")
        assert answer.summary.passes >= 599


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


class TestPatternsOfTheUser:
    BAND = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]])

    @pytest.mark.parametrize("output", ["dense", "csr"])
    @pytest.mark.parametrize("more", [0, 1], ids=["exact", "superset"])
    def test_a_pattern_that_holds_all_entries(self, client: jl.Client, output: Any, more: int) -> None:
        pattern = self.BAND.copy()
        pattern[2, 0] = more
        for form in (pattern, pattern.tolist(), pattern != 0, sparse.csc_array(pattern), sparse.coo_matrix(pattern), jnp.asarray(pattern)):
            got = client.jacobian(chain, sparsity=form, output=output)(X)
            if output == "csr":
                assert got.nnz == 6 + more
                got = got.toarray()
            np.testing.assert_allclose(got, dense(jax.jacobian, chain, X))

    @pytest.mark.parametrize("mode", ["forward", "reverse"])
    def test_one_that_misses_entries_is_refused(self, client: jl.Client, mode: Any) -> None:
        refused = client.jacobian(lambda x: x[:3] * x[3], sparsity=np.eye(3, 4), output="csr", mode=mode)
        with pytest.raises(jl.VerificationError, match=r"at out\[\d\] with respect to args\[0\]\[3\].* misses this entry"):
            refused(X)

    def test_it_decides_how_many_passes_there_are(self, client: jl.Client) -> None:
        f = lambda x: x[:3] ** 2 + jnp.sum(x) - jnp.sum(x)  # noqa: E731  # that the sums cancel no pattern shows
        pattern = np.eye(3, 4)
        assert client.explain(f, X, sparsity=pattern, output="csr").passes == 1
        assert client.explain(f, X, output="csr", mode="forward").passes == 4
        assert passes(lambda on: client.jacobian(f, sparsity=pattern, output="csr", on_progress=on), X)[1] == 1

    def test_of_a_hessian(self, client: jl.Client) -> None:
        pattern = np.zeros((4, 4))
        pattern[0], pattern[np.diag_indices(4)] = 1, 1  # its lower half follows
        got = client.hessian(energy, sparsity=pattern, output="csr")(X)
        np.testing.assert_allclose(got.toarray(), curvature(energy, X))

    def test_the_wrong_shape(self, client: jl.Client) -> None:
        with pytest.raises(jl.OptionError, match=r"must have the shape \(3, 4\), entries of the result by entries of the arguments; got \(4, 3\)"):
            client.jacobian(chain, sparsity=self.BAND.T)(X)
        with pytest.raises(jl.OptionError, match=r"must have the shape \(4, 4\), entries of the arguments, twice; got \(3, 4\)"):
            client.hessian(energy, sparsity=self.BAND)(X)

    @pytest.mark.parametrize(
        ("pointers", "indices", "text"),
        [
            ([0, 1, 2], [0, 1], "3 rows has 4 row pointers"),
            ([0, 2, 1, 2], [0, 1], "rise from 0"),
            ([0, 1, 1, 3], [0, 1], "rise from 0"),
            ([1, 1, 1, 2], [0, 1], "rise from 0"),
            ([0, 1, 1, 2], [0, 4], "between 0 and 3"),
            ([0, 1, 1, 2], [-1, 0], "between 0 and 3"),
        ],
    )
    def test_numbers_that_are_no_pattern(self, client: jl.Client, pointers: list[int], indices: list[int], text: str) -> None:
        numbers = np.array(pointers, np.int32), np.array(indices, np.int32)
        with pytest.raises(jl.OptionError, match=text):
            asked(client, chain, X, sparsity=pb.SPARSE, pattern=numbers)


class TestRefusals:
    def test_a_sparse_hessian_of_a_vector(self, client: jl.Client) -> None:
        for options in ({"output": "csr"}, {"sparsity": np.eye(4)}):
            arguments: Any = options
            with pytest.raises(jl.OptionError, match="a sparse Hessian is that of one scalar output, got outputs of 3 entries"):
                client.hessian(chain, **arguments)(X)

    def test_a_sparse_result_without_a_pattern(self, client: jl.Client) -> None:
        with pytest.raises(jl.OptionError, match=r"output='csr' is sparse, and sparsity='dense' computes no pattern"):
            client.jacobian(chain, sparsity="dense", output="csr")
        with pytest.raises(jl.OptionError, match="output must be 'dense', 'csr', 'csc' or 'coo', got 'bsr'"):
            client.jacobian(chain, output="bsr")  # type: ignore[arg-type]

    @pytest.mark.parametrize("method", ["Gradient", "Evaluate"])
    def test_what_has_no_matrix(self, client: jl.Client, method: str) -> None:
        for options in ({"sparsity": pb.SPARSE}, {"sparsity": pb.DENSE}):
            with pytest.raises(jl.OptionError, match=f"sparsity is an option of Jacobian and Hessian; {method} has no matrix"):
                asked(client, energy, X, method, **options)

    def test_a_pattern_that_shall_not_be_used(self, client: jl.Client) -> None:
        with pytest.raises(jl.OptionError, match="DENSE says not to use it"):
            asked(client, chain, X, sparsity=pb.DENSE, pattern=(np.zeros(4, np.int32), np.zeros(0, np.int32)))

    def test_a_pattern_that_is_too_large(self, client: jl.Client) -> None:
        n = 12_000  # 144 million entries
        with pytest.raises(jl.TooLargeError, match=r"no sparse result: its pattern has more than 134,217,728 entries; ask for products"):
            client.jacobian(lambda x: x[1:] * jnp.sum(x), output="csr")(np.ones(n))


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
