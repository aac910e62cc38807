"""A service on this machine for each file of this folder, through the SDK.

Not one for the folder: where files are spread over processes, what comes between two of them would find it running.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import jacloom as jl


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client
