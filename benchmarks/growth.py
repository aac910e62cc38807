"""Anonymous memory as a Jacobian grows: of the service's processes, and of a local vmap over all seeds."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final, Literal, get_args

import jax
import numpy as np

import jacloom as jl
from benchmarks.jacobians import lorenz
from benchmarks.measure import Goal, Report, settle
from benchmarks.memory import Peak, watched
from benchmarks.sparse import brusselator, tridiagonal
from jacloom_server.strategy import RESULT_BYTES

Who = Literal["service", "local", "grid", "line"]

_STEPS: Final = 20
_MIB: Final = 1 << 20
_SIZES: Final = (1024, 2048, 4096)
_SMALL: Final = 256
"""Size of a first Jacobian, after which processes are at rest: the compiler's own memory does not depend on the size of the answer."""
_TILES: Final = 4
"""Tiles that a process may hold at once: one being computed, one waiting, one on its way out, one being placed."""


def growth() -> Report:
    """Lorenz-96 with 20 steps at growing n: what each process needs beyond its base, in MiB."""
    figures: dict[str, float] = {}
    goals = []
    for n in _SIZES:
        result = n * n * 8 / _MIB
        used = {**_measured("service", n), "local vmap": _measured("local", n)["client"]}
        figures[f"n = {n}: the Jacobian itself (MiB)"] = result
        figures.update({f"n = {n}: {who} (MiB)": mebibytes for who, mebibytes in used.items()})
        tiles = _TILES * RESULT_BYTES / _MIB
        goals += [
            Goal(f"n = {n}: client at most the result and {_TILES} tiles more than at rest", used["client"], result + tiles, "MiB"),
            Goal(f"n = {n}: server and each worker at most {_TILES} tiles more than at rest", max(used["server"], used["worker"]), tiles, "MiB"),
        ]
    return Report("Memory beyond that at rest, Lorenz-96", figures, tuple(goals))


def sparse_results() -> Report:
    """Sparse Jacobians whose entries would be a large matrix: what the server needs beyond its base, in MiB, pattern and colours included."""
    figures: dict[str, float] = {}
    goals = []
    tiles = _TILES * RESULT_BYTES / _MIB
    for who, name in (("grid", "Brusselator, 128 x 128"), ("line", "periodic tridiagonal, n = 1 000 000")):
        used = _measured("grid" if who == "grid" else "line", 0)
        result = used.pop("result")
        figures[f"{name}: the CSR array itself (MiB)"] = result
        figures.update({f"{name}: {role} (MiB)": mebibytes for role, mebibytes in used.items()})
        goals.append(Goal(f"{name}: server at most the result and {_TILES} tiles more than at rest", used["server"], result + tiles, "MiB"))
    return Report("Memory beyond that at rest, sparse Jacobians", figures, tuple(goals))


def _measured(who: Who, n: int) -> dict[str, float]:
    """Returns what a process of its own finds, so that nothing measured before is in it."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.growth", who, str(n)], capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(who: Who, n: int) -> dict[str, float]:
    """Returns the growth of each process in MiB while a Jacobian is computed, by role; ``client`` is this process, ``result`` a sparse one."""
    flow, x, small = lorenz(_STEPS), 8 + np.sin(np.arange(n)), 8 + np.sin(np.arange(_SMALL))
    if who == "local":
        with jax.enable_x64(True):
            jax.block_until_ready(jax.jit(jax.jacfwd(flow))(small))
            return _grown(lambda: jax.block_until_ready(jax.jit(jax.jacfwd(flow))(x)))
    with jl.connect() as client:
        if who != "service":
            return _sparse(client, who)
        client.jacobian(flow)(small)
        settle()
        return _grown(lambda: client.jacobian(flow)(x))


def _sparse(client: jl.Client, who: Who) -> dict[str, float]:
    fun, x = brusselator(128) if who == "grid" else tridiagonal(1_000_000)
    client.jacobian(lambda x: x**2, output="csr")(np.ones(_SMALL))
    settle()
    results = []
    used = _grown(lambda: results.append(client.jacobian(fun, output="csr")(x)))
    return {**used, "result": sum(part.nbytes for part in (results[0].data, results[0].indices, results[0].indptr)) / _MIB}


def _grown(run: object) -> dict[str, float]:
    assert callable(run)
    before = Peak()
    before.sample()
    with watched(every=0.02) as peak:
        run()
        peak.sample()
    return {role: (getattr(peak, role) - getattr(before, role)) / _MIB for role in ("client", "server", "worker")}


if __name__ == "__main__":
    (chosen,) = (each for each in get_args(Who) if each == sys.argv[1])
    print(json.dumps(measure(chosen, int(sys.argv[2]))))
