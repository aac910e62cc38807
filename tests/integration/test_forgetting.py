"""Services with little room: leased functions are forgotten, and nobody notices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import jax.numpy as jnp
import numpy as np
import pytest
from integration import graphs, service
from integration.service import request

import jacloom as jl
from jacloom_api.v1 import function_service_pb2 as function_pb


def sine(n: int) -> bytes:
    return graphs.serialized(graphs.sine(n))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[service.Process]:
    """A service with room for two functions, and for the constants of one."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "settings.toml").write_text("functions = 2\nblob_bytes = 1_000_000\n")
    flags = ("--config", str(folder / "settings.toml"), "--workers", "1", "--no-wide", "--object-store", "256M")
    with service.process(folder / "log", *flags) as running:
        yield running


def scaled(by: np.ndarray) -> Any:
    return lambda x: jnp.sum(x * by) ** 2


def test_forgetting_is_invisible_to_the_sdk(small: service.Process) -> None:
    x = np.linspace(0, 1, 100_000)
    with jl.connect(small.address) as client:
        # Each with a constant of 800 kB: only one fits.
        made = [jl.trace(scaled(np.full(100_000, float(n))), x) for n in range(1, 4)]
        for _ in range(2):
            for n, function in enumerate(made, 1):
                np.testing.assert_allclose(client.grad(function)(x), 2 * n * n * x.sum())
        kept = client.register(lambda x: x**2, np.zeros(3))
        for n in range(1, 5):
            np.testing.assert_allclose(client.jacobian(lambda x, n=n: x * n)(np.ones(2)), n * np.eye(2))
        assert kept.id in [function.id for function in client.functions()]
        client.delete(kept)


def test_graphs_of_calls_and_leased_functions_never_fill_the_service(small: service.Process) -> None:
    with service.client(small) as client:
        names = []
        for n in range(1, 5):
            call = request("", [np.ones(n)])
            call.graph = graphs.serialized(graphs.cubes(n))
            answer = client.call("Gradient", call)
            np.testing.assert_array_equal(answer.arrays[0], np.full(n, 3.0))
            names.append(answer.header.function)
            names.append(client.functions.Register(function_pb.RegisterRequest(graph=sine(n), leased=True), timeout=60).name)
        listed = client.functions.List(function_pb.ListFunctionsRequest())
        assert [info.name for info in listed.functions] == names[:-3:-1]
        for n in (1, 2):
            client.functions.Register(function_pb.RegisterRequest(graph=sine(n)), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            client.functions.Register(function_pb.RegisterRequest(graph=sine(3), leased=True), timeout=60)
        assert service.failure(caught.value).reason == "OVER_QUOTA"
