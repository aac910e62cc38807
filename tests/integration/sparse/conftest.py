"""One service on this machine for all files of this folder, through the SDK."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import jacloom as jl


@pytest.fixture(scope="package")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client
