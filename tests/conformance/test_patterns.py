"""Patterns against the Jacobians that they are patterns of: JAX's catalogue of primitives, and asdex wherever it has an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import asdex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.roundtrip import flat
from conformance.test_catalogue import FLOAT, inexact_part
from jax import lax
from scipy.sparse import csr_array

from jacloom_worker import pattern

MOST_ENTRIES = 3_000
"""Cases with more entries of inputs or outputs are left out: their dense Jacobian is what takes the time."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = FLOAT if metafunc.config.getoption("--whole-catalogue") else FLOAT[5::10]
        metafunc.parametrize("case", [pytest.param(case, id=case.fullname) for case in cases])


def test_no_entry_of_the_catalogues_jacobians_is_outside_its_pattern(case: Any) -> None:
    with jax.enable_x64(True):
        args = case.dyn_args_maker(np.random.RandomState(0))
        leaves = [leaf if jnp.issubdtype(jax.typeof(leaf).dtype, jax.dtypes.extended) else jnp.asarray(leaf) for leaf in jax.tree.leaves(tuple(args))]
        moving, of_moving = inexact_part(flat(case.dyn_fun, args), leaves)
        points = [leaves[index] for index in moving]
        outs = jax.eval_shape(of_moving, points)
        if not 0 < sum(point.size for point in points) <= MOST_ENTRIES or sum(out.size for out in outs) > MOST_ENTRIES:
            pytest.skip("nothing to differentiate, or too much for a dense Jacobian")
        compared = 0
        for product, seeds in ((_column, points), (_row, outs)):
            try:
                dense = _dense(product, of_moving, points, seeds)
            except Exception:  # JAX has no derivative of this case in this mode, which it says with many classes
                continue
            found = _detected(product, of_moving, points, seeds)
            assert not ((dense != 0) & ~np.isnan(dense) & ~found).any()
            compared += 1
        if not compared:
            pytest.skip("JAX has no derivative of this case")


def _column(function: Callable[..., Any], points: Sequence[Any], tangents: Sequence[Any]) -> Sequence[jax.Array]:
    """Returns ``J v``."""
    products: Sequence[jax.Array] = jax.jvp(function, (list(points),), (list(tangents),))[1]
    return products


def _row(function: Callable[..., Any], points: Sequence[Any], cotangents: Sequence[Any]) -> Sequence[jax.Array]:
    """Returns ``w J``."""
    products: Sequence[jax.Array] = jax.vjp(function, list(points))[1](list(cotangents))[0]
    return products


def _detected(product: Callable[..., Any], function: Callable[..., Any], points: Sequence[Any], seeds: Sequence[Any]) -> np.ndarray:
    zeros = [jnp.zeros(seed.shape, seed.dtype) for seed in seeds]
    closed = jax.make_jaxpr(lambda points, seeds: product(function, points, seeds))(points, zeros)
    places = range(len(points), len(closed.in_avals))
    return pattern.detect(closed, places, [None] * len(closed.in_avals)).toarray()


def _dense(product: Callable[..., Any], function: Callable[..., Any], points: Sequence[Any], seeds: Sequence[Any]) -> np.ndarray:
    """Returns all products with unit vectors, as columns."""
    sizes = [seed.size for seed in seeds]
    starts = np.cumsum([0, *sizes])

    def one(number: jax.Array) -> Sequence[jax.Array]:
        units = [
            (jnp.arange(first, first + seed.size) == number).astype(seed.dtype).reshape(seed.shape)
            for first, seed in zip(starts, seeds, strict=False)
        ]
        return product(function, points, units)

    found = jax.jit(lambda: jax.vmap(one)(jnp.arange(starts[-1])))()
    return np.concatenate([np.asarray(each).reshape(starts[-1], -1) for each in found], axis=1).T


def _brusselator(state: jax.Array) -> jax.Array:
    u, v = state

    def spread(w: jax.Array) -> jax.Array:
        return jnp.roll(w, 1, 0) + jnp.roll(w, -1, 0) + jnp.roll(w, 1, 1) + jnp.roll(w, -1, 1) - 4 * w

    return jnp.stack([1 + u * u * v - 4.4 * u + spread(u), 3.4 * u - u * u * v + spread(v)])


_MATRIX = np.where(np.arange(35).reshape(7, 5) % 3 == 0, 1.5, 0.0)
_KERNEL = np.array([[[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]]])

WRITTEN: dict[str, tuple[Callable[[jax.Array], Any], tuple[int, ...]]] = {
    "brusselator": (_brusselator, (2, 5, 4)),
    "slices": (lambda x: x[1:-1] * x[2:] + jnp.sin(x[:-2]), (9,)),
    "known matrix": (lambda x: _MATRIX @ x, (5,)),
    "two layers": (lambda x: jnp.tanh(_MATRIX.T @ jnp.tanh(_MATRIX @ x)), (5,)),
    "known gather": (lambda x: x[np.array([3, 1, 4, 1])] * x[0], (6,)),
    "bounded gather": (lambda x: x[jnp.argmax(x[:3])] * jnp.ones(2), (6,)),
    "scatter add": (lambda x: jnp.zeros(8).at[np.array([3, 1, 4, 1])].add(x), (4,)),
    "scatter set": (lambda x: (jnp.arange(8.0) * x[0]).at[np.array([3, 1, 4, 1])].set(x), (4,)),
    "convolution": (lambda x: lax.conv_general_dilated(x[None, None], _KERNEL, (1, 1), "SAME"), (5, 6)),
    "running total": (lambda x: jnp.cumsum(x, axis=0), (4, 3)),
    "running product": (jnp.cumprod, (5,)),
    "product": (lambda x: jnp.prod(x, axis=1), (3, 4)),
    "sort": (lambda x: jnp.sort(x, axis=1), (4, 3)),
    "known choice": (lambda x: jnp.where(jnp.arange(6) < 3, x, jnp.sin(x[::-1])), (6,)),
    "choice": (lambda x: jnp.where(x > 0, x, jnp.sin(x[::-1])), (6,)),
    "scan": (lambda x: lax.scan(lambda c, a: (c * a, c + a), x[0], x[1:])[1], (6,)),
    "scan that shifts": (lambda x: lax.scan(lambda c, _: (jnp.roll(c, 1) * c[0], c[1]), x, None, length=3), (7,)),
    "heat": (lambda x: lax.scan(lambda u, _: (u + 0.1 * (jnp.roll(u, 1) + jnp.roll(u, -1) - 2 * u), None), x, None, length=4)[0], (20,)),
    "counted loop": (lambda x: lax.fori_loop(0, 3, lambda i, c: c.at[i].set(c[i] * x[i]), x), (6,)),
    "while": (lambda x: lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.roll(c[1], 1) * 0.5), (0, x[:3]))[1], (6,)),
    "branch": (lambda x: lax.cond(x[0] > 0, lambda y: y[:2], lambda y: y[2:4], x), (6,)),
    "norm": (lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True), (3, 4)),
    "bounded slice": (lambda x: lax.dynamic_slice(x, (jnp.argmax(x[:2]),), (2,)), (6,)),
    "bounded update": (lambda x: lax.dynamic_update_slice(x, x[:2] ** 2, (jnp.argmax(x[:2]),)), (6,)),
    "padding": (lambda x: lax.pad(x, x[0] * 1.0, [(1, 2, 1)]), (4,)),
    "batch of products": (lambda x: jnp.einsum("bij,bjk->bik", x, x), (2, 3, 3)),
    "softmax": (lambda x: jax.nn.softmax(x, axis=1), (3, 4)),
    "interpolation at": (lambda x: jnp.interp(x, jnp.linspace(0, 1, 5), jnp.arange(5.0)), (4,)),
    "interpolation of": (lambda x: jnp.interp(jnp.linspace(0, 1, 3), jnp.linspace(0, 1, 5), x), (5,)),
    "cholesky": (lambda x: jnp.linalg.cholesky(x @ jnp.swapaxes(x, -1, -2) + 3 * jnp.eye(3)), (2, 3, 3)),
}


@pytest.mark.usefixtures("worker_jax")
@pytest.mark.parametrize("name", WRITTEN)
def test_is_as_tight_as_asdex(name: str) -> None:
    function, shape = WRITTEN[name]
    point = jnp.asarray(np.random.default_rng(0).normal(size=shape))

    def leaves(points: list[jax.Array]) -> list[jax.Array]:
        return jax.tree.leaves(function(*points))

    found = _detected(_column, leaves, [point], [point])
    dense = _dense(_column, leaves, [point], [point])
    theirs = asdex.jacobian_sparsity(lambda x: jnp.concatenate([jnp.ravel(out) for out in leaves([x])]), point)
    reference = csr_array((np.ones(theirs.nnz, bool), (theirs.rows, theirs.cols)), shape=theirs.shape).toarray()
    assert not ((dense != 0) & ~found).any()
    assert not (found & ~reference).any()
