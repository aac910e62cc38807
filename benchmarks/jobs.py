"""Batch jobs: many small Jacobians beside a local vmapped loop, and the memory of one Jacobian that is larger than any process may be."""

from __future__ import annotations

import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np

import jacloom as jl
from benchmarks.measure import Goal, Report, cpu_seconds, in_turn, service_processes, settle
from benchmarks.memory import watched
from jacloom.demo.lorenz96 import state_after

_POINTS: Final = 10_000
_SIZE: Final = 50
_BATCHES: Final = (1, 4, 16, 64, 256)
_ENTRIES: Final = 20_000
_MIB: Final = 1 << 20
_FEW: Final = 32
"""Points that are enough to warm up, and to compare."""


def throughput() -> Report:
    """10 000 Jacobians of 50 x 50, Lorenz-96 with 100 steps: one job beside a loop of ``jit(vmap(jacfwd(f)))`` at its best batch size."""
    f = state_after
    points = np.random.default_rng(0).normal(size=(_POINTS, _SIZE))
    with _service() as client, jax.enable_x64(True):
        local, batch = _best_loop(f, points)
        # What a service does once in its life is not counted: its workers, JAX in them, and the ledger are warm.
        client.submit(f, points[:_FEW]).wait()
        settle()
        runs: list[_Run] = []
        contenders: dict[str, Callable[[], Any]] = {
            f"local loop, {batch} points at once": lambda: runs.append(_looped(local, points)),
            "job, from submit to its end": lambda: runs.append(_submitted(client, f, points)),
        }
        medians, spread = in_turn(contenders, rounds=2, warm=0)
        found = client.jobs(limit=1)[0].result()[_POINTS - 1]
        np.testing.assert_allclose(found, jax.jacfwd(f)(points[-1]), rtol=1e-9, atol=1e-12)
    loop, whole = medians.values()
    figures = medians | {
        "of which until the first unit is done": runs[-1].until_first,
        "points a second, loop (1/s)": _POINTS / loop,
        "points a second, job (1/s)": _POINTS / whole,
        "processor time of the loop (s)": min(run.processor for run in runs[::2]),
        "processor time of the service (s)": min(run.processor for run in runs[1::2]),
    }
    goal = Goal("the job at most 1.25 x the local loop, which is 0.8 of its throughput", whole / loop, 1.25, "x")
    return Report("Job: 10 000 Jacobians of 50 x 50, Lorenz-96 with 100 steps", figures, (goal,), spread)


def memory() -> Report:
    """One Jacobian of 20 000 x 20 000 float64 numbers, 3.2 GB: the greatest anonymous memory of the server and of any worker meanwhile."""
    point = np.linspace(0.0, 1.0, _ENTRIES)
    with _service() as client, watched() as peak:
        client.evaluate(lambda x: x)(0.0)
        settle()
        before = peak.server
        start = time.perf_counter()
        job = client.submit(_circulant, point[None]).wait()
        seconds = time.perf_counter() - start
        assert job.state == "succeeded", job.message
        _check(job, point)
    figures = {
        "seconds in all": seconds,
        "server, RssAnon at most (MiB)": peak.server / _MIB,
        "the same at rest (MiB)": before / _MIB,
        "greatest worker, RssAnon at most (MiB)": peak.worker / _MIB,
    }
    goals = (
        Goal("server below 512 MiB", peak.server / _MIB, 512, "MiB"),
        Goal("each worker below 1 GiB", peak.worker / _MIB, 1024, "MiB"),
    )
    return Report("Job: one Jacobian of 3.2 GB", figures, goals)


@dataclass(frozen=True)
class _Run:
    """What it took, beside wall time."""

    processor: float
    """Seconds, of all processes that compute."""
    until_first: float = 0.0
    """Wall time until some points were done."""


def _looped(loop: Callable[[np.ndarray], np.ndarray], points: np.ndarray) -> _Run:
    before = time.process_time()
    loop(points)
    return _Run(time.process_time() - before)


def _submitted(client: jl.Client, f: Callable[[Any], Any], points: np.ndarray) -> _Run:
    processes = [process for group in service_processes().values() for process in group]
    start, before, first = time.perf_counter(), cpu_seconds(processes), list[float]()

    def seen(job: jl.Job) -> None:
        if job.progress.units_done and not first:
            first.append(time.perf_counter() - start)

    job = client.submit(f, points).wait(on_progress=seen)
    assert job.state == "succeeded", job.message
    return _Run(cpu_seconds(processes) - before, first[0])


def _best_loop(f: Callable[[Any], Any], points: np.ndarray) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Returns a loop over all points and its batch size, the fastest of several."""
    run = jax.jit(jax.vmap(jax.jacfwd(f)))

    def loop(batch: int, points: np.ndarray) -> np.ndarray:
        result = np.empty((len(points), _SIZE, _SIZE))
        for start in range(0, len(points), batch):
            result[start : start + batch] = run(points[start : start + batch])
        return result

    def seconds(batch: int) -> float:
        """Returns what a point takes, at best."""
        some = points[: max(batch, _FEW)]
        loop(batch, some)
        times = timeit.repeat(lambda: loop(batch, some), number=1, repeat=3)
        return min(times) / len(some)

    best = min(_BATCHES, key=seconds)
    # The last batch of all points has another size, which is compiled now.
    loop(best, points[-(len(points) % best or best) :])
    return partial(loop, best), best


@contextmanager
def _service() -> Iterator[jl.Client]:
    """Gives a client of a service that keeps jobs, on disk, until the end."""
    with tempfile.TemporaryDirectory(prefix="jacloom-bench-") as folder, jl.connect(data=Path(folder)) as client:
        yield client


def _kernel(n: int) -> Any:
    return 1.0 / (1.0 + jnp.arange(n))


def _circulant(x: Any) -> Any:
    """Returns the circular convolution of ``sin(x)`` with ``1, 1/2, 1/3 ..``; cheap, with a full Jacobian and no constants to speak of."""
    return jnp.fft.irfft(jnp.fft.rfft(_kernel(x.shape[0])) * jnp.fft.rfft(jnp.sin(x)), x.shape[0])


def _check(job: jl.Job, point: np.ndarray) -> None:
    """Compares some rows, read from the store itself, with what they must be."""
    import zarr

    jacobian: Any = zarr.open_group(job.store, mode="r")["jacobian"]
    n = len(point)
    columns = np.arange(n)
    for row in (0, 1, n // 2, n - 1):
        expected = np.cos(point) / (1.0 + (row - columns) % n)
        np.testing.assert_allclose(jacobian[0, row], expected, rtol=1e-6, atol=1e-9)
