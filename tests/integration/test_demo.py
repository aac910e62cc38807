"""The demo's problems through the service: right, in the cheaper direction, with no pass too many."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import jacloom as jl
from jacloom.demo.catalogue import problems
from jacloom.demo.measure import TOLERANCE, measure
from jacloom.demo.problem import Problem

PASSES = {
    "lecture-columns": 2,
    "lecture-rows": 2,
    "tall": 8,
    "wide": 3,
    "robot-arm": 6,
    "gaussian-mixture": 1,
    "lorenz-96": 256,
    "brusselator": 10,
}


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


@pytest.mark.parametrize("problem", problems(), ids=lambda problem: problem.name)
def test_problem(client: jl.Client, problem: Problem) -> None:
    outcome = measure(client, problem)
    assert outcome.error <= TOLERANCE
    assert outcome.strategy == problem.expect
    assert outcome.passes == PASSES[problem.name]
    assert 1 <= outcome.workers <= max(outcome.tiles, 1)
    assert outcome.ok
