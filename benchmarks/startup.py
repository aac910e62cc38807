"""From nothing to the first answer, in a fresh process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.measure import Goal, Report

_PROGRAM = """
import time
start = time.perf_counter()
import numpy as np
import jacloom as jl
with jl.connect() as client:
    import jax.numpy as jnp
    client.jacobian(lambda x: jnp.sin(x))(np.arange(3.0))
    print(time.perf_counter() - start)
"""


def first_result(rounds: int = 3) -> Report:
    """Seconds from ``jl.connect()`` to the first Jacobian, and the whole process with start and end."""
    first, whole = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True, timeout=120)
        whole.append(time.perf_counter() - start)
        first.append(float(done.stdout))
    figures = {"connect to first result": statistics.median(first), "whole process": statistics.median(whole)}
    goal = Goal("at most 8 s", figures["connect to first result"], 8.0, "s")
    return Report("First result of a local service", figures, (goal,), {"connect to first result": (min(first), max(first))})
