"""Plans, patterns and pictures of a real service, and the command that shows them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integration import service
from PIL import Image

import jacloom as jl
from jacloom import _spy
from jacloom._deadline import Deadline
from jacloom_api.v1 import derivative_service_pb2 as pb

STRUCTURE = [pb.POINTERS, pb.INDICES, pb.SOURCES, pb.BOUNDS]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with service.process(tmp_path_factory.mktemp("explain") / "log", "--workers", "1") as running:
        yield running.address


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[jl.Client]:
    with jl.connect(address) as client:
        yield client


def arrow(x: jax.Array) -> jax.Array:
    """Its Jacobian has a dense first row and column and a diagonal, and one row less than columns."""
    return jnp.concatenate([jnp.sum(x**2)[None], x[1:-1] ** 3 * x[0]])


def arrowhead(columns: int) -> np.ndarray:
    found = np.eye(columns - 1, columns, dtype=bool)
    found[0] = found[:, 0] = True
    return found


def energy(x: jax.Array) -> jax.Array:
    """Its Hessian is tridiagonal."""
    return jnp.sum((x[1:] - x[:-1] ** 2) ** 2)


def band(n: int) -> np.ndarray:
    return np.tri(n, n, 1, bool) & ~np.tri(n, n, -2, bool)


@jax.custom_vjp
def backward_only(x: jax.Array) -> jax.Array:
    return x * 2.0


backward_only.defvjp(lambda x: (x * 2.0, None), lambda _, g: (2 * g,))


@jax.custom_vjp
def backward_only_identity(x: jax.Array) -> jax.Array:
    return x


backward_only_identity.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -1, 1),))


def structure(client: jl.Client, f: Any, x: np.ndarray, derivative: str = "", **options: Any) -> service.Answer:
    """Returns what the service itself answers."""
    request = pb.CallRequest(function=client.register(f, x).name, wrt=[0], options=pb.Options(**options))
    with client._session.connection.stubs(Deadline(60)) as stubs:
        asked = pb.ExplainRequest(call=request, derivative=derivative)
        return service.collect(stubs.derivatives.Structure(asked, timeout=60, metadata=stubs.metadata))


def inner(path: Path) -> np.ndarray:
    """Returns the pixels of a picture within its frame."""
    with Image.open(path) as image:
        edge = _spy.MARGIN + 1
        return np.asarray(image.convert("RGB"))[edge:-edge, edge:-edge]


class TestService:
    def test_the_structure_of_a_matrix_that_has_both_modes(self, client: jl.Client) -> None:
        answer = structure(client, arrow, np.ones(40))
        assert [array.part for array in answer.header.arrays] == STRUCTURE
        pointers, indices, sources, bounds = answer.arrays
        expected = arrowhead(40)
        assert [indices[pointers[row] : pointers[row + 1]].tolist() for row in range(39)] == [np.flatnonzero(line).tolist() for line in expected]
        plan = answer.header.plan
        assert (plan.strategy, plan.passes, plan.forward) == ("bicoloured", 3, 2)
        assert (answer.summary.passes, answer.summary.tiles) == (0, 0)
        # JVPs come first: their entries share columns' colours, those of the VJP lie in the first row.
        number = np.searchsorted(bounds, sources, side="right") - 1
        rows = np.repeat(np.arange(39), np.diff(pointers))
        assert set(rows[number >= plan.forward]) == {0}
        for one in range(plan.forward):
            assert len(set(rows[number == one])) == np.count_nonzero(number == one)

    def test_a_structure_that_the_caller_holds_is_not_sent(self, client: jl.Client) -> None:
        first = structure(client, arrow, np.ones(40)).header.structure
        again = structure(client, arrow, np.ones(40), structure=first.digest)
        assert (again.arrays, again.header.structure) == ([], first)
        assert len(structure(client, arrow, np.ones(40), structure="0" * 64).arrays) == 4

    def test_large_structures_come_in_pieces(self, client: jl.Client) -> None:
        answer = structure(client, lambda x: x[1:] * x[:-1], np.ones(200_000))
        assert answer.messages > 2
        assert (answer.header.structure.nonzeros, answer.header.plan.passes) == (2 * 199_999, 2)

    @pytest.mark.parametrize("sparsity", [pb.SPARSITY_UNSPECIFIED, pb.DENSE, pb.SPARSE])
    def test_a_structure_is_found_whatever_the_plan(self, client: jl.Client, sparsity: pb.Sparsity.ValueType) -> None:
        answer = structure(client, lambda x: jnp.outer(x[:2], x).reshape(-1) * x.sum(), np.ones(3), sparsity=sparsity)
        assert (answer.header.structure.rows, answer.header.structure.nonzeros, answer.header.plan.passes) == (6, 18, 3)

    def test_derivatives_that_there_are_not(self, client: jl.Client) -> None:
        for f, derivative, options, text in (
            (arrow, "hessian", {}, "a sparse Hessian is that of one scalar output"),
            (arrow, "grad", {}, "derivative must be 'jacobian' or 'hessian', got 'grad'"),
            (backward_only, "", {"mode": pb.FORWARD}, "no derivative in forward mode"),
        ):
            with pytest.raises(jl.JacloomError, match=text):
                structure(client, f, np.ones(4), derivative, **options)


class TestPlan:
    def test_the_pattern_of_a_jacobian(self, client: jl.Client) -> None:
        plan = client.explain(arrow, np.ones(300), output="csr")
        assert (plan.strategy, plan.passes, plan.forward) == ("bicoloured", 3, 2)
        assert "passes    3 (2 JVPs and 1 VJP)" in str(plan)
        found = plan.pattern()
        assert found.dtype == bool
        np.testing.assert_array_equal(found.toarray(), arrowhead(300))
        given = client.explain(arrow, np.ones(300), sparsity=found)
        np.testing.assert_array_equal(given.pattern().toarray(), arrowhead(300))
        x = np.linspace(1, 2, 300)
        np.testing.assert_allclose(client.jacobian(arrow, sparsity=found)(x), client.jacobian(arrow, sparsity="dense")(x))

    def test_the_pattern_of_a_hessian(self, client: jl.Client) -> None:
        plan = client.explain(energy, np.ones(50), derivative="hessian", output="csr")
        assert (plan.strategy, plan.forward) == ("star-coloured", plan.passes)
        np.testing.assert_array_equal(plan.pattern().toarray(), band(50))

    def test_a_pattern_that_is_given_is_shown_as_it_is(self, client: jl.Client) -> None:
        given = np.ones((4, 5), bool)
        given[0, 4] = False
        plan = client.explain(lambda x: x[1:] - x[:-1], np.ones(5), sparsity=given)
        np.testing.assert_array_equal(plan.pattern().toarray(), given)
        assert plan.given
        # Of a Hessian both halves are there, whichever was given; nobody looks whether it is right.
        plan = client.explain(energy, np.ones(4), derivative="hessian", sparsity=np.tril(np.ones((4, 4)), -2))
        np.testing.assert_array_equal(plan.pattern().toarray(), ~band(4))
        assert plan.given
        assert not client.explain(energy, np.ones(4), derivative="hessian").given

    def test_a_pattern_where_the_plan_makes_no_use_of_it(self, client: jl.Client) -> None:
        x = np.ones(5)
        small = lambda x: jnp.sin(x[1:]) - x[:-1]  # noqa: E731
        for plan in (client.explain(small, x), client.explain(small, x, sparsity="dense")):
            assert (plan.strategy, plan.passes) == ("reverse", 4)
            np.testing.assert_array_equal(plan.pattern().toarray(), np.eye(4, 5, dtype=bool) | np.eye(4, 5, 1, dtype=bool))
        assert client.explain(small, x).considered[-1].strategy == "coloured"
        none = client.explain(lambda x: x[:0], x)
        assert (none.strategy, none.pattern().shape) == ("empty", (0, 5))

    def test_where_a_mode_is_refused_the_line_is_told(self, client: jl.Client) -> None:
        plan = client.explain(lambda x: backward_only(x) * x, np.ones(4))
        (refused,) = [option for option in plan.considered if option.strategy == "forward"]
        assert (plan.strategy, refused.price) == ("reverse", None)
        assert "not available: " in refused.verdict
        assert "test_explain.py:" in refused.verdict
        np.testing.assert_array_equal(plan.pattern().toarray(), np.eye(4, dtype=bool))

    def test_of_a_function_that_costs_nothing_the_chosen_strategy_is_the_cheapest(self, client: jl.Client) -> None:
        plan = client.explain(backward_only_identity, np.ones(50), output="csr")
        assert [(option.strategy, option.passes, option.price) for option in plan.considered] == [
            ("coloured reverse", 1, None),
            ("reverse", 50, None),
            ("forward", 50, None),
        ]
        assert [option.verdict for option in plan.considered[:2]] == ["cheapest", "about 50 times the price"]
        assert "each" not in str(plan)

    def test_a_picture_has_the_colours_of_the_passes(self, client: jl.Client, tmp_path: Path) -> None:
        client.explain(arrow, np.ones(25), output="csr").spy(tmp_path / "arrow.png")
        cells = inner(tmp_path / "arrow.png")[:: _spy.LARGEST, :: _spy.LARGEST]
        assert cells.shape == (24, 25, 3)
        np.testing.assert_array_equal((cells != _spy.WHITE).any(axis=-1), arrowhead(25))
        colour = {tuple(place): tuple(cells[*place]) for place in np.argwhere(arrowhead(25)).tolist()}
        row, column, diagonal = (
            {colour[place] for place in colour if test(*place)}
            for test in (
                lambda i, j: i == 0 and j > 0,
                lambda i, j: j == 0 and i > 0,
                lambda i, j: i == j > 0,
            )
        )
        assert [len(each) for each in (row, column, diagonal)] == [1, 1, 1]
        assert row | column | diagonal == set(_spy.COLOURS[:3])

    def test_several_outputs_have_no_pattern_of_second_derivatives(self, client: jl.Client, tmp_path: Path) -> None:
        plan = client.explain(arrow, np.ones(4), derivative="hessian")
        path = str(tmp_path / "a.png")
        for ask, call in ((plan.pattern, "pattern()"), (lambda: plan.spy(path), f"spy({path!r})")):
            with pytest.raises(jl.OptionError) as caught:
                ask()
            assert str(caught.value) == (
                f"`plan.{call}`: a pattern is that of a single matrix, and there are 3 outputs with a Hessian each; "
                "pass weights=... to client.explain for that of their weighted sum"
            )

    def test_a_function_that_was_lost_is_sent_again(self, client: jl.Client) -> None:
        f = lambda x: x[:-2] * x[2:]  # noqa: E731
        plan = client.explain(f, np.ones(7))
        client.delete(jl.trace(f, np.ones(7)))
        assert plan.pattern().nnz == 10


class TestOptions:
    def test_the_call_that_is_refused_is_the_users(self, client: jl.Client) -> None:
        for options, text in (
            ({"mode": 2.0}, r"`client\.explain\(f, \.\.\., mode=2\.0\)`: mode must be"),
            ({"mode": None}, r"`client\.explain\(f, \.\.\., mode=None\)`: mode must be"),
            ({"derivative": "hessian", "tile": 1.5}, r"`client\.explain\(f, \.\.\., derivative='hessian', tile=1\.5\)`: tile must be"),
            ({"output": 3}, r"`client\.explain\(f, \.\.\.\)`: output must be"),
        ):
            wrong: Any = options
            with pytest.raises(jl.OptionError, match=text):
                client.explain(lambda x: x, np.ones(3), **wrong)

    def test_what_is_no_option_and_no_argument_is_neither(self, client: jl.Client) -> None:
        f = lambda x: x**2  # noqa: E731
        for method in (client.explain, client.linear_operator, client.diagnose, client.check):
            ask: Any = method
            with pytest.raises(jl.ArgumentError, match=rf"`client\.{method.__name__}\(f, \.\.\., modes=\.\.\.\)`: modes is no argument of f"):
                ask(f, np.ones(3), modes="forward")
        wrong: Any = {"output": "csr"}
        with pytest.raises(jl.ArgumentError, match=r"linear_operator\(f, \.\.\., output=.* the options here are argnums, has_aux, derivative"):
            client.linear_operator(f, np.ones(3), **wrong)

    def test_an_argument_that_is_called_like_an_option(self, client: jl.Client) -> None:
        def f(x: Any, *, mode: str = "square") -> Any:
            return x * x if mode == "square" else x[:1]

        with pytest.raises(jl.OptionError, match=r"To pass f its own argument mode, bind it: functools\.partial\(f, mode=\.\.\.\)\.$"):
            client.explain(f, np.ones(3), mode="first")  # type: ignore[arg-type]
        assert client.explain(partial(f, mode="first"), np.ones(3)).nbytes == 24
        # Where there is no such option, it is the function's.
        assert client.linear_operator(f, np.ones(3), mode="first").shape == (1, 3)

    @pytest.mark.parametrize(("seed", "got"), [(-1, "-1"), ("a", "'a'"), (1.5, "1.5"), (True, "True")])
    def test_a_seed_that_is_none(self, client: jl.Client, seed: Any, got: str) -> None:
        with pytest.raises(
            jl.OptionError, match=rf"`client\.check\(sin, \.\.\., seed={got}\)`: seed must be an integer that is not negative, got {got}\."
        ):
            client.check(jnp.sin, np.ones(2), seed=seed)

    @pytest.mark.parametrize("f", [backward_only, lambda x: backward_only(x) + 1], ids=["itself", "within"])
    def test_a_mode_that_there_is_not_names_the_call_and_a_line(self, client: jl.Client, f: Any) -> None:
        with pytest.raises(
            jl.ModeUnavailableError, match=r"^`client\.jacobian\(\w+, mode='forward'\)`: .*reverse.* \(at .*test_explain\.py:\d+ \("
        ) as caught:
            client.jacobian(f, mode="forward")(np.ones(3))
        assert caught.value.message.count("client.") == 1
        with pytest.raises(jl.ModeUnavailableError, match=r"^`client\.explain\(\w+, \.\.\., mode='forward'\)`: "):
            client.explain(f, np.ones(3), mode="forward")


class TestCommand:
    @staticmethod
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jacloom", "explain", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    def test_a_registered_function(self, client: jl.Client, address: str, tmp_path: Path) -> None:
        function = client.register(arrow, np.ones(12), name="arrow")
        path = tmp_path / "arrow.png"
        done = self.run(function.id[:10], "--output", "csr", "--spy", str(path), "--address", address)
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[0].startswith("strategy  bicoloured: ")
        assert [line.split()[0] for line in lines[lines.index("") + 2 : -2]] == ["bicoloured", "coloured", "coloured", "forward", "reverse"]
        assert lines[-1] == f"pattern drawn to {path}"
        np.testing.assert_array_equal((inner(path)[:: _spy.LARGEST, :: _spy.LARGEST] != _spy.WHITE).any(axis=-1), arrowhead(12))

    def test_arguments_by_number_as_a_program_reads_it(self, client: jl.Client, address: str) -> None:
        client.register(lambda n, p, x: (p["a"] * x * n).sum() + (x**3).sum(), np.int32(2), {"a": 1.5}, np.ones(6), name="cubes")
        done = self.run("cubes", "--derivative", "hessian", "--argnums", "2", "--output", "csr", "--json", "--address", address)
        found = json.loads(done.stdout)
        assert (done.returncode, found["derivative"], found["strategy"], found["passes"], found["forward"]) == (0, "hessian", "star-coloured", 1, 1)
        assert found["considered"][0]["verdict"] == "cheapest: columns of one colour share a pass"
        done = self.run("cubes", "--argnums", "1,2", "--json", "--address", address)
        assert json.loads(done.stdout)["nbytes"] == 7 * 8

    def test_a_weighted_sum_of_outputs(self, client: jl.Client, address: str) -> None:
        client.register(lambda x: {"sum": energy(x), "moves": x[1:] * x[:-1] ** 2}, np.ones(9), name="lagrangian")
        options = ["lagrangian", "--derivative", "hessian", "--output", "csr", "--json", "--address", address]
        done = self.run(*options, "--weighted")
        found = json.loads(done.stdout)
        assert (done.returncode, found["strategy"], found["passes"]) == (0, "star-coloured", 3)
        done = self.run(*options)
        assert (done.returncode, "pass weights=..., one number" in json.loads(done.stdout)["error"]["message"]) == (1, True)

    def test_bad_input(self, client: jl.Client, address: str, tmp_path: Path) -> None:
        name = client.register(lambda n, x: x * n, np.int32(2), np.ones(3)).name
        for arguments, text in (
            ([name], "args[0] is int32[], and only floating-point and complex inputs have derivatives"),
            ([name, "--argnums", "1", "--spy", str(tmp_path / "nowhere" / "a.png")], "the file cannot be written: No such file or directory."),
            (["nothing"], "no function has the name 'nothing'"),
        ):
            done = self.run(*arguments, "--address", address)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.startswith("jacloom: ")
            assert text in done.stderr
