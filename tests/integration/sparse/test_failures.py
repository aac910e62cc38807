"""Entries that others spoil are repaired, and what has no sparse result is refused."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from integration.sparse.programs import X, asked, chain, energy, passes

import jacloom as jl
from jacloom_api.v1 import derivative_service_pb2 as pb


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

    def test_what_repairing_took_and_left_in_doubt_is_told(self, client: jl.Client) -> None:
        def told(f: Any, *args: Any) -> tuple[int, int, int]:
            seen: list[jl.Progress] = []
            client.jacobian(f, output="csr", mode="forward", on_progress=seen.append)(*args)
            summary = seen[-1].summary
            assert summary is not None
            return summary.passes, summary.repairs, summary.doubtful

        fixed, x = self.FIXED, np.ones(5)
        overflowing = lambda x, scale: jnp.asarray(fixed) @ (x * scale * scale)  # noqa: E731
        assert told(overflowing, x, np.arange(1.0, 6.0)) == (1, 0, 0)
        passes, repairs, doubtful = told(overflowing, x, np.array([1.0, 1e200, 2.0, 3.0, 4.0]))
        assert (passes, repairs > 0, doubtful) == (1, True, 0)
        # All are NaN by themselves, which takes more passes to find out than one tile may: they are in groups still when it gives up.
        assert told(lambda x: jnp.sqrt(x) * x, np.zeros(1000)) == (1, 256, 1000)


class TestTooLarge:
    """Dense results that the service knows to be sparse, and could compute in a few passes."""

    HUGE = np.ones(300_000)

    @pytest.mark.parametrize("sparsity", ["auto", "dense"])
    def test_of_a_jacobian(self, client: jl.Client, sparsity: Any) -> None:
        asked = client.jacobian(lambda x: x**3 - jnp.roll(x, 1) * x, sparsity=sparsity, on_progress=lambda _: pytest.fail("computed"))
        with pytest.raises(jl.OutOfMemoryError, match=r"^`client\.jacobian\(f.*720,000,000,000 bytes.*output='csr'.*client\.linear_operator"):
            asked(self.HUGE)

    def test_of_a_hessian(self, client: jl.Client) -> None:
        asked = client.hessian(lambda x: jnp.sum((x[1:] - x[:-1]) ** 4), on_progress=lambda _: pytest.fail("computed"))
        with pytest.raises(jl.OutOfMemoryError, match=r"^`client\.hessian\(f\)`.*output='csr'.*client\.linear_operator\(f, x, derivative='hessian'"):
            asked(self.HUGE)


class TestRefusals:
    def test_a_sparse_hessian_of_a_vector(self, client: jl.Client) -> None:
        for options in ({"output": "csr"}, {"sparsity": np.eye(4)}):
            arguments: Any = options
            with pytest.raises(jl.OptionError, match=r"is for a single matrix, and \w+ returns 3 entries"):
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
        f = lambda x: x[1:] * jnp.sum(x)  # noqa: E731
        full = "no sparse result: its pattern has more than 31,996,000 entries, half of the matrix or more; ask for a dense result, products or"
        with pytest.raises(jl.TooLargeError, match=rf"^`client\.jacobian\(f, output='csr'\)`: {full} fewer leaves"):
            client.jacobian(f, output="csr")(np.ones(8_000))
        with pytest.raises(jl.TooLargeError, match=r"its pattern has more than 134,217,728 entries; ask for products or fewer leaves"):
            client.jacobian(f, output="csr")(np.ones(17_000))
