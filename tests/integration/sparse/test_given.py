"""Patterns that users give: held against the derivative, and refused where they are none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integration.sparse.programs import X, asked, chain, curvature, dense, energy, passes
from scipy import sparse

import jacloom as jl
from jacloom_api.v1 import derivative_service_pb2 as pb


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

    @pytest.mark.parametrize("half", [np.tril, np.triu])
    def test_of_a_hessian_either_triangle_is_enough(self, client: jl.Client, half: Any) -> None:
        got = client.hessian(energy, sparsity=half(np.ones((4, 4))), output="csr")(X)
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
