"""A service that answers by script, for the tests of the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unit.scripted import Script, serving
from unit.scripted_jobs import Jobs, client_of_jobs

import jacloom as jl
from jacloom._connect import connect


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[jl.Client]:
    with serving(script) as port, connect(f"127.0.0.1:{port}") as client:
        yield client


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


@pytest.fixture
def jobs_client(script: Script, jobs: Jobs) -> Iterator[jl.Client]:
    """A client of a service that has jobs."""
    with client_of_jobs(script, jobs) as client:
        yield client
