"""Places at which a process ends itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from jacloom_server.jobs import failpoints

PROGRAM = """
from jacloom_server.jobs import failpoints
for visit in range(3):
    for name in failpoints.NAMES:
        failpoints.reached(name)
        print(visit, name, flush=True)
"""


def run(setting: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != failpoints.VARIABLE}
    if setting is not None:
        environment[failpoints.VARIABLE] = setting
    return subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("setting", [None, "", "before-rename:4"])
def test_nothing_happens_unless_asked_for(setting: str | None) -> None:
    done = run(setting)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 3 * len(failpoints.NAMES))


def test_the_process_is_killed_at_the_place_and_time_that_was_asked_for() -> None:
    done = run("before-transaction:2")
    assert done.returncode == -signal.SIGKILL
    assert done.stdout.splitlines()[-1] == "1 before-directory-sync"


@pytest.mark.parametrize("setting", ["nowhere:1", "before-rename", "before-rename:0", "before-rename:x", ":1"])
def test_a_setting_that_cannot_be_is_refused(setting: str) -> None:
    done = run(setting)
    assert done.returncode == 1
    assert (
        f"ValueError: JACLOOM_FAILPOINT must be a name and a count from 1 on, such as before-rename:1, with one of the names {failpoints.NAMES[0]}"
        in (done.stderr)
    )
