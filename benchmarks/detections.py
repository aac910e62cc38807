"""Finding patterns, from the Python function, in one process, beside asdex: one large function, and many small ones."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import asdex
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Goal, Report, in_turn
from benchmarks.sparse import brusselator
from jacloom_graph.types import Type
from jacloom_worker.infer import Apply
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.structuring import pattern

Function = Callable[[jax.Array], jax.Array]


def large() -> Report:
    """The pattern of the Brusselator with 180 000 unknowns."""
    residual, point = brusselator(300)
    with jax.enable_x64(True):
        ours, theirs = _contenders(residual, point)
        assert ours().nnz == theirs().nnz
        medians, spread = in_turn({"pattern": ours, "asdex": theirs}, rounds=3, warm=0)
    goal = Goal("at most 1/20 of asdex", medians["pattern"] / medians["asdex"], 1 / 20, "x")
    return Report("pattern of the Brusselator, 180 000 unknowns", medians, (goal,), spread)


def small() -> Report:
    """Patterns of small functions of many kinds: the differences of seconds, least of several turns each."""
    figures, differences = {}, {}
    with jax.enable_x64(True):
        for name, (fun, size) in _SMALL.items():
            least = [_least(run) for run in _contenders(fun, np.linspace(0.5, 1.5, size))]
            figures[f"{name} (ms, asdex {1e3 * least[1]:.1f})"], differences[name] = 1e3 * least[0], 1e3 * (least[0] - least[1])
    worst = max(differences, key=differences.__getitem__)
    goal = Goal(f"at most 20 ms slower than asdex on any of them; {worst} is the worst", differences[worst], 20, "ms")
    return Report("patterns of small functions", figures, (goal,))


def _contenders(fun: Function, point: np.ndarray) -> tuple[Callable[[], Any], Callable[[], Any]]:
    apply: Apply = lambda _, leaves: [fun(leaves[0])]  # noqa: E731
    inputs, outputs = (Type("float64", point.shape),), (Type("float64", jax.eval_shape(fun, point).shape),)
    return (
        lambda: pattern(Subject(apply, inputs, outputs), Kernel("", Kind.FORWARD, (0,), (0,))),
        lambda: asdex.jacobian_sparsity(fun, point),
    )


def _least(run: Callable[[], Any], rounds: int = 5) -> float:
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _scan(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda y, _: (y + 0.01 * (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1), None), x, length=10)[0]


def _lax_while(x: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda carry: carry[0] < 3, lambda carry: (carry[0] + 1, carry[1] * jnp.roll(carry[1], 1)), (0, x))[1]


def _kinetics(x: jax.Array) -> jax.Array:
    a, b, c = x
    return jnp.stack([-0.04 * a + 1e4 * b * c, 0.04 * a - 1e4 * b * c - 3e7 * b**2, 3e7 * b**2])


def _layers(x: jax.Array) -> jax.Array:
    for size in (30, 20, 10):
        x = jnp.tanh(jnp.ones((size, len(x))) @ x)
    return x


_MATRIX = np.eye(40) + np.eye(40, k=3)

_SMALL: dict[str, tuple[Function, int]] = {
    "identity": (lambda x: x, 1),
    "Robertson's kinetics": (_kinetics, 3),
    "Rosenbrock's residuals": (lambda x: jnp.concatenate([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]]), 100),
    "differences": (lambda x: x[1:] - x[:-1], 1000),
    "five points": (lambda x: sum(jnp.roll(x.reshape(20, 20), by, axis).ravel() for by in (1, -1) for axis in (0, 1)) - 4 * x, 400),
    "convolution": (lambda x: jnp.convolve(x, jnp.arange(1.0, 6.0)), 200),
    "sparse matrix": (lambda x: jnp.asarray(_MATRIX) @ x**2, 40),
    "layers": (_layers, 40),
    "outer product": (lambda x: jnp.outer(x, x).ravel(), 60),
    "running total": (jnp.cumsum, 500),
    "scan": (_scan, 40),
    "while loop": (_lax_while, 40),
    "branches": (lambda x: jax.lax.cond(x[0] > 0, lambda x: x[::-1] ** 2, lambda x: jnp.roll(x, 1), x), 100),
    "indices": (lambda x: x[jnp.arange(0, 200, 3)] * x[jnp.arange(1, 201, 3)[: len(range(0, 200, 3))]], 201),
    "scatter": (lambda x: jnp.zeros(150).at[jnp.arange(0, 150, 2)].add(x[:75] ** 2).at[1].set(x[80]), 150),
    "padding": (lambda x: jnp.pad(x.reshape(5, 20)[:, ::-1], 2)[1:, 3:].ravel() ** 2, 100),
    "sort": (jnp.sort, 50),
}
