"""A real service and raw stubs, for those modules that have no service of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration import graphs, service
from integration.service import Client, Process


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
