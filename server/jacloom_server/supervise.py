"""Keeping a server up: the process that operators start, and that starts the server anew when it ends by itself."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

_LOG = logging.getLogger(__name__)

MISTAKE: Final = 2
"""Exit code for settings that cannot work; trying again would not help."""
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_STEADY: Final = 60.0
"""Seconds after which a server counts as having worked, so that the next pause is short again."""


def supervise(arguments: Sequence[str]) -> int:
    """Runs a server in a process of its own until told to stop, and returns the exit code.

    Ray ends a server whose cluster it cannot reach any more, among other reasons to go. SIGTERM and SIGINT are passed on, and the server
    drains. The server holds on to us by its standard input, so it does not outlive us.

    Args:
        arguments: The server's command line.
    """
    children: list[subprocess.Popen[str]] = []
    told: list[int] = []

    def tell(number: int, _: FrameType | None) -> None:
        told.append(number)
        for child in children:
            child.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
    pause = _FIRST_PAUSE
    while True:
        began = time.monotonic()
        command = [sys.executable, "-m", "jacloom_server", "--parent", *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
            children[:] = [child]
            if told:
                # Between the last look at it and now.
                child.send_signal(signal.SIGTERM)
            line = child.stdout.readline() if child.stdout else ""
            if line:
                print(f"serving on {json.loads(line)['address']}", flush=True)
            code = child.wait()
        if told:
            return max(code, 0)
        if code == MISTAKE:
            return code
        pause = _FIRST_PAUSE if time.monotonic() - began > _STEADY else min(2 * pause, _LONGEST_PAUSE)
        _LOG.error("the server has ended with code %d; it is started again in %.0f s", code, pause)
        _wait(pause, told)
        if told:
            return 0


def _wait(seconds: float, told: Sequence[int]) -> None:
    """Waits, but not for longer than until a signal comes."""
    deadline = time.monotonic() + seconds
    while not told and time.monotonic() < deadline:
        time.sleep(0.1)
