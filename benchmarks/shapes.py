"""Functions whose Jacobians have telling shapes: each has a best way to be computed, and not the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import block_diag, csr_array, diags_array, random_array


@dataclass(frozen=True)
class Shape:
    """A function and where to differentiate it."""

    name: str
    function: Callable[..., Any]
    point: Any
    pattern: csr_array | None = None
    """The entries that may differ from zero, where most may not."""
    dense: bool = True
    """Whether the whole matrix fits; otherwise it is asked for as CSR."""


def shapes() -> Iterator[Shape]:
    """Yields the shapes, tall to tiny; each a new function with large arrays of its own."""
    numbers = np.random.default_rng(0)
    yield Shape("tall, 400 000 x 8", lambda p: _waves(p, 400_000), numbers.uniform(0.5, 1, 8))
    yield Shape("wide, 8 x 100 000", lambda x: jnp.stack([_iterated(x * c, 10).sum() for c in np.linspace(0.5, 1, 8)]), numbers.normal(size=100_000))
    yield Shape("scalar output, 1 x 2 000 000", lambda x: (_iterated(x, 8) * jnp.roll(x, 1)).sum(), numbers.normal(size=2_000_000))
    weights = [numbers.normal(size=(size, size)) / np.sqrt(size) for size in (1600, 1600)]
    yield Shape("square, 1 600 x 1 600", lambda x: jnp.tanh(weights[1] @ jnp.tanh(weights[0] @ x)), numbers.normal(size=1600))
    yield Shape("scan, 256 x 256, 2 000 steps", _flow, numbers.normal(size=256))
    yield Shape("many leaves, 600 x 1 200", _springs, [numbers.normal(size=50) for _ in range(24)])
    yield from _large(numbers)
    yield from _sparse(numbers)
    yield Shape("tiny, 2 x 3", lambda x: jnp.stack([x[0] * x[1], jnp.sin(x[2])]), np.ones(3))


def _large(numbers: np.random.Generator) -> Iterator[Shape]:
    """Yields a function of 256 MiB of constants, and others where memory decides what a pass costs."""
    matrix, table = numbers.normal(size=(4096, 8192)) / 90, numbers.normal(size=(32, 4096)) / 64
    yield Shape("huge constants, 32 x 8 192", lambda x: table @ jnp.tanh(matrix @ x), numbers.normal(size=8192))
    places = numbers.integers(0, 300, size=200_000)
    signs = numbers.choice([-1.0, 1.0], size=(250, 800))
    yield Shape("gathers, 250 x 300", lambda x: (jnp.sin(x[places].reshape(250, 800)) * signs).sum(axis=1), numbers.normal(size=300))
    stiff = np.eye(500) * 4 + numbers.normal(size=(500, 500)) / 25
    yield Shape("implicit, 500 x 500", lambda x: jnp.linalg.solve(stiff + jnp.diag(x), jnp.sin(x)), numbers.uniform(0, 1, 500))
    yield Shape("loop of unknown length, 60 x 60", _settled, numbers.uniform(1, 2, 60))


def _sparse(numbers: np.random.Generator) -> Iterator[Shape]:
    n = 100_000
    band = diags_array([np.ones(n - 2), np.ones(n - 1), np.ones(n), np.ones(n - 1), np.ones(n - 2)], offsets=(-2, -1, 0, 1, 2), format="csr")
    yield Shape("banded, 100 000 x 100 000, CSR", lambda x: _banded(x, 60), numbers.normal(size=n), band, dense=False)
    small = band[:2000, :2000]
    yield Shape("banded, 2 000 x 2 000", lambda x: _banded(x, 2000), numbers.normal(size=2000), small)
    blocks = numbers.normal(size=(200, 20, 20))
    within = lambda x: jnp.einsum("bij,bj->bi", blocks, _iterated(x.reshape(200, 20), 300)).reshape(-1)  # noqa: E731
    square = csr_array(block_diag([np.ones((20, 20))] * 200))
    yield Shape("block, 4 000 x 4 000", within, numbers.normal(size=4000), square)
    yield Shape("block, 4 000 x 4 000, CSR", within, numbers.normal(size=4000), square, dense=False)
    n = 20_000
    arrow = diags_array(np.ones(n), format="lil")
    arrow[0], arrow[:, 0] = 1, np.ones((n, 1))
    yield Shape("arrowhead, 20 000 x 20 000, CSR", _arrow, numbers.normal(size=n), csr_array(arrow), dense=False)
    thin = random_array((3000, 3000), density=0.01, rng=numbers, format="csr")
    matrix = thin.toarray()
    yield Shape("random 1 %, 3 000 x 3 000", lambda x: jnp.tanh(matrix @ x), numbers.normal(size=3000), thin)
    yield Shape("random 1 %, 3 000 x 3 000, CSR", lambda x: jnp.tanh(matrix @ x), numbers.normal(size=3000), thin, dense=False)


def _iterated(x: jax.Array, steps: int) -> jax.Array:
    """Some work on each entry alone."""
    return jax.lax.scan(lambda y, _: (jnp.sin(y) + 0.5 * x, None), x, length=steps)[0]


def _waves(p: jax.Array, points: int) -> jax.Array:
    t = jnp.linspace(0.0, 1.0, points)
    return sum((p[k] * jnp.sin((k + 1) * t * p[k + 1]) * jnp.exp(-t * p[k]) for k in range(7)), jnp.zeros(points))


def _flow(x: jax.Array) -> jax.Array:
    """Lorenz-96."""

    def step(y: jax.Array, _: None) -> tuple[jax.Array, None]:
        return y + 0.001 * ((jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + 8.0), None

    return jax.lax.scan(step, x, length=2000)[0]


def _springs(leaves: list[jax.Array]) -> list[jax.Array]:
    """Forces between neighbours, in half as many leaves; each depends on all leaves, through the centre of mass."""
    centre = sum(leaves) / len(leaves)
    apart = [jnp.tanh(first - second) * jnp.exp(-((first - centre) ** 2)) for first, second in zip(leaves[::2], leaves[1::2], strict=True)]
    return jnp.split(_iterated(jnp.concatenate(apart), 500), len(apart))


def _settled(x: jax.Array) -> jax.Array:
    """Newton's method with damping, which nobody knows the steps of."""
    mixed = jnp.stack([jnp.roll(x, shift) for shift in range(200)]).reshape(-1) + 1.0
    step = lambda y: y - 0.1 * (y**3 - mixed) / (3 * y**2)  # noqa: E731
    found = jax.lax.while_loop(lambda y: jnp.any(jnp.abs(y**3 - mixed) > 1e-9), step, jnp.ones_like(mixed))
    return found.reshape(200, 60).sum(axis=0)


def _banded(x: jax.Array, steps: int) -> jax.Array:
    wide = jnp.pad(x, 2)
    return _iterated(wide[:-4] * wide[4:] + wide[1:-3] * wide[3:-1] + wide[2:-2], steps)


def _arrow(x: jax.Array) -> jax.Array:
    along = _iterated(x * x[0], 400)
    return along.at[0].set(along.sum())
