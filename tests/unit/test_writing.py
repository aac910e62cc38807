"""Units of jobs: what is found in the store at last is what JAX computes, point by point."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.sparse import csr_array
from unit.batch import Batch

from jacloom_graph.errors import Fault, Reason
from jacloom_worker.protocol import Inner, Kind, Missing, Prices
from jacloom_worker.unit import Unit, Written

pytestmark = pytest.mark.usefixtures("worker_jax")

POINTS = 5
RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return np.asarray(RANDOM.normal(size=shape))


def mixed(a: jax.Array, w: jax.Array, none: jax.Array, c: jax.Array, count: jax.Array) -> dict[str, Any]:
    """Outputs: an integer, an empty array, a matrix, a scalar of float32."""
    matrix = jnp.sin(a)[:, None] * jnp.cos(w).sum(axis=1) * c
    return {"a": count + 1, "b": none * c, "c": matrix, "d": (a.sum() * c**2).astype(jnp.float32)}


WRT, OUTPUTS = (1, 3, 0, 2), (3, 1, 2)


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    points = {0: normal(POINTS, 3), 2: np.zeros((POINTS, 0, 2)), 3: normal(POINTS), 4: np.arange(POINTS, dtype=np.int32)}
    return Batch(tmp_path, mixed, points, {1: normal(2, 4)})


def outputs(*arguments: Any) -> list[Any]:
    results = list(mixed(*arguments).values())
    return [results[index] for index in OUTPUTS]


def check_blocks(batch: Batch, transform: Callable[..., Any], second: bool = False) -> None:
    """Compares all blocks with those that JAX gives."""
    for point in range(batch.count):
        expected = transform(outputs, argnums=WRT)(*map(jnp.asarray, batch.at(point)))
        for output, row in enumerate(expected):
            for leaf, block in enumerate(row):
                for other, one in enumerate(block if second else [block]):
                    name = f"matrix/{output}/{leaf}" + (f"/{other}" if second else "")
                    got = batch.read(name)[point]
                    assert got.shape == one.shape
                    np.testing.assert_allclose(got, one, rtol=1e-5, atol=1e-6, err_msg=name)


class TestMatrices:
    @pytest.mark.parametrize("points", [0, 2])
    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE])
    def test_jacobians(self, batch: Batch, kind: Kind, points: int) -> None:
        recipe = batch.tiles(batch.kernel(kind, WRT, OUTPUTS, width=3), 3, values=(0, 2, 3))
        written = batch.run(recipe.at_once(points) if points else recipe, batch.units(3))
        check_blocks(batch, jax.jacfwd if kind is Kind.FORWARD else jax.jacrev)
        assert batch.read("value/0").tolist() == [1, 2, 3, 4, 5]
        for point in range(POINTS):
            for leaf, path in ((2, "value/2"), (3, "value/3")):
                np.testing.assert_allclose(batch.read(path)[point], list(mixed(*map(jnp.asarray, batch.at(point))).values())[leaf], rtol=1e-6)
        assert [one.finite.tolist() for one in written] == [[True] * 3, [True] * 2]
        assert all(one.seconds > 0 and one.write_seconds > 0 for one in written)
        assert (written[0].compile_seconds > 0, written[1].compile_seconds) == (True, 0.0)

    @pytest.mark.parametrize("points", [0, 4])
    def test_second_derivatives(self, batch: Batch, points: int) -> None:
        recipe = batch.tiles(batch.kernel(Kind.HESSIAN, WRT, OUTPUTS, width=5), 3)
        batch.run(recipe.at_once(points) if points else recipe, batch.units(3))
        check_blocks(batch, lambda f, argnums: jax.jacfwd(jax.jacrev(f, argnums), argnums), second=True)

    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE, Kind.HESSIAN])
    def test_slabs_of_seeds(self, batch: Batch, kind: Kind) -> None:
        """Each fills a box of one leaf: rows of one of its matrices, parts of such a row, a vector in pieces."""
        # Leaves: (2, 4) in pieces of three of a row, a scalar, (3,) in two pieces, an empty one. Outputs: a scalar, an empty one, (3, 2) by rows.
        if kind is Kind.REVERSE:
            chunks, ranges = [(), (1, 2), (2, 2)], [(0, 1), (1, 4), (5, 2)]
        else:
            chunks, ranges = [(1, 3), (), (2,), (1, 2)], [(0, 3), (3, 1), (4, 3), (7, 1), (8, 1), (9, 2), (11, 1)]
        recipe = batch.tiles(batch.kernel(kind, WRT, OUTPUTS, width=2), 1, values=(0,), chunks=chunks)
        units = [Unit(number, point, 1, *range_) for point in range(POINTS) for number, range_ in enumerate(ranges)]
        written = batch.run(recipe, units)
        transform = {Kind.FORWARD: jax.jacfwd, Kind.REVERSE: jax.jacrev, Kind.HESSIAN: lambda f, argnums: jax.jacfwd(jax.jacrev(f, argnums), argnums)}
        check_blocks(batch, transform[kind], second=kind is Kind.HESSIAN)
        assert batch.read("value/0").tolist() == [1, 2, 3, 4, 5]
        paths = [chunk.path for chunk in written[1].chunks]
        assert not any(path.startswith("value") for path in paths), "values belong to the first slab alone"

    def test_a_unit_of_parts_of_chunks_is_refused_before_it_is_computed(self, batch: Batch) -> None:
        recipe = batch.tiles(batch.kernel(Kind.FORWARD, WRT, OUTPUTS, width=3), 3)
        for unit in (Unit(0, 0, 2), Unit(0, 1, 3), Unit(0, 3, 3), Unit(0, 0, 1, 0, 4)):
            refused = batch.write(recipe, unit)
            assert isinstance(refused, Fault)
            assert (refused.reason, "whole" in refused.message) == (Reason.INTERNAL, True)
        assert not list(batch.folder.glob("aside-*"))

    def test_seeds_that_fill_no_box_are_refused(self, batch: Batch) -> None:
        recipe = batch.tiles(batch.kernel(Kind.FORWARD, WRT, OUTPUTS, width=3), 1)
        refused = batch.write(recipe, Unit(0, 0, 1, 2, 3))
        assert isinstance(refused, Fault)
        assert "no box" in refused.message


class TestSinglePasses:
    @pytest.mark.parametrize("points", [0, 1, 2, 8])
    def test_products_with_their_values(self, batch: Batch, points: int) -> None:
        tangents = [normal(POINTS, 2, 4), normal(POINTS)]
        types = [batch.outputs[2], batch.outputs[0]]
        recipe = batch.single(batch.kernel(Kind.JVP, (1, 3), (2,), values=(0,)), 2, types, tangents)
        batch.run(recipe.at_once(points) if points else recipe, batch.units(2))
        for point in range(POINTS):
            a, w, none, c, count = map(jnp.asarray, batch.at(point))
            _, expected = jax.jvp(lambda w, c: mixed(a, w, none, c, count)["c"], (w, c), (tangents[0][point], tangents[1][point]))  # noqa: B023
            np.testing.assert_allclose(batch.read("result/0")[point], expected, rtol=1e-10)
        assert batch.read("result/1").tolist() == [1, 2, 3, 4, 5]

    def test_pullbacks(self, batch: Batch) -> None:
        cotangents = [normal(POINTS, 3, 2)]
        recipe = batch.single(batch.kernel(Kind.VJP, (1, 0), (2,)), 2, [batch.inputs[1], batch.inputs[0]], cotangents)
        batch.run(recipe.at_once(2), batch.units(2))
        for point in range(POINTS):
            a, w, none, c, count = map(jnp.asarray, batch.at(point))
            _, pullback = jax.vjp(lambda w, a: mixed(a, w, none, c, count)["c"], w, a)  # noqa: B023
            for at, expected in enumerate(pullback(jnp.asarray(cotangents[0][point]))):
                np.testing.assert_allclose(batch.read(f"result/{at}")[point], expected, rtol=1e-10)

    @pytest.mark.parametrize("inner", ["reverse", "forward"])
    def test_gradients(self, tmp_path: Path, inner: Inner) -> None:
        batch = Batch(tmp_path, lambda x, y: jnp.prod(x) * jnp.sin(y).sum(), {0: normal(POINTS, 3), 1: normal(POINTS, 2, 1)}, {})
        recipe = batch.single(batch.kernel(Kind.GRADIENT, (0, 1), (0,), values=(0,), inner=inner), 5, [*batch.inputs, batch.outputs[0]])
        batch.run(recipe.at_once(3), batch.units(5))
        for point in range(POINTS):
            value, expected = jax.value_and_grad(batch.f, (0, 1))(*map(jnp.asarray, batch.at(point)))
            for path, one in zip(("result/0", "result/1", "result/2"), (*expected, value), strict=True):
                np.testing.assert_allclose(batch.read(path)[point], one, rtol=1e-10)

    def test_keys_that_points_have_of_their_own(self, tmp_path: Path) -> None:
        keys = jax.random.split(jax.random.key(3), POINTS)
        batch = Batch(tmp_path, lambda key, x: (jax.random.normal(key, (2,)) * x, jax.random.fold_in(key, 1)), {0: keys}, {1: normal(2)})
        recipe = batch.single(batch.kernel(Kind.VALUE, (), (), values=(0, 1)), 2, batch.outputs)
        batch.run(recipe.at_once(2), batch.units(2))
        for point in range(POINTS):
            drawn, folded = batch.f(keys[point], batch.arguments[1])
            np.testing.assert_allclose(batch.read("result/0")[point], drawn)
            np.testing.assert_array_equal(batch.read("result/1")[point], jax.random.key_data(folded))

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64", "complex128", "bool", "uint8"])
    def test_dtypes(self, tmp_path: Path, dtype: str) -> None:
        x = (normal(POINTS, 3) * 4).astype(jnp.dtype(dtype))
        batch = Batch(tmp_path, lambda x: x[::-1], {0: x}, {})
        batch.run(batch.single(batch.kernel(Kind.VALUE, (), (), values=(0,)), 2, batch.outputs).at_once(2), batch.units(2))
        got = batch.read("result/0")
        assert got.dtype == ("float32" if dtype == "bfloat16" else dtype)
        np.testing.assert_array_equal(got, x[:, ::-1].astype(got.dtype))

    def test_blocks_are_of_the_dtype_that_holds_leaf_and_output(self, tmp_path: Path) -> None:
        x = normal(POINTS, 3).astype(np.float16)
        batch = Batch(tmp_path, lambda x: x.astype(jnp.float64) ** 2, {0: x}, {})
        recipe = batch.tiles(batch.kernel(Kind.REVERSE, (0,), (0,), width=3), 5)
        batch.run(recipe.at_once(2), batch.units(5))
        got = batch.read("matrix/0/0")
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, [np.diag(row) for row in 2 * x.astype(float)], rtol=1e-3)


def neighbours(x: jax.Array) -> jax.Array:
    """Each entry depends on three."""
    return jnp.sin(x[:-2]) * x[1:-1] + x[2:] ** 2


def arrow(x: jax.Array) -> jax.Array:
    """All entries depend on the first, the last on all."""
    return jnp.concatenate([jnp.sin(x[1:]) * x[0], jnp.sum(x**3)[None]])


def rosenbrock(x: jax.Array) -> jax.Array:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


class TestSparse:
    @pytest.mark.parametrize("points", [0, 2])
    @pytest.mark.parametrize(
        ("f", "prices", "strategy"),
        [
            (neighbours, Prices(1.0, None), "coloured forward"),
            (neighbours, Prices(None, 1.0), "coloured reverse"),
            (arrow, Prices(1.0, 1.0), "bicoloured"),
        ],
    )
    def test_jacobians(self, tmp_path: Path, f: Callable[..., Any], prices: Prices, strategy: str, points: int) -> None:
        batch = Batch(tmp_path, f, {0: normal(POINTS, 19)}, {})
        recipe, structure, operands = batch.sparse(batch.kernel(Kind.FORWARD, (0,), (0,)), 3, (0,), prices)
        assert structure.strategy == strategy
        written = batch.run(recipe.at_once(points) if points else recipe, batch.units(3), *operands)
        for point in range(POINTS):
            x = batch.arguments[0][point]
            entries = csr_array((batch.read("data")[point], structure.indices, structure.pointers), structure.shape)
            np.testing.assert_allclose(entries.toarray(), jax.jacfwd(f)(x), rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(batch.read("value/0")[point], f(x), rtol=1e-12)
        assert all(one.finite.all() for one in written)

    @pytest.mark.parametrize("points", [0, 4])
    def test_second_derivatives_in_star_colours(self, tmp_path: Path, points: int) -> None:
        batch = Batch(tmp_path, rosenbrock, {0: normal(POINTS, 7)}, {})
        recipe, structure, operands = batch.sparse(batch.kernel(Kind.HESSIAN, (0,), (0,)), 5)
        batch.run(recipe.at_once(points) if points else recipe, batch.units(5), *operands)
        for point in range(POINTS):
            entries = csr_array((batch.read("data")[point], structure.indices, structure.pointers), structure.shape)
            np.testing.assert_allclose(entries.toarray(), jax.hessian(rosenbrock)(batch.arguments[0][point]), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("points", [0, 3])
    def test_columns_that_spoil_their_neighbours_are_computed_apart(self, tmp_path: Path, points: int) -> None:
        # The root has an infinite slope at zero, which is multiplied by zero on the way to the other rows of its colour.
        x = np.abs(normal(POINTS, 6)) + 1
        x[1, 2] = x[4, 0] = 0.0
        batch = Batch(tmp_path, lambda w, x: w @ jnp.sqrt(x), {1: x}, {0: np.eye(6)})
        diagonal = (np.arange(7, dtype=np.int32), np.arange(6, dtype=np.int32))
        recipe, structure, operands = batch.sparse(batch.kernel(Kind.FORWARD, (1,), (0,)), 5, given=diagonal)
        assert structure.passes == 1
        (written,) = batch.run(recipe.at_once(points) if points else recipe, batch.units(5), *operands)
        with np.errstate(divide="ignore"):
            np.testing.assert_allclose(batch.read("data"), 0.5 / np.sqrt(x))
        assert written.finite.tolist() == [True, False, True, True, False]

    def test_some_of_the_passes_are_no_unit(self, tmp_path: Path) -> None:
        batch = Batch(tmp_path, neighbours, {0: normal(POINTS, 9)}, {})
        recipe, _, operands = batch.sparse(batch.kernel(Kind.FORWARD, (0,), (0,)), 1)
        refused = batch.write(recipe, Unit(0, 0, 1, 0, 2), *operands)
        assert isinstance(refused, Fault)
        assert "all passes" in refused.message


class TestUnits:
    def test_one_that_is_computed_again_gives_the_same_bytes(self, batch: Batch) -> None:
        recipe = batch.tiles(batch.kernel(Kind.FORWARD, WRT, OUTPUTS, width=3), 3, values=(3,)).at_once(2)
        first, second = batch.write(recipe, Unit(1, 3, 2)), batch.write(recipe, Unit(1, 3, 2))
        assert isinstance(first, Written)
        assert first.chunks == second.chunks
        assert len({chunk.checksum for chunk in first.chunks}) > 1, "checksums tell chunks apart"

    def test_results_that_are_not_finite_are_flagged_and_written(self, tmp_path: Path) -> None:
        batch = Batch(tmp_path, lambda x: jnp.log(x), {0: np.array([[1.0, 2], [0, 1], [-1, 1], [3, 4], [5, 6]])}, {})
        recipe = batch.tiles(batch.kernel(Kind.FORWARD, (0,), (0,), width=2), 5, values=(0,)).at_once(2)
        (written,) = batch.run(recipe, batch.units(5))
        assert written.finite.tolist() == [True, False, False, True, True]
        np.testing.assert_array_equal(batch.read("value/0")[1], [-np.inf, 0.0])
        assert np.isnan(batch.read("value/0")[2, 0])

    def test_results_that_are_all_the_fill_value_are_written_as_well(self, tmp_path: Path) -> None:
        batch = Batch(tmp_path, lambda x: (x * jnp.nan, x.astype(jnp.int32) * 0), {0: normal(POINTS, 2)}, {})
        recipe = batch.single(batch.kernel(Kind.VALUE, (), (), values=(0, 1)), 5, batch.outputs).at_once(5)
        (written,) = batch.run(recipe, batch.units(5))
        assert [chunk.path for chunk in written.chunks] == ["result/0/c/0/0", "result/1/c/0/0"]

    @pytest.mark.parametrize("points", [0, 2])
    def test_points_that_are_skipped_are_as_if_nothing_was_written(self, tmp_path: Path, points: int) -> None:
        # At the point that is skipped the loop never ends.
        def f(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = jax.lax.while_loop(lambda y: (y < 100).any(), lambda y: y * 2, x)
            return y, y.astype(jnp.int32)

        x = np.abs(normal(POINTS, 2)) + 1
        x[3] = 0.0
        batch = Batch(tmp_path, f, {0: x}, {})
        recipe = batch.single(batch.kernel(Kind.VALUE, (), (), values=(0, 1)), 5, batch.outputs)
        (written,) = batch.run(recipe.at_once(points) if points else recipe, [Unit(0, 0, 5, skip=(3,))])
        assert written.finite.tolist() == [True, True, True, False, True]
        floats, integers = batch.read("result/0"), batch.read("result/1")
        assert np.isnan(floats[3]).all()
        assert integers[3].tolist() == [0, 0]
        for point in (0, 1, 2, 4):
            np.testing.assert_allclose(floats[point], f(jnp.asarray(x[point]))[0])

    def test_a_unit_that_is_skipped_as_a_whole(self, batch: Batch) -> None:
        recipe = batch.tiles(batch.kernel(Kind.FORWARD, WRT, OUTPUTS, width=3), 2).at_once(2)
        (written,) = batch.run(recipe, [Unit(1, 2, 2, skip=(2, 3))])
        assert (written.finite.tolist(), written.compile_seconds) == ([False, False], 0.0)
        assert np.isnan(batch.read("matrix/0/1")).all()

    def test_the_function_must_be_held_or_come_along(self, batch: Batch) -> None:
        recipe = batch.tiles(batch.kernel(Kind.FORWARD, WRT, OUTPUTS, width=3), 5)
        unit = Unit(0, 0, 5)
        order = batch.order(recipe, unit)
        without = replace(order, load=None)
        assert batch.writer.write(without) == Missing()
        assert batch.writer.pace(without) == Missing()
        assert isinstance(batch.writer.write(order), Written)
        assert isinstance(batch.writer.write(without), Written)

    def test_what_is_wrong_with_the_kernel_is_the_answer(self, batch: Batch) -> None:
        recipe = batch.tiles(batch.kernel(Kind.FORWARD, WRT, OUTPUTS, width=3), 5)
        wrong = replace(recipe, steps=(replace(recipe.steps[0], kernel=replace(recipe.steps[0].kernel, outputs=(7,))),))
        answer = batch.write(wrong, Unit(0, 0, 5))
        assert isinstance(answer, Fault)
        assert answer.field == "outputs[0]"

    def test_nothing_to_compute(self, tmp_path: Path) -> None:
        batch = Batch(tmp_path, lambda x: jnp.zeros(3), {0: normal(POINTS, 2)}, {})
        recipe, structure, operands = batch.sparse(batch.kernel(Kind.FORWARD, (0,), (0,)), 5)
        assert not structure.parts
        (written,) = batch.run(recipe, batch.units(5), *operands)
        assert (written.chunks, written.finite.all()) == ((), True)


class TestSources:
    def test_what_points_share_is_read_once_a_job(self, batch: Batch) -> None:
        recipe = batch.single(batch.kernel(Kind.VALUE, (), (), values=(3,)), 1, [batch.outputs[3]])
        batch.run(recipe, batch.units(1)[:1])
        for chunk in (batch.folder / "results" / "shared").rglob("c/*"):
            chunk.unlink() if chunk.is_file() else None
        written = batch.run(recipe, batch.units(1)[1:])
        assert all(one.finite.all() for one in written)

    def test_a_damaged_chunk_of_points_is_found(self, batch: Batch) -> None:
        chunk = batch.folder / "results" / "points/0/c/0/0"
        damaged = bytearray(chunk.read_bytes())
        damaged[5] ^= 1
        chunk.write_bytes(damaged)
        answer = batch.write(batch.single(batch.kernel(Kind.VALUE, (), (), values=(3,)), 5, [batch.outputs[3]]), Unit(0, 0, 5))
        assert isinstance(answer, Fault)
        assert (answer.reason, answer.message.split(":")[0]) == (Reason.INTERNAL, "points/0 is damaged")

    def test_a_store_that_is_gone_is_waited_for(self, batch: Batch) -> None:
        recipe = batch.single(batch.kernel(Kind.VALUE, (), (), values=(3,)), 5, [batch.outputs[3]])
        (batch.folder / "results").rename(batch.folder / "elsewhere")
        answer = batch.write(recipe, Unit(0, 0, 5))
        assert isinstance(answer, Fault)
        assert answer.reason is Reason.STORE_UNAVAILABLE
        assert str(batch.folder) not in answer.message


def test_a_unit_takes_the_room_of_its_results_and_one_chunk_more(tmp_path: Path) -> None:
    x = np.ones((2, 50_000))
    batch = Batch(tmp_path, lambda x: tuple(x * scale for scale in range(1, 9)), {0: x}, {})
    recipe = batch.single(batch.kernel(Kind.VALUE, (), (), values=tuple(range(8))), 2, batch.outputs)
    (first,) = batch.run(recipe, batch.units(2))
    tracemalloc.start()
    try:
        assert isinstance(batch.write(recipe, Unit(0, 0, 2)), Written)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    results = sum(chunk.nbytes for chunk in first.chunks)
    chunk, arguments = first.chunks[0].nbytes, x.nbytes
    assert most < results + 3 * chunk + arguments + (1 << 20)
