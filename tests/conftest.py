"""What all tests share: Ray's environment, how much is tried, and JAX set up as in a worker for those that ask for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jacloom_server import environment
from jacloom_worker import devices

# What Ray reads when it is loaded must be there before any test module loads it.
environment.prepare(local=True)

_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_traceback_filtering", "jax_platforms")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole-catalogue", action="store_true", help="try all float cases of JAX's catalogue of primitives, not one in ten")
    parser.addoption("--matrices", type=Path, help="a folder of SuiteSparse matrices, NAME.mat or NAME.mtx, whose colours to compare")
    parser.addoption("--crds", type=Path, help="a folder of KubeRay's CRDs, ray.io_*.yaml, that the manifests must keep to")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> None:
    """Takes Ctrl-C as usual: a shell starts background commands with the signal ignored, and tests send it to themselves."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def worker_jax() -> Iterator[None]:
    """JAX as workers have it, for the tests of one module: float64 kept, products at the highest precision."""
    before = {name: getattr(jax.config, name) for name in _SETTINGS}
    devices.configure("cpu")
    yield
    for name, value in before.items():
        jax.config.update(name, value)
