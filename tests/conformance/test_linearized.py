"""Products from what is kept of a point, through all functions of the skew tests' catalogue: the numbers that JAX has computed for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from skew.catalogue import CASES
from skew.recording import Arrays, differentiable
from skew.test_saved import assert_equal, saved

import jacloom as jl
from jacloom_graph import wire
from jacloom_worker.engine import Engine
from jacloom_worker.linearized import Product
from jacloom_worker.protocol import Done, Kernel, Kind, Load, Task
from jacloom_worker.splitting import Split

pytestmark = [pytest.mark.usefixtures("worker_jax"), pytest.mark.slow]


def products(function: jl.Function, kernel: Kernel, arrays: Sequence[np.ndarray], *, linearize: bool) -> Arrays:
    engine, task = Engine(), Task(kernel, Load(wire.to_bytes(function.graph)), point="point", linearize=linearize)
    for _ in range(1 + linearize):  # the second finds what the first has kept
        answer = engine.run(task, *arrays)
        assert isinstance(answer, Done), answer
    assert isinstance(engine._kernels.get((kernel, linearize)), Product) is linearize
    return answer.arrays


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_jax(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Split, "pays", True)
    function, recorded = saved("0.10.2", name)
    wrt, outputs = differentiable(function.inputs), differentiable(function.outputs)
    for kind, seeds, expected in ((Kind.JVP, recorded.tangents, recorded.jvp), (Kind.VJP, recorded.cotangents, recorded.vjp)):
        if expected is not None:
            kernel = Kernel(function.id, kind, wrt, outputs)
            assert_equal(products(function, kernel, [*recorded.leaves, *seeds], linearize=True), expected)
    scalar = next((leaf for leaf in outputs if function.outputs[leaf].shape == ()), None)
    if scalar is not None:
        kernel, arrays = Kernel(function.id, Kind.HVP, wrt, (scalar,)), [*recorded.leaves, *recorded.tangents]
        assert_equal(products(function, kernel, arrays, linearize=True), products(function, kernel, arrays, linearize=False))
