"""How fast small errors of a weather forecast grow, at 2 000 states of the weather, though the service is killed half-way.

The model of Lorenz (1996) is chaotic: how much a small error grows depends on the state that it begins in. The largest singular value of the
Jacobian of the state after a while by the state now says how much at most. One batch job computes all the Jacobians. In the middle of it this
program kills the service as a crash would, and starts it again: the job goes on, and what was finished is not computed again.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jacloom as jl

jax.config.update("jax_enable_x64", True)  # for the comparison at the end; the service computes in 64 bits wherever the arguments have them

STATES, SITES = 2000, 40
FORCING = 8.0
STEP, STEPS = 0.01, 40
"""A time of 0.4, about two days of weather."""


def tendency(x: Any) -> Any:
    """Returns how fast the values ``(SITES,)`` on a circle of latitude change."""
    return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + FORCING


def step(x: Any) -> Any:
    """Returns the state after one step of the classical Runge-Kutta method."""
    k1 = tendency(x)
    k2 = tendency(x + STEP / 2 * k1)
    k3 = tendency(x + STEP / 2 * k2)
    k4 = tendency(x + STEP * k3)
    return x + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def forecast(x: Any) -> Any:
    """Returns the state after ``STEPS`` steps."""
    return jax.lax.fori_loop(0, STEPS, lambda _, x: step(x), x)


def states() -> np.ndarray:
    """Returns states ``(STATES, SITES)`` that are typical of the model: it has forgotten where they began."""
    start = FORCING + np.random.default_rng(0).normal(size=(STATES, SITES))
    return np.asarray(jax.jit(jax.vmap(lambda x: jax.lax.fori_loop(0, 300, lambda _, x: step(x), x)))(start))


def serve(data: Path, address: str) -> subprocess.Popen[bytes]:
    """Starts a service that keeps its jobs in a folder."""
    # Unless told not to, `jacloom serve` starts a server again that was killed; here that is left to this program.
    command = [sys.executable, "-m", "jacloom", "serve", "--address", address, "--data", str(data), "--no-wide", "--no-supervise"]
    with (data / "log").open("ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def free_address() -> str:
    """Returns an address of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def jacobians(data: Path, points: np.ndarray) -> np.ndarray:
    """Returns the Jacobians ``(STATES, SITES, SITES)``, computed by a service that does not live to see the end."""
    address = free_address()
    server = serve(data, address)
    try:
        with jl.connect(address, timeout=120) as client:
            job = client.submit(forecast, points, name="forecast errors")
            while job.refresh().progress.points_done < STATES // 4 and not job.state.ended:
                time.sleep(0.02)
            done = job.progress
            server.send_signal(signal.SIGKILL)
            server.wait()
            print(f"the server was killed when {done.points_done} of {done.points} Jacobians were done")
            server = serve(data, address)
            job.wait()
            print(f"{job.state}: {job.progress.points_done} Jacobians in {job.progress.units} units, as an array in a Zarr store: {job.record.out}")
            return np.asarray(job.result()[:])
    finally:
        server.terminate()
        server.wait()


def show(growth: np.ndarray) -> None:
    """Shows how many states have which growth: as a picture where matplotlib is installed, and in letters otherwise."""
    if find_spec("matplotlib"):
        import matplotlib as mpl

        mpl.use("agg")
        from matplotlib import pyplot as plt

        plt.hist(growth, bins=60)
        plt.xlabel(f"largest growth of an error within {STEP * STEPS:g}")
        plt.ylabel("states")
        path = Path(tempfile.gettempdir()) / "weather_growth.png"
        plt.savefig(path)
        print(f"picture: {path}")
        return
    counts, edges = np.histogram(growth, bins=12)
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        print(f"{low:6.2f} to {high:5.2f} {'#' * int(np.ceil(60 * count / counts.max()))}")


def main() -> None:
    points = states()
    with tempfile.TemporaryDirectory() as folder:
        found = jacobians(Path(folder), points)
    growth = np.linalg.svd(found, compute_uv=False)[:, 0]
    print(f"an error grows at most by a factor of {growth.min():.2f} at the calmest state, and of {growth.max():.2f} at the wildest:")
    show(growth)

    some = slice(None, None, STATES // 10)
    np.testing.assert_allclose(found[some], jax.jit(jax.vmap(jax.jacfwd(forecast)))(points[some]), rtol=1e-9, atol=1e-11)
    print("equal to JAX on this machine")


if __name__ == "__main__":
    main()
