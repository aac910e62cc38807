"""The tiles of one call with a real pool: what is learned from them, also when their reader has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import numpy as np
import pytest
from integration import graphs

from jacloom_graph.answer import Derivative
from jacloom_graph.types import Type
from jacloom_server import run
from jacloom_server.blobs import Blobs
from jacloom_server.call import Argument, Call, Sparsity
from jacloom_server.cluster import Cluster
from jacloom_server.config import Config
from jacloom_server.functions import Functions
from jacloom_server.plan import Mode
from jacloom_server.planning import Service
from jacloom_server.pool import Pool
from jacloom_server.structures import Structures
from jacloom_worker.launch import Role, Seat

N = 512


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(Config(workers=1, object_store=256 << 20))
    yield made
    made.close()


@pytest.fixture(scope="module")
async def service(cluster: Cluster) -> AsyncIterator[Service]:
    pool = Pool(lease=60.0, attempts=3, patience=20.0, abreast=2)
    pool.seat([Seat(Role.CLERK, 0), Seat(Role.NARROW, 0)])
    blobs = Blobs(1 << 20, 60.0)
    yield Service(pool, Functions(pool, blobs, most=10, most_bytes=1 << 20, total_bytes=1 << 24), blobs, Structures())
    pool.close()


async def test_a_call_that_ends_during_its_trial_leaves_the_trial_to_the_next(service: Service) -> None:
    function = await service.functions.register(graphs.serialized(graphs.decay(N, 20_000)))
    point = Argument(Type("float64", (N,)), np.ones(N).tobytes())
    call = Call(derivative=Derivative.JACOBIAN, function=function.name, args=(point,), wrt=(0,), mode=Mode.FORWARD, sparsity=Sparsity.DENSE)
    trial = None
    async with aclosing(run.replies(service, call)) as replies:
        async for _ in replies:
            (tuner,) = function.tuners.values()
            trial = tuner._trial
            if trial is not None:
                break
    assert trial is not None
    # The tiles are taken back in the next turns of the loop.
    await asyncio.sleep(0.1)
    assert tuner.next(1_000_000, 1) == trial != tuner.best, "it can begin again"
