"""Sparse derivatives take as few passes as their patterns allow, and their structure is sent once."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integration.sparse.programs import ARRAYS, X, arrow, asked, chain, curvature, dense, energy, matrix, passes
from scipy import sparse

import jacloom as jl
from jacloom_api.v1 import derivative_service_pb2 as pb


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
        assert passes(lambda on: client.hessian(f, output="csr", on_progress=on), X) == ("coloured forward", 1)


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
        (key,) = [key for key in client._session.exchange._structures._entries if key[0] == client.register(f, X).id]
        held = client._session.exchange._structures.get(key)
        assert held is not None
        client.jacobian(f, output="csr", tile=2)(X)
        assert client._session.exchange._structures.get(key) is held, "it did not come again"

    def test_dense_is_dense(self, client: jl.Client) -> None:
        answer = asked(client, chain, np.ones(600), sparsity=pb.DENSE)
        assert not answer.header.HasField("structure")
        assert answer.summary.passes >= 599
