"""What tiles took, held against what was foretold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_server import strategy
from jacloom_server.plan import Mode
from jacloom_server.pricing import Correction, factor
from jacloom_server.strategy import Problem
from jacloom_server.tuning import Tuner
from jacloom_worker.protocol import Cost, Survey

COLUMN, ROW = Cost(2e9, 0, 8, shared_flops=4e9), Cost(4e9, 0, 8)
SURVEY = Survey(Cost(1e9, 0, 8), COLUMN, ROW)
"""At 20 GFLOP/s: 50 ms, then 100 ms a column and 200 ms for what they share, 200 ms a row."""
PROBLEM = Problem((Type("float64", (30,)),), (Type("float64", (40,)),), 9600)


def test_a_tile_is_held_against_its_seeds_and_what_they_share() -> None:
    tuner = Tuner(8)
    assert factor(tuner, COLUMN) is None
    tuner.record(8, 8, 3.0, 0.5)
    assert factor(tuner, COLUMN) == pytest.approx(3.0)
    assert factor(tuner, ROW) == pytest.approx(3.0 / 1.6)
    assert factor(tuner, Fault(Reason.MODE_UNAVAILABLE, "none")) is None


@pytest.mark.parametrize("mode", list(Mode))
def test_a_tile_takes_as_long_as_the_corrected_price_says_whatever_its_seeds_share(mode: Mode) -> None:
    survey = Survey(SURVEY.value, COLUMN, replace(ROW, shared_flops=6e9))
    tuner, known = Tuner(8), Correction()
    tuner.record(8, 8, 3.0, 0.5)
    found = factor(tuner, strategy.by_mode(survey)[mode])
    assert found is not None
    known.learn({Mode.FORWARD: 1.0, Mode.REVERSE: 1.0, mode: found})
    corrected = strategy.by_mode(known.applied(survey))[mode]
    assert isinstance(corrected, Cost)
    assert strategy.sweep(corrected) + 8 * strategy.seconds(corrected) == pytest.approx(3.0)


def test_one_measurement_alone_changes_no_choice() -> None:
    known = Correction()
    known.learn({Mode.FORWARD: 10.0})
    made = known.applied(SURVEY)
    assert isinstance(made.forward, Cost)
    assert isinstance(made.reverse, Cost)
    assert strategy.seconds(made.forward) == pytest.approx(1.0)
    assert strategy.sweep(made.forward) == pytest.approx(2.0)
    assert strategy.seconds(made.reverse) == pytest.approx(2.0)
    assert (made.forward.measured, made.reverse.measured) == (True, False)
    assert made.forward.peak == 8


def test_both_together_do() -> None:
    known = Correction()
    plans = []
    for found in ({}, {Mode.FORWARD: 10.0}, {Mode.FORWARD: 10.0, Mode.REVERSE: 2.0}):
        known.learn(found)
        plans.append(strategy.jacobian(PROBLEM, known.applied(SURVEY), workers=1))
    assert [plan.strategy for plan in plans] == ["forward", "forward", "reverse"]
    assert [option.verdict for option in plans[0].considered] == ["cheapest", "about 2.11 times the price"]
    assert [option.verdict for option in plans[1].considered] == ["cheapest (measured)", "about 2.11 times the price"]
    assert [option.verdict for option in plans[2].considered] == ["cheapest (measured)", "about 2.38 times the price (measured)"]


def test_prices_that_wander_leave_plans_alone() -> None:
    known = Correction()
    known.learn({Mode.FORWARD: 2.0, Mode.REVERSE: 1.0})
    before = known.applied(SURVEY)
    for wandering in (1.6, 2.5, 2.0, 1.9):
        known.learn({Mode.FORWARD: wandering, Mode.REVERSE: 1.0})
        assert known.applied(SURVEY) == before
    known.learn({Mode.REVERSE: 1.1})
    assert known.applied(SURVEY) == before, "what is not measured again stays"
    known.learn({Mode.FORWARD: 1.5, Mode.REVERSE: 1.0})
    assert known.factors == {Mode.FORWARD: 1.5, Mode.REVERSE: 1.0}
