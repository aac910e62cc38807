"""The scripts for Slurm, run with stand-ins for Slurm's programs; the service also with two real nodes of Ray on this machine."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from deployment import files
from deployment.allocation import FOLDER, Allocation, free_port

import jacloom as jl

RUN = str(FOLDER / "run.sbatch")
SECONDS = 60.0
_RAY = """#!/usr/bin/env bash
# health-check: the head is there as soon as it was started.
if [[ $1 == health-check ]]; then [[ -e $NOTES/head ]]; exit; fi
printf '%s\\n' "$@" >>"$NOTES/ray"
env | grep -E '^(RAY|JACLOOM)_' | sort >"$NOTES/environment"
[[ " $* " != *" --head "* ]] || touch "$NOTES/head"
exec sleep 600
"""
_ENDS = """#!/usr/bin/env bash
printf '%s\\n' "$@" >"$NOTES/jacloom"
exit {status}
"""
_STOPS = """#!/usr/bin/env bash
# Says that it stops, takes its time, and is asked only once.
trap 'echo TERM >>"$NOTES/signals"; sleep 1; exit 75' TERM
printf '%s\\n' "$@" >"$NOTES/jacloom"
while true; do sleep 0.1; done
"""


@pytest.fixture
def allocation(tmp_path: Path) -> Allocation:
    """Two nodes whose Ray does nothing."""
    made = Allocation(tmp_path)
    made.program("ray", _RAY)
    return made


def wait_for(happened: Callable[[], object], what: str) -> None:
    limit = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.05)


@pytest.mark.parametrize("script", files.SCRIPTS, ids=files.name)
def test_scripts_are_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True, timeout=60).stderr == ""


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="needs shellcheck, which is not on the path")
@pytest.mark.parametrize("script", files.SCRIPTS, ids=files.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run(["shellcheck", "--external-sources", "--source-path=SCRIPTDIR", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("status", "says"), [(0, "is done"), (3, "some of its points have failed"), (75, "goes on with it"), (1, "failed with status 1")]
)
def test_a_job_that_ends_by_itself_is_not_queued_again(allocation: Allocation, status: int, says: str) -> None:
    allocation.program("jacloom", _ENDS.format(status=status))
    with allocation.batch(RUN, "job.toml") as running:
        assert running.wait(SECONDS) == status
    assert says in allocation.log()
    assert allocation.noted("scontrol") == ""
    folder, address = allocation.folder, f"127.0.0.1:{allocation.environment['JACLOOM_RAY_PORT']}"
    given = allocation.noted("jacloom").split()
    assert given == [
        *("run", "job.toml", "--data", f"{folder}/jacloom-data", "--results", f"{folder}/jacloom-results"),
        *("--ray-address", address),
    ]


def test_a_job_is_stopped_before_the_time_limit_and_queued_again(allocation: Allocation) -> None:
    allocation.program("jacloom", _STOPS)
    with allocation.batch(RUN, "job.toml") as running:
        wait_for(lambda: allocation.noted("jacloom"), "the job to run")
        running.send_signal(signal.SIGUSR1)
        assert running.wait(SECONDS) == 75
    assert allocation.noted("signals").split() == ["TERM"]
    assert allocation.noted("scontrol").split() == ["requeue", "4711"]
    assert "queued again" in allocation.log()


def test_a_job_that_somebody_cancels_is_stopped_and_not_queued_again(allocation: Allocation) -> None:
    allocation.program("jacloom", _STOPS)
    with allocation.batch(RUN, "job.toml") as running:
        wait_for(lambda: allocation.noted("jacloom"), "the job to run")
        running.send_signal(signal.SIGTERM)
        assert running.wait(SECONDS) == 75
    assert allocation.noted("signals").split() == ["TERM"]
    assert allocation.noted("scontrol") == ""


def test_a_second_signal_does_not_hide_how_the_job_ended(allocation: Allocation) -> None:
    allocation.program("jacloom", _STOPS)
    with allocation.batch(RUN, "job.toml") as running:
        wait_for(lambda: allocation.noted("jacloom"), "the job to run")
        running.send_signal(signal.SIGUSR1)
        wait_for(lambda: allocation.noted("signals"), "the first signal")
        running.send_signal(signal.SIGUSR1)
        assert running.wait(SECONDS) == 75
    assert allocation.noted("scontrol").split() == ["requeue", "4711"]


def test_a_job_that_has_not_begun_by_the_time_limit_is_queued_again(allocation: Allocation) -> None:
    allocation.program("ray", _RAY.replace("touch", "true "))
    allocation.program("jacloom", _ENDS.format(status=0))
    with allocation.batch(RUN, "job.toml") as running:
        wait_for(lambda: allocation.noted("ray"), "a head that never answers")
        running.send_signal(signal.SIGUSR1)
        assert running.wait(SECONDS) == 75
    assert allocation.noted("jacloom") == ""
    assert allocation.noted("scontrol").split() == ["requeue", "4711"]


def test_a_job_whose_ray_does_not_start_says_so(allocation: Allocation) -> None:
    allocation.program("ray", "#!/bin/sh\nexit 1\n")
    allocation.program("srun", "#!/bin/sh\nexit 1\n")
    with allocation.batch(RUN, "job.toml") as running:
        assert running.wait(SECONDS) == 1
    assert "Ray has not started at 127.0.0.1:" in allocation.log()
    assert allocation.noted("scontrol") == ""


def test_nodes_get_a_token_that_no_argument_shows(allocation: Allocation) -> None:
    allocation.program("jacloom", _ENDS.format(status=0))
    tokens = set()
    for _ in range(2):
        with allocation.batch(RUN, "job.toml") as running:
            assert running.wait(SECONDS) == 0
        environment = dict(line.split("=", 1) for line in allocation.noted("environment").splitlines())
        assert environment["RAY_AUTH_MODE"] == "token"
        # The nodes have the settings that a server has for a Ray of its own.
        assert environment["RAY_worker_niceness"] == "0"
        assert "RAY_ADDRESS" not in environment
        tokens.add(environment["RAY_AUTH_TOKEN"])
        assert len(environment["RAY_AUTH_TOKEN"]) == 64
        seen = allocation.noted("srun") + allocation.noted("ray") + allocation.noted("jacloom") + allocation.log()
        assert environment["RAY_AUTH_TOKEN"] not in seen
        # The next allocation's head is not there yet.
        (allocation.notes / "head").unlink()
    assert len(tokens) == 2, "each allocation has its own"


def test_nodes_count_what_the_allocation_has(tmp_path: Path) -> None:
    allocation = Allocation(tmp_path, SLURM_CPUS_PER_TASK="6", SLURM_MEM_PER_NODE="1000", CUDA_VISIBLE_DEVICES="2,5,7", JACLOOM_RAY_PORT="26123")
    allocation.program("ray", _RAY)
    # Not before the second node has come, too.
    allocation.program("jacloom", '#!/bin/bash\nuntil grep -q -- --address "$NOTES/ray"; do sleep 0.1; done\n')
    with allocation.batch(RUN, "job.toml") as running:
        assert running.wait(SECONDS) == 0
    starts = [start.split() for start in re.split(r"(?m)^start$", allocation.noted("ray"))[1:]]
    (head,), (worker,) = ([start for start in starts if ("--head" in start) is first] for first in (True, False))
    common = {"--num-cpus=6", "--num-gpus=3", "--memory=734003000", "--object-store-memory=209715000", "--block"}
    assert common < set(head)
    assert common < set(worker)
    assert {"--node-ip-address=127.0.0.1", "--port=26123", "--include-dashboard=false"} < set(head)
    assert "--address=127.0.0.1:26123" in worker
    assert not [path for path in Path("/tmp").glob("jacloom-4711-*") if path.exists()]


@pytest.mark.parametrize(("addresses", "taken"), [(["127.0.1.1", "8.8.8.8", "10.1.2.3"], "10.1.2.3"), (["127.0.1.1", "8.8.8.8"], None)])
def test_the_head_has_a_private_address(allocation: Allocation, addresses: list[str], taken: str | None) -> None:
    answers = [(2, 1, 6, "", (address, 0)) for address in addresses]
    (allocation.folder / "sitecustomize.py").write_text(f"import socket\nsocket.getaddrinfo = lambda *_: {answers}\n")
    environment = {**allocation.environment, "PYTHONPATH": str(allocation.folder)}
    done = subprocess.run(
        ["bash", "-c", f"source {FOLDER / 'ray.sh'}; _private_address"], env=environment, capture_output=True, text=True, timeout=SECONDS
    )
    if taken:
        assert done.stdout.strip() == taken
    else:
        assert done.returncode == 1
        assert "only 127.0.1.1, 8.8.8.8: set JACLOOM_IP" in done.stderr
        assert socket.gethostname() in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, which is not on the path")
def test_a_service_runs_over_two_nodes(tmp_path: Path) -> None:
    allocation = Allocation(tmp_path, JACLOOM_PORT=str(free_port()), SLURM_MEM_PER_NODE="2000")
    with allocation.batch(str(FOLDER / "serve.sbatch")) as running:
        wait_for(lambda: "jacloom doctor" in allocation.log() or running.poll() is not None, "the script to say how to connect")
        (line,) = re.findall(r"export (.*)", allocation.log())
        said = dict(word.split("=", 1) for word in line.replace("$(cat ", "").replace(")", "").replace('"', "").split())
        token = Path(said["JACLOOM_TOKEN"]).read_text().strip()
        with jl.connect(said["JACLOOM_ADDRESS"], token=token, tls=said["JACLOOM_TLS"], timeout=120) as client:
            jacobian = client.jacobian(lambda x: x**3, timeout=240)(np.array([1.0, 2.0]))
        assert jacobian.tolist() == [[3.0, 0.0], [0.0, 12.0]]
        folders = [f"/tmp/jacloom-4711-{node}" for node in (0, 1)]
        for folder in folders:
            assert [each for each in psutil.process_iter() if _of_raylet(each, folder)], f"no node of Ray in {folder}"
        secrets = Path(said["JACLOOM_TLS"]).parent
        assert secrets.stat().st_mode & 0o077 == 0
        running.send_signal(signal.SIGUSR1)
        assert running.wait(120) == 0
    assert not secrets.exists()
    assert not [each for each in psutil.process_iter() for folder in folders if _of_raylet(each, folder)]
    assert not any(Path(folder).exists() for folder in folders)


def _of_raylet(process: psutil.Process, folder: str) -> bool:
    try:
        return any(f"{folder}/" in word for word in process.cmdline())
    except psutil.Error:
        return False
