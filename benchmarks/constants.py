"""A function with a gibibyte of constants: how fast they travel, in how much memory, and that they travel once."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import jax
import numpy as np

import jacloom as jl
from benchmarks.floors import echo
from benchmarks.measure import Goal, Report
from benchmarks.memory import Peak, service, watched
from jacloom import _upload
from jacloom_graph import tensor
from jacloom_graph.framing import Pieces

_MIB: Final = 1 << 20
_SIDE: Final = 4096
_MATRICES: Final = 8
"""Of 128 MiB each."""
_ROUNDS: Final = 3


def registration() -> Report:
    """Registers a function of eight float64 matrices, 1 GiB together, beside a bare stream of as many bytes."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.constants"], capture_output=True, text=True, check=True, timeout=1200)
    found: dict[str, float] = json.loads(done.stdout)
    total = _MATRICES * _SIDE * _SIDE * 8 / _MIB
    goals = (
        Goal("at most 1 / 0.7 of the bare stream's time for the same bytes", found["upload and registration"] / found["bare stream"], 1 / 0.7, "x"),
        Goal("client at most one copy beside the constants", found["client beyond its constants (MiB)"], 1.1 * total, "MiB"),
        Goal("server at most one copy", found["server, anonymous (MiB)"], 1.1 * total, "MiB"),
        Goal("a second registration sends nothing", found["sent by further registrations (bytes)"], 0, "bytes"),
    )
    return Report("Registration of 1 GiB of constants", found, goals)


def measure() -> dict[str, float]:
    """Returns medians over new constants in each round, and the greatest growth of memory."""
    seconds: dict[str, list[float]] = {}
    client_peak = server_peak = again = 0

    def timed(name: str, run: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = run()
        seconds.setdefault(name, []).append(time.perf_counter() - start)
        return result

    x = np.ones(_SIDE)
    with echo() as floor, service() as address, jl.connect(address) as client:
        client.evaluate(lambda x: x)(0.0)
        for number in range(_ROUNDS):
            matrices = [np.full((_SIDE, _SIDE), number + index / 8) for index in range(_MATRICES)]
            timed("bare stream", lambda: [floor.sent(tensor.raw(matrix)) for matrix in matrices])  # noqa: B023  # run at once
            before = Peak()
            before.sample()
            with watched(every=0.02) as peak:
                function = timed("trace and id, before", lambda: jl.trace(_layered(matrices), x))  # noqa: B023
                registered = timed("upload and registration", lambda: client.register(function))  # noqa: B023
            client_peak = max(client_peak, peak.client - before.client)
            server_peak = max(server_peak, peak.server - before.server)
            with _counted() as sent:
                timed("second registration, same function", lambda: client.register(function))  # noqa: B023
                anew = timed("trace and id, again", lambda: jl.trace(_layered(matrices), x))  # noqa: B023
                timed("second registration, traced anew", lambda: client.register(anew))  # noqa: B023
            assert anew.id == function.id
            again += sum(sent)
            client.delete(registered)
    figures = {name: statistics.median(times) for name, times in seconds.items()}
    return figures | {
        "client beyond its constants (MiB)": client_peak / _MIB,
        "server, anonymous (MiB)": server_peak / _MIB,
        "sent by further registrations (bytes)": again,
    }


def _layered(matrices: list[np.ndarray]) -> Callable[[jax.Array], jax.Array]:
    def layered(x: jax.Array) -> jax.Array:
        for matrix in matrices:
            x = jax.numpy.tanh(matrix @ x)
        return x

    return layered


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Gives the sizes of the messages that uploads send meanwhile."""
    sizes: list[int] = []
    chunks = _upload._chunks

    def counted(sha256: str, content: Pieces) -> Iterator[bytes]:
        for chunk in chunks(sha256, content):
            sizes.append(len(chunk))
            yield chunk

    with patch.object(_upload, "_chunks", counted):
        yield sizes


if __name__ == "__main__":
    print(json.dumps(measure()))
