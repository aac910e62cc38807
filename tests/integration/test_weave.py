"""The tiles of one call with a real pool: what is learned from them, also when their reader has gone."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import numpy as np
from integration import graphs

from jacloom_graph.answer import Derivative
from jacloom_graph.types import Type
from jacloom_server import run
from jacloom_server.call import Argument, Call, Sparsity
from jacloom_server.plan import Mode
from jacloom_server.planning import Service

N = 512


async def test_a_call_that_ends_during_its_trial_leaves_the_trial_to_the_next(one_worker: Service) -> None:
    function = await one_worker.functions.register(graphs.serialized(graphs.decay(N, 20_000)))
    point = Argument(Type("float64", (N,)), np.ones(N).tobytes())
    call = Call(derivative=Derivative.JACOBIAN, function=function.name, args=(point,), wrt=(0,), mode=Mode.FORWARD, sparsity=Sparsity.DENSE)
    trial = None
    async with aclosing(run.replies(one_worker, call)) as replies:
        async for _ in replies:
            (tuner,) = function.tuners.values()
            trial = tuner._trial
            if trial is not None:
                break
    assert trial is not None
    # The tiles are taken back in the next turns of the loop.
    await asyncio.sleep(0.1)
    assert tuner.next(1_000_000, 1) == trial != tuner.best, "it can begin again"
