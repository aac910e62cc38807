"""How many points are computed at once: what is tried, what ends it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.batch import Batch

from jacloom_graph.errors import Fault, Reason
from jacloom_worker import pacing
from jacloom_worker.protocol import Kind
from jacloom_worker.unit import Pace, Recipe, Unit

pytestmark = pytest.mark.usefixtures("worker_jax")


def lorenz(x: jax.Array) -> jax.Array:
    """One step of Lorenz-96: so little work that a call costs more."""
    return x + 0.01 * ((jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + 8)


@pytest.fixture
def batch(tmp_path: Path) -> Batch:
    return Batch(tmp_path, lorenz, {0: np.random.default_rng(0).normal(size=(40, 6))}, {})


def tried(batch: Batch, monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float] | None = None) -> list[int]:
    """Returns a list that notes how many points are tried at once, in order, each number once; with the times that they shall seem to take."""
    found: list[int] = []
    together = pacing._Trials.together

    def noted(trials: Any, points: int, arguments: Any) -> float:
        assert all(len(array) == points for array in arguments), "each trial has points of its own"
        found.append(points)
        measured = together(trials, points, arguments)
        return seconds(points) if seconds else measured

    monkeypatch.setattr(pacing._Trials, "together", noted)
    return found


def jacobian(batch: Batch, width: int = 2) -> Recipe:
    """Returns the recipe of a Jacobian of six columns."""
    return batch.tiles(batch.kernel(Kind.FORWARD, (0,), (0,), width=width), 10)


def paced(batch: Batch, recipe: Recipe, points: int = 40, *operands: np.ndarray) -> Pace:
    answer = batch.writer.pace(batch.order(recipe, Unit(0, 0, points)), *operands)
    assert isinstance(answer, Pace), answer
    assert not list(batch.folder.glob("aside-*")), "nothing is written"
    return answer


def test_many_small_points_go_together(batch: Batch) -> None:
    recipe = jacobian(batch)
    pace = paced(batch, recipe, points=9)
    assert pace.points >= 2
    assert pace.seconds > 0
    units = [Unit(number, 10 * number, 10) for number in range(4)]
    batch.run(recipe.at_once(pace.points), units)
    expected = jax.vmap(jax.jacfwd(lorenz))(batch.arguments[0])
    np.testing.assert_allclose(batch.read("matrix/0/0"), expected, rtol=1e-10, atol=1e-12)


def test_twice_as_many_until_a_point_is_no_faster_twice(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {1: 1e-4, 2: 0.5e-4, 4: 0.49e-4, 8: 0.4e-4, 16: 0.39e-4, 32: 0.385e-4}
    numbers = tried(batch, monkeypatch, lambda points: times[points])
    assert paced(batch, jacobian(batch)) == Pace(8, 0.4e-4)
    assert numbers == [1, 2, 4, 8, 16, 32]


def test_never_more_than_there_are(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = tried(batch, monkeypatch, lambda points: 1e-4 / points)
    assert paced(batch, jacobian(batch), points=3).points == 2
    assert numbers == [1, 2]


def test_seeds_of_all_points_have_a_bound(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = tried(batch, monkeypatch, lambda points: 1e-4 / points)
    monkeypatch.setattr(pacing, "MOST_WIDTH", 6 * 5)
    assert paced(batch, jacobian(batch)).points == 4
    assert numbers == [1, 2, 4]


def test_results_have_a_bound(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = tried(batch, monkeypatch, lambda points: 1e-4 / points)
    monkeypatch.setattr(pacing, "BYTES", 2 * 6 * 6 * 8)
    assert paced(batch, jacobian(batch)).points == 2
    assert numbers == [1, 2]


def test_trying_takes_no_longer_than_it_may(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = tried(batch, monkeypatch, lambda points: 0.3 / points**0.1)
    assert paced(batch, jacobian(batch)).points == 4
    assert numbers == [1, 2, 4], "eight would take two seconds more"


def test_a_matrix_too_wide_for_one_kernel_goes_tile_by_tile(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = tried(batch, monkeypatch)
    monkeypatch.setattr(pacing, "MOST_WIDTH", 5)
    pace = paced(batch, jacobian(batch))
    assert (pace.points, numbers) == (0, [])
    assert pace.seconds > 0


def steps(x: jax.Array) -> jax.Array:
    """A loop with 800 kB of state, and as much again for each seed."""
    return jax.lax.fori_loop(0, 3, lambda _, y: jnp.roll(y, 1) * x[0] + jnp.sin(y), jnp.broadcast_to(x.sum(), 100_000))[::50_000]


def cramped(folder: Path, memory: int) -> Batch:
    return Batch(folder, steps, {0: np.ones((8, 6))}, {}, memory=memory)


@pytest.mark.parametrize("memory", [6 << 20, 24 << 20])
def test_a_matrix_too_large_for_the_memory_goes_tile_by_tile(tmp_path: Path, memory: int) -> None:
    """Whether a kernel with all seeds needs all of it, or more than its share."""
    batch = cramped(tmp_path, memory)
    assert paced(batch, jacobian(batch, width=1), points=8).points == 0


@pytest.mark.parametrize("width", [1, 6])
def test_what_does_not_even_fit_so_is_a_fault(tmp_path: Path, width: int) -> None:
    batch = cramped(tmp_path, 1 << 20)
    answer = batch.writer.pace(batch.order(jacobian(batch, width=width), Unit(0, 0, 8)))
    assert isinstance(answer, Fault)
    assert answer.reason is Reason.OUT_OF_MEMORY


def test_more_points_than_fit_end_the_climb(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(points: int) -> float:
        if points > 4:
            raise Fault(Reason.OUT_OF_MEMORY, "full")
        return 1e-4 / points

    numbers = tried(batch, monkeypatch, full)
    assert paced(batch, jacobian(batch)) == Pace(4, 1e-4 / 4)
    assert numbers == [1, 2, 4, 8]


def test_kernels_have_a_share_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = cramped(tmp_path, 20 << 20)
    numbers = tried(batch, monkeypatch, lambda points: 1e-4 / points)
    pace = paced(batch, batch.single(batch.kernel(Kind.VALUE, (), (), values=(0,)), 8, batch.outputs), points=8)
    assert 1 <= pace.points < 8
    assert numbers[-1] == pace.points, "the next number was foreseen not to fit"


@pytest.mark.parametrize("kind", [Kind.VALUE, Kind.JVP, Kind.GRADIENT])
def test_single_passes(tmp_path: Path, kind: Kind) -> None:
    x = np.random.default_rng(0).normal(size=(7, 6))
    batch = Batch(tmp_path, lambda x: jnp.sum(lorenz(x)), {0: x}, {})
    wrt, outputs, values = ((), (), (0,)) if kind is Kind.VALUE else ((0,), (0,), ())
    types = [batch.inputs[0] if kind is Kind.GRADIENT else batch.outputs[0]]
    recipe = batch.single(batch.kernel(kind, wrt, outputs, values=values), 4, types, [x] if kind is Kind.JVP else [])
    assert 1 <= paced(batch, recipe, points=7).points <= 4


def test_sparse_derivatives_with_values(tmp_path: Path) -> None:
    batch = Batch(tmp_path, lorenz, {0: np.random.default_rng(0).normal(size=(7, 40))}, {})
    recipe, _, operands = batch.sparse(batch.kernel(Kind.FORWARD, (0,), (0,)), 7, (0,))
    assert 1 <= paced(batch, recipe, 7, *operands).points <= 4


def test_tiles_of_several_steps_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colours of two modes and values, each with arrays of its own."""
    arrow = lambda x: jnp.concatenate([jnp.sin(x[1:]) * x[0], jnp.sum(x**3)[None]])  # noqa: E731
    batch = Batch(tmp_path, arrow, {0: np.random.default_rng(0).normal(size=(3, 19))}, {})
    recipe, structure, operands = batch.sparse(batch.kernel(Kind.FORWARD, (0,), (0,)), 3, (0,), width=1)
    assert (len(structure.parts), structure.passes) == (2, 3)
    monkeypatch.setattr(pacing, "MOST_WIDTH", 1)
    monkeypatch.setattr(pacing._Trials, "_least", lambda trials, run: (run(trials._caller()), 1.0)[1])
    assert paced(batch, recipe, 3, *operands) == Pace(0, 3 + 1.0)


def test_a_function_without_such_a_derivative_is_a_fault(tmp_path: Path) -> None:
    batch = Batch(tmp_path, lambda z: jnp.abs(z), {0: np.ones((3, 2), np.complex128)}, {})
    recipe = batch.tiles(batch.kernel(Kind.FORWARD, (0,), (0,), width=2), 3)
    answer = batch.writer.pace(batch.order(recipe, Unit(0, 0, 3)))
    assert isinstance(answer, Fault)
    assert answer.reason is Reason.MODE_UNAVAILABLE
