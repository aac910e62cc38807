"""A real service and raw stubs, for those modules that have no service of their own; and a pool in this process for those that look into it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from integration import graphs, service
from integration.service import Client, Process

from jacloom_server.blobs import Blobs
from jacloom_server.cluster import Cluster
from jacloom_server.config import Config
from jacloom_server.functions import Functions
from jacloom_server.planning import Service
from jacloom_server.pool import Pool
from jacloom_server.structures import Structures
from jacloom_worker.launch import Role, Seat


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with service.process(tmp_path_factory.mktemp("server") / "log", "--workers", "2", "--object-store", "1G") as running:
        service.wait_for(lambda: running.ready() == 4)
        yield running


@pytest.fixture(scope="module")
def client(process: Process) -> Iterator[Client]:
    with service.client(process) as made:
        yield made


@pytest.fixture(scope="module")
def mixed(client: Client) -> str:
    return client.register(graphs.mixed())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(Config(workers=4, object_store=256 << 20))
    yield made
    made.close()


@pytest.fixture
async def pool(cluster: Cluster) -> AsyncIterator[Pool]:
    """A pool without seats."""
    made = Pool(lease=60.0, attempts=3, patience=20.0, abreast=4)
    yield made
    made.close()


@pytest.fixture
def one_worker(pool: Pool) -> Service:
    """What calls need, with a clerk and one worker."""
    pool.seat([Seat(Role.CLERK, 0), Seat(Role.NARROW, 0)])
    blobs = Blobs(1 << 20, 60.0)
    return Service(pool, Functions(pool, blobs, most=10, most_bytes=1 << 20, total_bytes=1 << 24), blobs, Structures())
