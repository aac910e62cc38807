"""One server process, from start to exit."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final, TextIO

from jacloom_server import reaper
from jacloom_server.app import Server
from jacloom_server.cluster import Cluster
from jacloom_server.config import Config

_LOG = logging.getLogger(__name__)

_LAST_RESORT: Final = 15.0
"""Seconds after the drain at which the process ends whatever still hangs."""


def serve(config: Config, *, parent: bool) -> int:
    """Serves until told to stop, and returns the exit code. Call it in the main thread.

    Args:
        config: Settings.
        parent: Another process has started this one for itself. It reads one line of JSON with ``address`` and ``pid`` from our standard
            output when we answer, and holds our standard input open: when that ends, however the parent did, so do we.

    Raises:
        ConfigError: The settings cannot be had on this machine.
    """
    # Ray first: it starts processes, and gRPC's threads should not be there yet when it does. It also takes SIGTERM for itself, so ours come later.
    announce = _own_output()
    with reaper.watch() as clear_away:
        cluster = Cluster(config)
        if cluster.folder is not None:
            clear_away(cluster.folder)
        try:
            asyncio.run(_serve(config, cluster, announce if parent else None))
        finally:
            cluster.close()
    return 0


async def _serve(config: Config, cluster: Cluster, parent: TextIO | None) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    grace = config.drain

    def told(name: str) -> None:
        nonlocal grace
        # Told twice: at once.
        grace = 0.0 if stop.is_set() else grace
        _LOG.info("%s: stopping%s", name, " now" if not grace else f", calls under way have {grace:.0f} s to finish")
        stop.set()

    def orphaned() -> None:
        nonlocal grace
        grace = 0.0
        stop.set()

    server = Server(config, cluster)
    loop.add_signal_handler(signal.SIGTERM, told, "SIGTERM")
    # Ctrl-C in a terminal reaches every process in it. A server that belongs to another leaves the decision to that one.
    loop.add_signal_handler(signal.SIGINT, (lambda: None) if parent else lambda: told("SIGINT"))
    if parent:
        threading.Thread(target=_await_end_of_input, args=(loop, orphaned), name="parent", daemon=True).start()
    try:
        address = await server.start()
        _LOG.info("serving on %s", address)
        if parent:
            print(json.dumps({"address": address, "pid": os.getpid()}), file=parent, flush=True)
        await stop.wait()
    finally:
        last_resort = threading.Timer(grace + _LAST_RESORT, os._exit, (1,))
        last_resort.daemon = True
        last_resort.start()
        await server.stop(grace)


def _own_output() -> TextIO:
    """Returns standard output for ourselves. Ray prints there when a worker dies; that goes to standard error, where the log is."""
    own = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return own


def _await_end_of_input(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    try:
        while os.read(sys.stdin.fileno(), 4096):
            pass
    except OSError:
        pass
    loop.call_soon_threadsafe(then)
