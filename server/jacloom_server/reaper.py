"""A small process that clears away what a killed server leaves behind: Ray's agents linger for minutes when nobody told them to stop.

Run as a script by ``watch``, with nothing imported that takes time or memory. It belongs to the server's session, and so does everything that
Ray starts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SETTLE = 1.0
"""Seconds that processes are given to end by themselves."""
_ORDERLY = b"."


@contextmanager
def watch() -> Iterator[Callable[[Path], None]]:
    """Has the rest of this process's session ended if this process ends within the body. Does nothing where it does not lead a session of its own.

    Yields:
        A function that names a folder to be removed then.
    """
    if os.getsid(0) != os.getpid() or not Path("/proc/self/stat").exists():
        yield lambda _: None
        return
    with subprocess.Popen([sys.executable, "-I", "-S", __file__], stdin=subprocess.PIPE) as reaper:
        pipe = reaper.stdin
        assert pipe is not None

        def tell(line: bytes) -> None:
            with suppress(BrokenPipeError):
                pipe.write(line + b"\n")
                pipe.flush()

        try:
            yield lambda folder: tell(os.fsencode(folder))
        finally:
            tell(_ORDERLY)


def reap() -> None:
    """Waits until the server ends, and unless it says that all is well, ends every other process of the session and removes its folders."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    folders = []
    for line in sys.stdin.buffer:
        if line.rstrip(b"\n") == _ORDERLY:
            return
        folders.append(line.rstrip(b"\n"))
    time.sleep(_SETTLE)
    for pid in _session(os.getsid(0)):
        if pid != os.getpid():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    import shutil

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _session(wanted: int) -> Iterator[int]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # pid (name, which may hold anything) state ppid pgrp session
            if int(stat.read_text().rpartition(")")[2].split()[3]) == wanted:
                yield int(stat.parent.name)


if __name__ == "__main__":
    reap()
