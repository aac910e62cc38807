"""The server put together: what is made in which order, and taken down in the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_health.v1 import health_pb2_grpc as health_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from jacloom_api.v1 import function_service_pb2_grpc as function_grpc
from jacloom_api.v1 import job_service_pb2_grpc as job_grpc
from jacloom_server.blobs import Blobs
from jacloom_server.cluster import Cluster
from jacloom_server.config import Config, ConfigError, is_loopback, split_address
from jacloom_server.edges import job
from jacloom_server.edges.blob import BlobServicer
from jacloom_server.edges.decoding import Decoding
from jacloom_server.edges.derivative import DerivativeServicer
from jacloom_server.edges.function import FunctionServicer
from jacloom_server.edges.gate import Gate, read_tokens
from jacloom_server.functions import Functions
from jacloom_server.jobs.board import Board
from jacloom_server.jobs.places import Places
from jacloom_server.planning import Service
from jacloom_server.pool import Pool
from jacloom_server.seats import layout
from jacloom_server.structures import Structures
from jacloom_worker import launch
from jacloom_worker.launch import Role

_LOG = logging.getLogger(__name__)

SERVICES: Final = tuple(f"jacloom_api.v1.{name}" for name in ("DerivativeService", "FunctionService", "BlobService", "JobService"))
_UPKEEP_SECONDS: Final = 5.0
_MOST_FAILURES: Final = 4
"""Times in a row that Ray may not answer before it counts as gone."""
_LAST_WORDS: Final = 1.0
"""Seconds between the end of the work and that of the connections, for the answers that say so."""
_SPARE_STREAMS: Final = 64
"""Streams that gRPC admits beyond the limit on calls: refusals are answered on them, and health."""


class Server:
    """A service that answers on an address. Lives on one event loop."""

    def __init__(self, config: Config, cluster: Cluster) -> None:
        """Starts worker processes.

        Args:
            config: Settings.
            cluster: Where they run. It stays when the server stops.

        Raises:
            ConfigError: A file with tokens, a certificate or a key cannot be read, or the data folder cannot be written to.
        """
        self._config = config
        self._cluster = cluster
        self._credentials = _credentials(config)
        self._gate = Gate(read_tokens(config.token_file) if config.token_file else [], config.calls)
        self._health = HealthServicer()
        self._tasks: set[asyncio.Task[None]] = set()
        if config.data is not None:
            _require_folder(config.data, "--data")
        functions = config.data / "functions" if config.data else None
        constants = config.data / "blobs" if config.data else None
        abreast = os.cpu_count() or 1 if cluster.local else 1000
        self.pool = Pool(lease=config.tile_lease, attempts=config.attempts, patience=config.patience, abreast=abreast, changed=self._tell_health)
        self.pool.seat(layout(launch.nodes(), config, pinned=not cluster.local))
        self._blobs = Blobs(config.blob_bytes, config.blob_lease, constants)
        self._functions = Functions(
            self.pool,
            self._blobs,
            most=config.functions,
            most_bytes=config.graph_limits.graph_bytes,
            total_bytes=config.function_bytes,
            folder=functions,
        )
        self._service = Service(self.pool, self._functions, self._blobs, Structures())
        self._board: Board | None = None
        if config.data is not None:
            results = config.results or config.data / "results"
            _require_folder(results, "--results")
            self._board = Board(self._service, Places((config.data / "jobs").resolve(), results.resolve()), job.decoded)
            self._functions.when_deleted(self._board.require_unused)

    async def start(self) -> str:
        """Begins to answer and returns the address with the port that it has got.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        config = self._config
        self._grpc = grpc.aio.server(
            interceptors=[self._gate, Decoding()],
            maximum_concurrent_rpcs=config.calls + _SPARE_STREAMS,
            options=[
                # Two servers would bind one port and share its callers in silence.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", config.message_bytes),
                ("grpc.max_send_message_length", config.message_bytes),
                # The default allows one ping in five minutes and hangs up on clients that ask more often whether we are still there.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        DerivativeServicer(self._service).add_to(self._grpc)
        function_grpc.add_FunctionServiceServicer_to_server(FunctionServicer(self._functions, self.pool), self._grpc)
        BlobServicer(self._blobs).add_to(self._grpc)
        job_grpc.add_JobServiceServicer_to_server(job.JobServicer(self._board), self._grpc)
        health_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._grpc)
        await self._set_health()
        host, _ = split_address(config.address)
        try:
            if self._credentials is None:
                port = self._grpc.add_insecure_port(config.address)
            else:
                port = self._grpc.add_secure_port(config.address, self._credentials)
        except RuntimeError as error:
            also = "" if self._credentials is None else " Or do certificate and key not belong together?"
            raise ConfigError(f"cannot listen on {config.address}: is another server there already?{also}") from error
        if self._board is not None:
            # Before the first call, which may make a job: what earlier servers have left is told from that.
            await self._board.start()
        await self._grpc.start()
        self._later(self._functions.restore())
        if not is_loopback(host) and config.insecure:
            _LOG.warning("%s can be reached from other machines without %s", config.address, "TLS" if config.token_file else "a token")
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def stop(self, grace: float) -> None:
        """Refuses new calls, gives those under way some seconds to finish, and ends the workers."""
        self._gate.drain()
        if self._board is not None:
            self._board.drain()
        with contextlib.suppress(TimeoutError):
            # A watcher of health that does not read must not keep us.
            await asyncio.wait_for(self._health.enter_graceful_shutdown(), 1.0)
        stopping = asyncio.create_task(self._grpc.stop(grace + _LAST_WORDS))
        await asyncio.wait([stopping], timeout=grace)
        if self._board is not None:
            await self._board.stop()
        # Calls that are left end now, and say why; gRPC cuts off only those that do not even listen.
        self.pool.close()
        await stopping
        for task in self._tasks:
            task.cancel()

    def _tell_health(self) -> None:
        self._later(self._set_health())

    async def _set_health(self) -> None:
        able = self.pool.ready(Role.NARROW, Role.WIDE, Role.GPU) > 0
        status = health_pb2.HealthCheckResponse.SERVING if able else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICES):
            await self._health.set(name, status)

    async def lost(self) -> None:
        """Returns when the Ray cluster is gone, or this machine is no longer part of it: nothing can be computed then, and Ray does not join again.

        Meanwhile follows machines that join or leave, and drops blobs whose lease has run out.
        """
        here, failures = launch.here(), 0
        while failures < _MOST_FAILURES:
            await asyncio.sleep(_UPKEEP_SECONDS)
            self._blobs.sweep()
            try:
                nodes = await asyncio.wait_for(asyncio.to_thread(launch.nodes), _UPKEEP_SECONDS)
            except Exception as error:
                failures += 1
                _LOG.warning("Ray does not say which machines it has (%s)", type(error).__name__)
                continue
            failures = 0
            if here not in [node.id for node in nodes]:
                return
            if not self._cluster.local:
                self.pool.seat(layout(nodes, self._config, pinned=True))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _require_folder(folder: Path, flag: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"{flag} {folder}: files cannot be kept there: {error.strerror}.") from error


def _credentials(config: Config) -> grpc.ServerCredentials | None:
    if config.tls_cert is None or config.tls_key is None:
        return None
    try:
        return grpc.ssl_server_credentials([(config.tls_key.read_bytes(), config.tls_cert.read_bytes())])
    except OSError as error:
        raise ConfigError(f"cannot read {error.filename}: {error.strerror}.") from error
