"""``jacloom run`` with real services: to the end, and in parts."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
import zarr
from integration import service

POINTS = np.random.default_rng(3).normal(size=(240, 5))
MODEL = """
import jax
import jax.numpy as jnp


def after(x, rate):
    # Long enough for a stop to come in the middle.
    return jax.lax.fori_loop(0, 20_000, lambda _, x: x + 1e-4 * rate * jnp.sin(jnp.roll(x, 1)), x)[:3]
"""
JOB = """
[function]
import = "model:after"

[points]
file = "points.npy"

[job]
derivative = "jacobian"
mode = "forward"
out = "runs/a"
args = [1.5]

[service]
workers = 2
wide = false
object_store = "200M"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "points.npy", POINTS)
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "night.toml").write_text(JOB)
    return tmp_path


def started(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "jacloom", "run", "night.toml", *options]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(running: subprocess.Popen[str], status: int) -> str:
    """Returns what a command printed, when it has ended with a status."""
    out, err = running.communicate(timeout=240)
    assert running.returncode == status, err
    return out


def units(folder: Path) -> dict[int, str]:
    """Returns the attempt that has counted of each unit, from the ledger."""
    with sqlite3.connect(f"file:{folder}/night.data/jobs/jobs.sqlite3?mode=ro", uri=True) as ledger:
        return dict(ledger.execute("SELECT number, attempt FROM units WHERE state = 'committed'"))


def check(folder: Path) -> None:
    group = zarr.open_group(folder / "night.data" / "results" / "runs" / "a", mode="r")
    assert (np.asarray(group["status"]) == 1).all()
    scope: dict[str, object] = {}
    exec(MODEL, scope)
    with jax.enable_x64(True):
        expected = jax.jit(jax.vmap(jax.jacfwd(scope["after"]), (0, None)))(POINTS, 1.5)
    np.testing.assert_allclose(np.asarray(group["jacobian"]), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_to_the_end_and_once_more(folder: Path) -> None:
    document = json.loads(ended(started(folder, "--json"), 0))
    assert (document["stopped"], document["job"]["state"], document["job"]["out"]) == (None, "succeeded", "runs/a")
    check(folder)
    before = units(folder)
    again = json.loads(ended(started(folder, "--json"), 0))
    assert again["job"]["name"] == document["job"]["name"]
    assert units(folder) == before


@pytest.mark.slow
def test_what_was_stopped_goes_on_and_computes_nothing_twice(folder: Path) -> None:
    running = started(folder)
    ledger = folder / "night.data" / "jobs" / "jobs.sqlite3"
    service.wait_for(lambda: ledger.exists() and _counted(folder) >= 2, 200)
    running.send_signal(signal.SIGTERM)
    out = ended(running, 75)
    assert "running" in out
    before = units(folder)
    chunks = _chunks(folder)
    assert len(before) >= 2
    document = json.loads(ended(started(folder, "--json"), 0))
    assert document["job"]["progress"]["units"] > len(before), "the stop came too late to show anything"
    assert document["job"]["progress"]["retries"] == 0
    after = units(folder)
    assert {number: after[number] for number in before} == before
    assert chunks.items() <= _chunks(folder).items()
    check(folder)


@pytest.mark.slow
def test_a_service_that_is_killed_is_started_again(folder: Path) -> None:
    running = started(folder)
    ledger = folder / "night.data" / "jobs" / "jobs.sqlite3"
    service.wait_for(lambda: ledger.exists() and _counted(folder) >= 2, 200)
    (server,) = psutil.Process(running.pid).children()
    server.kill()
    out, err = running.communicate(timeout=240)
    assert running.returncode == 0, err
    assert "the local service ended with status -9" in err
    assert "succeeded" in out
    check(folder)


@pytest.mark.slow
def test_a_batch_systems_wall_time(folder: Path) -> None:
    statuses, names = [], set()
    # Before there is a job, somewhere in the middle, and with enough time.
    for limit in ("2s", "12s", "10m"):
        running = started(folder, "--json", "--stop-after", limit)
        out, err = running.communicate(timeout=300)
        statuses.append(running.returncode)
        document = json.loads(out)
        assert document["stopped"] == (None if running.returncode == 0 else "--stop-after"), err
        names |= {document["job"]["name"]} if document["job"] else set()
    assert (statuses[0], statuses[-1]) == (75, 0)
    assert len(names) == 1
    check(folder)


def _counted(folder: Path) -> int:
    try:
        return len(units(folder))
    except sqlite3.Error:
        return 0  # its tables are being made


def _chunks(folder: Path) -> dict[str, tuple[int, int]]:
    """Returns inode and time of each chunk of the results."""
    group = folder / "night.data" / "results" / "runs" / "a"
    found = (path for name in ("jacobian", "value") for path in (group / name / "c").rglob("*"))
    return {str(path): (os.stat(path).st_ino, os.stat(path).st_mtime_ns) for path in found if path.is_file()}
