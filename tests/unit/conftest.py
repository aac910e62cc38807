"""A service that answers by script, for the tests of the client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unit.scripted import Script, serving

import jacloom as jl
from jacloom._connect import connect


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script) -> Iterator[jl.Client]:
    with serving(script) as port, connect(f"127.0.0.1:{port}") as client:
        yield client
