"""All that happens between a first call and XLA's compiling, for a graph of 10 000 equations.

Stage by stage, each with the functions that the client, the clerk and the worker call, in a process set up like theirs: nothing outside a worker
can see where in its compiling XLA begins. Only the ways between the processes are missing, some milliseconds. Every stage runs on one thread, so its
CPU time is what it takes on a machine that has nothing else to do.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

import jacloom as jl
from benchmarks.measure import Goal, Report
from benchmarks.simulator import simulator
from jacloom import _upload
from jacloom_worker import compiling, devices, functions, kernels, memory
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Description, Kernel, Kind, Load

_STEPS: Final = 41
"""About 10 000 equations."""
_ROUNDS: Final = 3
_KERNELS: Final = {"jvp": Kind.JVP, "vjp": Kind.VJP}


def until_compiling() -> Report:
    """A first JVP and VJP of a simulator of 10 000 equations, and JAX's own way to the same point in one process."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "graph"))
        figures = {**_stages("client", path), **_stages("worker", path), **_stages("local", path)}
    shared = ["client: trace, id and bytes", "clerk: read, check, infer, id", "worker: load"]
    totals = {name: sum(figures[stage] for stage in (*shared, f"worker: {name} until compiling")) for name in _KERNELS}
    figures |= {f"{name}: total": total for name, total in totals.items()}
    goals = [Goal(f"{name}: at most 3 s from call to compile", total, 3.0, "s") for name, total in totals.items()]
    goals += [
        Goal(f"{name}: at most 2 x JAX's own way there", total / figures[f"local {name} until compiling"], 2.0, "x") for name, total in totals.items()
    ]
    return Report("First call of a simulator of 10 000 equations", figures, tuple(goals))


def _stages(who: str, path: str) -> dict[str, float]:
    """Returns the medians that a process of its own finds."""
    command = [sys.executable, "-m", "benchmarks.first_call", who, path]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout)
    return found


class _Stages:
    """CPU seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def timed(self, name: str, run: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = run()
        self.seconds.setdefault(name, []).append(time.process_time() - start)
        return result

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(times) for name, times in self.seconds.items()}


def _client(path: Path) -> dict[str, float]:
    stages, parcel = _Stages(), _traced(1)  # imports and warms up
    for _ in range(_ROUNDS):
        parcel = stages.timed("client: trace, id and bytes", lambda: _traced(_STEPS))
    path.write_bytes(parcel)
    return stages.medians()


def _traced(steps: int) -> bytes:
    function, args = simulator(steps)
    return _upload.pack(jl.trace(function, *args).graph).graph


def _worker(path: Path) -> dict[str, float]:
    devices.configure("cpu")
    memory.collect_rarely()
    stages, load = _Stages(), Load(path.read_bytes())
    for number in range(1 + _ROUNDS):
        if number == 1:
            stages = _Stages()  # the round before imported and warmed up
        description = stages.timed("clerk: read, check, infer, id", lambda: Engine().describe(load))
        assert isinstance(description, Description)
        known = replace(load, outputs=description.outputs)
        for name, kind in _KERNELS.items():
            subject, _ = stages.timed("worker: load", lambda: functions.load(known))  # noqa: B023  # run at once
            computation = kernels.computation(subject, Kernel("", kind, (0,), (0,)))
            stages.timed(f"worker: {name} until compiling", lambda: compiling.lower(computation))  # noqa: B023
    return stages.medians()


def _local(path: Path) -> dict[str, float]:
    jax.config.update("jax_enable_x64", True)
    stages = _Stages()
    result = np.ones(10)
    for number in range(1 + _ROUNDS):
        if number == 1:
            stages = _Stages()
        function, args = simulator(_STEPS)
        ones = jax.tree.map(np.ones_like, args)
        forward = jax.jit(lambda primals, tangents, f=function: jax.jvp(f, primals, tangents))
        reverse = jax.jit(lambda primals, cotangent, f=function: jax.vjp(f, *primals)[1](cotangent))
        stages.timed("local jvp until compiling", lambda: forward.lower(args, ones))  # noqa: B023
        stages.timed("local vjp until compiling", lambda: reverse.lower(args, result))  # noqa: B023
    return stages.medians()


if __name__ == "__main__":
    run = {"client": _client, "worker": _worker, "local": _local}[sys.argv[1]]
    print(json.dumps(run(Path(sys.argv[2]))))
