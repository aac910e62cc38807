"""One demo problem through the service, and the same derivative on this machine to check it against."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jacloom._plan import Plan, Summary
from jacloom._progress import Progress
from jacloom.demo.problem import Problem

if TYPE_CHECKING:
    from jacloom._client import Client

TOLERANCE = 1e-10
"""Largest difference allowed, relative to the largest entry: float64 with room for another order of summation."""


@dataclass(frozen=True)
class Outcome:
    """What came back for a problem. The fields are those of ``jacloom demo --json``."""

    name: str
    about: str
    shapes: tuple[tuple[int, ...], ...]
    """Shape of each array of the derivative."""
    strategy: str
    passes: int
    """JVPs or VJPs."""
    tiles: int
    workers: int
    retries: int
    first_seconds: float
    """The first call: tracing, registering, compiling, computing."""
    again_seconds: float
    """The same call once more."""
    error: float
    """Largest difference from the local derivative, relative to its largest entry."""
    ok: bool
    """Whether the derivative is right and the strategy is the expected one."""


def measure(client: Client, problem: Problem) -> Outcome:
    """Returns what the service makes of a problem, compared with what JAX computes here.

    Raises:
        JacloomError: if the service cannot compute the derivative.
    """
    started = time.perf_counter()
    got, plan, _ = _remote(client, problem)
    first = time.perf_counter() - started
    started = time.perf_counter()
    _, _, summary = _remote(client, problem)
    again = time.perf_counter() - started
    leaves = jax.tree.leaves(got)
    error = _difference(leaves, jax.tree.leaves(_local(problem)))
    return Outcome(
        name=problem.name,
        about=problem.about,
        shapes=tuple(leaf.shape for leaf in leaves),
        strategy=plan.strategy,
        passes=summary.passes,
        tiles=summary.tiles,
        workers=summary.workers,
        retries=summary.retries,
        first_seconds=first,
        again_seconds=again,
        error=error,
        ok=error <= TOLERANCE and plan.strategy == problem.expect,
    )


def _remote(client: Client, problem: Problem) -> tuple[Any, Plan, Summary]:
    seen: list[Progress] = []
    if problem.derivative == "gradient":
        derivative = client.grad(problem.function, problem.argnums, on_progress=seen.append)
    else:
        derivative = client.jacobian(problem.function, problem.argnums, mode=problem.mode, on_progress=seen.append)
    result = derivative(*problem.args)
    last = seen[-1]
    assert last.summary is not None, "a call that returns has told its summary"
    return result, last.plan, last.summary


def _local(problem: Problem) -> Any:
    by_rows = problem.expect in ("reverse", "coloured reverse")
    transform = jax.grad if problem.derivative == "gradient" else jax.jacrev if by_rows else jax.jacfwd
    with jax.enable_x64(True):
        return jax.jit(transform(problem.function, problem.argnums))(*problem.args)


def _difference(got: list[np.ndarray], expected: list[Any]) -> float:
    if [leaf.shape for leaf in got] != [leaf.shape for leaf in expected]:
        return float("inf")
    worst = max(float(np.max(np.abs(a - np.asarray(b)))) for a, b in zip(got, expected, strict=True))
    return worst / max(float(np.max(np.abs(leaf))) for leaf in expected)
