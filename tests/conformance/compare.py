"""One function, here and in JAX: values and derivatives of every kind side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from conformance.roundtrip import flat, through_bytes

from jacloom._trace import Traced

FORWARD: Any = jax.jacfwd
REVERSE: Any = jax.jacrev


def assert_same(
    fun: Callable[..., Any], *args: Any, transforms: Sequence[Sequence[Any]] = ((FORWARD,), (REVERSE,)), tolerance: float = 1e-10
) -> Traced:
    """Asserts that ``fun`` as a graph has JAX's value, and JAX's derivative under each chain of transforms (the last is applied last).

    Returns:
        What tracing found, for further assertions.
    """
    program, traced = through_bytes(fun, args)
    leaves = jax.tree.leaves(args)
    wrt = tuple(index for index, leaf in enumerate(leaves) if np.issubdtype(np.asarray(leaf).dtype, np.inexact))
    with jax.enable_x64(True):
        here: Any = lambda *xs: program(*xs)  # noqa: E731  JAX's transforms take the argument's number from a plain function
        there: Any = flat(fun, args)
        assert_close(jax.jit(here)(*leaves), jax.jit(there)(*leaves), tolerance)
        for chain in transforms:
            ours, theirs = here, there
            for transform in chain:
                ours, theirs = transform(ours, wrt), transform(theirs, wrt)
            assert_close(jax.jit(ours)(*leaves), jax.jit(theirs)(*leaves), tolerance)
    return traced


def assert_close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Asserts that two trees of arrays have equal structure, dtypes and, to a tolerance, elements."""
    for mine, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert mine.dtype == expected.dtype
        np.testing.assert_allclose(np.asarray(mine), np.asarray(expected), rtol=tolerance, atol=tolerance)
