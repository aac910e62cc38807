"""A Slurm allocation without Slurm: stand-ins for its programs on PATH, and what a batch script is started with."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from deployment.files import DEPLOY

FOLDER = DEPLOY / "slurm"

_SRUN = """#!/usr/bin/env bash
# One task a node, all of them here; signals go to all.
printf '%s\\n' "$@" >"$NOTES/srun"
while [[ $1 == --* ]]; do shift; done
tasks=()
trap '[[ ${#tasks[@]} -eq 0 ]] || kill -TERM "${tasks[@]}"' TERM
for ((node = 0; node < SLURM_JOB_NUM_NODES; node++)); do
    SLURM_NODEID=$node "$@" &
    tasks+=($!)
done
wait
wait
"""
_SCONTROL = """#!/usr/bin/env bash
echo "$@" >>"$NOTES/scontrol"
"""
_PYTHON = """#!/usr/bin/env bash
exec {python} "$@"
"""
_RAY = """#!/usr/bin/env bash
exec {python} -m ray.scripts.scripts "$@"
"""
_JACLOOM = """#!/usr/bin/env bash
exec {python} -m jacloom "$@"
"""


class Allocation:
    """Two nodes on this machine.

    Attributes:
        notes: A folder where the stand-ins note how they were called.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self._programs = folder / "bin"
        for each in (self.notes, self._programs):
            each.mkdir()
        self.program("srun", _SRUN)
        self.program("scontrol", _SCONTROL)
        for name, text in (("python3", _PYTHON), ("ray", _RAY), ("jacloom", _JACLOOM)):
            self.program(name, text.format(python=sys.executable))
        self.environment: Mapping[str, str] = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_", "JACLOOM_", "CUDA_"))},
            "PATH": f"{self._programs}:{os.environ['PATH']}",
            "NOTES": str(self.notes),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_SUBMIT_DIR": str(folder),
            "JACLOOM_SLURM": str(FOLDER),
            "JACLOOM_IP": "127.0.0.1",
            "JACLOOM_RAY_PORT": str(free_port()),
            **settings,
        }

    def program(self, name: str, text: str) -> None:
        """Puts a program on the path of the allocation."""
        path = self._programs / name
        path.write_text(text)
        path.chmod(0o755)

    def noted(self, name: str) -> str:
        """Returns what a stand-in has noted, or nothing."""
        path = self.notes / name
        return path.read_text() if path.exists() else ""

    @contextmanager
    def batch(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """Runs a batch script, as Slurm does: with its processes in a group that ends with it."""
        log = (self.folder / "log").open("w")
        with (
            log,
            subprocess.Popen(
                ["bash", *command], env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True, start_new_session=True
            ) as running,
        ):
            try:
                yield running
            finally:
                if running.poll() is None:
                    running.terminate()
                    try:
                        running.wait(60)
                    except subprocess.TimeoutExpired:
                        os.killpg(running.pid, signal.SIGKILL)

    def log(self) -> str:
        """Returns what the batch script has said."""
        return (self.folder / "log").read_text()


def free_port() -> int:
    """Returns a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
