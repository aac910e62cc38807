"""One server process, from start to exit."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final, TextIO, TypeVar

from jacloom_server import reaper
from jacloom_server.app import Server
from jacloom_server.cluster import Cluster
from jacloom_server.config import Config

_LOG = logging.getLogger(__name__)

_T = TypeVar("_T")
_ORPHANED: Final = "the parent is gone"
_LOST: Final = 70
"""Exit code of a server that has lost Ray; whoever supervises it starts another."""
_LAST_RESORT: Final = 8.0
"""Seconds after which the process ends whatever still hangs: of the drain, and again of leaving the cluster."""


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
            code = asyncio.run(_serve(config, cluster, announce if parent else None))
        finally:
            # Ray waits for a cluster that does not answer any more.
            _last_resort(_LAST_RESORT)
            cluster.close()
    return code


async def _serve(config: Config, cluster: Cluster, parent: TextIO | None) -> int:
    loop, told = asyncio.get_running_loop(), asyncio.Queue[str]()
    server = Server(config, cluster)
    loop.add_signal_handler(signal.SIGTERM, told.put_nowait, "SIGTERM")
    # Ctrl-C in a terminal reaches every process in it. A server that belongs to another leaves the decision to that one.
    loop.add_signal_handler(signal.SIGINT, (lambda: None) if parent else partial(told.put_nowait, "SIGINT"))
    if parent:
        threading.Thread(target=_await_end_of_input, args=(loop, partial(told.put_nowait, _ORPHANED)), name="parent", daemon=True).start()
    grace = 0.0
    try:
        address = await server.start()
        _LOG.info("serving on %s", address)
        if parent:
            print(json.dumps({"address": address, "pid": os.getpid()}), file=parent, flush=True)
        reason = await _first(told.get(), server.lost())
        if reason is None:
            _LOG.error("Ray is gone, and this server cannot go on without it")
            await server.stop(0.0)
            # Ray would wait for what is not there any more.
            os._exit(_LOST)
        grace = 0.0 if reason == _ORPHANED else config.drain
        _LOG.info("%s: stopping; calls under way have %.0f s to finish", reason, grace)
    finally:
        _last_resort(grace + _LAST_RESORT)
        # A turn of the loop for what has just begun: a task that never ran is reported as lost.
        await asyncio.sleep(0)
        hurry = asyncio.create_task(_stop_at_once(server, told))
        await server.stop(grace)
        hurry.cancel()
    return 0


async def _stop_at_once(server: Server, told: asyncio.Queue[str]) -> None:
    """Stops a server that is stopping already, when it is told a second time: the shorter grace counts."""
    await told.get()
    await server.stop(0.0)


async def _first(*works: Coroutine[Any, Any, _T]) -> _T:
    """Returns what the first of several works to end returns; the others are cancelled."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return done.pop().result()
    finally:
        for task in tasks:
            task.cancel()


def _last_resort(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


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
