"""Joining a Ray cluster, or starting one on this machine that lives as long as this process."""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray
from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]  # compiled, without types

from jacloom_server.config import Config, ConfigError, split_address

_LOG = logging.getLogger(__name__)

_REACH_SECONDS: Final = 10.0
_SOCKET_FOLDER: Final = 32
"""Longest folder that leaves room for Ray's socket paths, which must stay below 107 characters."""


class Cluster:
    """This process's connection to Ray. Make it in the main thread, before any gRPC object; Ray ends its processes when that thread ends.

    Attributes:
        local: Ray is our own, on this machine.
        folder: Where it keeps its files; None if it is not our own.
    """

    def __init__(self, config: Config) -> None:
        """Connects.

        Raises:
            ConfigError: There is no cluster at the address, or it would be joined without authentication.
        """
        self.local = config.ray_address is None
        self.folder: Path | None = None
        if config.ray_address is None:
            self._start(config)
        else:
            self._join(config.ray_address, config.insecure)

    def close(self) -> None:
        """Leaves the cluster. One of our own ends, with all its processes and files."""
        ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, config: Config) -> None:
        home = tempfile.gettempdir()
        self.folder = Path(tempfile.mkdtemp(prefix="jacloom-", dir=home if len(home) < _SOCKET_FOLDER else "/tmp"))
        options: dict[str, Any] = {
            "_temp_dir": str(self.folder),
            "include_dashboard": False,
            "num_cpus": max(config.workers or 0, os.cpu_count() or 1),
        }
        if config.gpus is not None:
            options["num_gpus"] = config.gpus
        if config.object_store is not None:
            options["object_store_memory"] = config.object_store
        with _lean_node():
            # "local" and not None: RAY_ADDRESS in the environment would be joined otherwise.
            ray.init(address="local", log_to_driver=False, configure_logging=False, **options)
        if get_authentication_mode() is not AuthenticationMode.TOKEN:
            self.close()
            raise ConfigError("Ray runs without authentication, and whoever reaches its ports runs code: unset RAY_AUTH_MODE, or set it to token.")

    def _join(self, address: str, insecure: bool) -> None:
        if get_authentication_mode() is not AuthenticationMode.TOKEN and not insecure:
            raise ConfigError(
                f"{address} would be joined without authentication, and whoever reaches Ray's ports runs code: start the cluster and this "
                "server with RAY_AUTH_MODE=token, or add --insecure on a network that you trust."
            )
        try:
            # Ray itself would try for minutes, and fill the log.
            socket.create_connection(split_address(address), _REACH_SECONDS).close()
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:
            _LOG.debug("joining %s failed", address, exc_info=error)
            raise ConfigError(
                f"no Ray cluster can be joined at {address}: start one there with `ray start --head` and the same version of Ray and Python, "
                "and give this server its token (RAY_AUTH_TOKEN, or the file ~/.ray/auth_token)."
            ) from error


@contextmanager
def _lean_node() -> Iterator[None]:
    """Makes ``ray.init`` start a head node without what a service never uses: the autoscaler's monitor, the log monitor and the dashboard's server.

    Each is a Python process that loads Ray first. On two cores the node is up 3.5 s sooner without them. Ray has no option to leave them out; should
    it rename what is replaced here, the node merely starts as usual.
    """
    try:
        module: Any = importlib.import_module("ray._private.node")
        usual = module.Node
    except (ImportError, AttributeError):
        yield
        return
    module.Node = _leaner(usual)
    try:
        yield
    finally:
        module.Node = usual


def _leaner(usual: Any) -> Any:
    class LeanNode(usual):  # type: ignore[misc]  # Ray's class, found at run time
        def start_monitor(self, *_: Any, **__: Any) -> None:
            """Starts nothing."""

        def start_log_monitor(self, *_: Any, **__: Any) -> None:
            """Starts nothing."""

        def start_api_server(self, *_: Any, **__: Any) -> None:
            """Starts nothing."""

        def start_ray_processes(self, *arguments: Any, **options: Any) -> None:
            """Starts the node and returns when it is registered; Ray itself looks once a second."""
            super().start_ray_processes(*arguments, **options)
            deadline = time.monotonic() + 30
            client = self.get_gcs_client()
            while time.monotonic() < deadline and not client.get_all_node_info():
                time.sleep(0.02)

    return LeanNode
