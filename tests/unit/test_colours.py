"""From a pattern to a plan: whether its colours are used, and what is said of the choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.types import Type
from jacloom_server import colours, strategy
from jacloom_server.plan import Leg, Mode, Plan
from jacloom_server.strategy import Problem
from jacloom_worker.pattern import colouring
from jacloom_worker.pattern.choice import cheapest
from jacloom_worker.pattern.layout import arrange
from jacloom_worker.protocol import Cost, Dense, Prices, Structure, Survey, Weighed

VALUE, FORWARD, REVERSE = Cost(1e6, 1e5, 1000), Cost(2e6, 2e5, 10_000), Cost(4e6, 4e5, 10_000)
SURVEY = Survey(VALUE, FORWARD, REVERSE)
REFUSED = Fault(Reason.MODE_UNAVAILABLE, "a custom_vjp has no forward rule", place=Place(1, 4, "custom_call"))


def problem(m: int, n: int) -> Problem:
    return Problem((Type("float64", (n,)),), (Type("float64", (m,)),), n * m * 8)


def structure(pattern: np.ndarray, survey: Survey = SURVEY, mode: Mode | None = None) -> Structure:
    found = csr_array(pattern.astype(bool))
    return arrange(found, *cheapest(found, colours.prices(survey, mode)))


def planned(
    pattern: np.ndarray | Dense, m: int, n: int, *, survey: Survey = SURVEY, mode: Mode | None = None, tile: int = 0, required: bool = False
) -> Plan:
    dense = strategy.jacobian(problem(m, n), survey, workers=2, mode=mode, tile=tile)
    found = pattern if isinstance(pattern, Dense) else structure(pattern, survey, mode)
    nbytes = 0 if isinstance(found, Dense) else 8 * found.entries
    options = {"workers": 2, "tile": tile, "required": required, "asked": mode is not None}
    return colours.jacobian(dense, problem(m, n), survey, found, nbytes, **options)


@pytest.mark.parametrize(
    ("passes", "seconds", "nbytes", "worth"),
    [
        (5, 1.0, 0, True),
        (4, 1.0, 1 << 30, False),
        (5, 0.001, 1 << 18, False),
        (5, 0.001, (1 << 18) + 1, True),
        (5, 0.003, 8, True),
        (0, 0.0, 0, False),
    ],
)
def test_what_is_worth_looking_at(passes: int, seconds: float, nbytes: int, worth: bool) -> None:
    assert colours.worthwhile(Plan("forward", nbytes, (Leg(Mode.FORWARD, passes, seconds=seconds),))) == worth


def test_how_many_entries_a_pattern_may_have() -> None:
    assert colours.most_entries(3, 4, required=False) == colours.FEW_ENTRIES
    assert colours.most_entries(3000, 4000, required=False) == 4_000_000
    assert colours.most_entries(1 << 20, 1 << 20, required=False) == colours.MOST_ENTRIES
    # For a sparse result the matrix may be fuller, up to a size at which a full one is quickly looked at.
    assert colours.most_entries(3, 4, required=True) == colours.MANY_ENTRIES
    assert colours.most_entries(10_000, 8_000, required=True) == 40_000_000
    assert colours.most_entries(1 << 20, 1 << 20, required=True) == colours.MOST_ENTRIES


def test_prices_of_what_there_is_and_is_asked_for() -> None:
    both = colours.prices(SURVEY, None)
    assert both.forward is not None
    assert both.reverse == pytest.approx(2 * both.forward)
    assert colours.prices(SURVEY, Mode.FORWARD) == Prices(both.forward, None)
    assert colours.prices(SURVEY, Mode.REVERSE) == Prices(None, 1.0)
    assert colours.prices(Survey(VALUE, REFUSED, REVERSE), None) == Prices(None, 1.0)
    shared = Survey(VALUE, FORWARD.times(1.004, measured=True), Cost(4e6, 4e5, 8, shared_flops=40e6, shared_bytes=4e6))
    assert colours.prices(shared, None) == Prices(1.0, 2.0, 0.0, 20.0)


class TestJacobian:
    def test_colours_that_pay(self) -> None:
        made = planned(np.eye(30, 40), 30, 40)
        assert (made.strategy, made.passes, made.mode, made.nbytes) == ("coloured forward", 1, Mode.FORWARD, 240)
        assert made.structure is not None
        assert [(option.strategy, option.passes, option.verdict) for option in made.considered] == [
            ("coloured forward", 1, "cheapest"),
            ("coloured reverse", 1, "at least so many passes, about 2 times the price"),
            ("forward", 40, "about 40 times the price"),
            ("reverse", 30, "about 60 times the price"),
        ]
        assert made.considered[0].price == pytest.approx(2)

    def test_of_a_function_that_costs_nothing_dense_passes_cost_what_they_take(self) -> None:
        free = replace(SURVEY, value=Cost(0.0, 0.0, 0))
        made = planned(np.eye(30, 40), 30, 40, survey=free)
        assert [(option.strategy, option.price, option.verdict) for option in made.considered] == [
            ("coloured forward", None, "cheapest"),
            ("coloured reverse", None, "at least so many passes, about 2 times the price"),
            ("forward", None, "about 40 times the price"),
            ("reverse", None, "about 60 times the price"),
        ]

    def test_colours_that_do_not(self) -> None:
        made = planned(np.ones((7, 6)), 7, 6)
        assert (made.strategy, made.passes, made.structure, made.nbytes) == ("forward", 6, None, 7 * 6 * 8)
        assert made.considered[0].verdict == "cheapest"
        assert [option.strategy for option in made.considered] == ["forward", "reverse", "coloured forward", "coloured reverse"]

    def test_colours_that_are_required(self) -> None:
        made = planned(np.ones((7, 6)), 7, 6, required=True)
        assert (made.strategy, made.passes) == ("coloured forward", 6)
        assert made.structure is not None

    def test_a_pattern_too_dense_to_be_used_is_told(self) -> None:
        made = planned(Dense("its pattern has more than 10 entries"), 7, 6)
        assert (made.strategy, made.structure) == ("forward", None)
        last = made.considered[-1]
        assert (last.strategy, last.passes, last.verdict) == ("coloured", None, "not considered: its pattern has more than 10 entries")

    def test_both_modes_have_a_leg_each(self) -> None:
        arrow = np.eye(40, 50)
        arrow[0] = arrow[:, 0] = 1
        made = planned(arrow, 40, 50, survey=Survey(VALUE, FORWARD, FORWARD))
        assert (made.strategy, made.passes, made.mode) == ("bicoloured", 3, None)
        assert made.structure is not None
        assert [(leg.mode, leg.passes) for leg in made.legs] == [(Mode(part.mode), part.passes) for part in made.structure.parts]

    @pytest.mark.parametrize("mode", Mode)
    def test_a_mode_that_is_asked_for(self, mode: Mode) -> None:
        made = planned(np.eye(30, 40), 30, 40, mode=mode)
        assert (made.strategy, made.mode) == (f"coloured {mode.value}", mode)
        assert made.considered[0].verdict == "asked for"

    def test_a_mode_that_is_not_there(self) -> None:
        made = planned(np.eye(30, 40), 30, 40, survey=Survey(VALUE, REFUSED, REVERSE))
        assert made.strategy == "coloured reverse"
        assert ("not available: a custom_vjp has no forward rule", REFUSED.place) in [(option.verdict, option.place) for option in made.considered]

    def test_a_tile_is_taken_as_it_is(self) -> None:
        made = planned(np.ones((7, 6)), 7, 6, tile=4, required=True)
        assert [(leg.tile, leg.tiles) for leg in made.legs] == [(4, 2)]

    def test_nothing_to_compute(self) -> None:
        made = planned(np.zeros((30, 40)), 30, 40)
        assert (made.strategy, made.passes, made.tiles, made.workers, made.nbytes) == ("empty", 0, 0, 0, 0)
        assert made.structure is not None
        assert made.considered[0].strategy == "coloured forward"

    def test_a_scalar(self) -> None:
        made = planned(np.ones((1, 1)), 1, 1, required=True)
        assert (made.passes, made.nbytes) == (1, 8)


def symmetric(pattern: np.ndarray) -> Structure:
    found = csr_array(pattern.astype(bool))
    coloured = colouring.symmetric(found)
    return arrange(found, coloured, (Weighed("star-coloured", coloured.forward, 0, exact=True),))


class TestHessian:
    ARROW = np.eye(40)
    ARROW[0] = ARROW[:, 0] = 1

    @staticmethod
    def dense(n: int, tile: int = 0) -> Plan:
        return strategy.hessian(problem(1, n), SURVEY, workers=2, tile=tile)

    def test_colours_that_pay(self) -> None:
        dense = self.dense(40)
        made = colours.hessian(dense, symmetric(self.ARROW), 79 * 8, workers=2, tile=0, required=False)
        assert (made.strategy, made.passes, made.inner, made.nbytes) == ("star-coloured", 2, Mode.REVERSE, 79 * 8)
        assert made.seconds == pytest.approx(dense.seconds / 20)
        assert [(option.strategy, option.passes, option.verdict) for option in made.considered] == [
            ("star-coloured forward over reverse", 2, "cheapest: columns of one colour share a pass"),
            ("forward over reverse", 40, "about 20 times the price"),
        ]

    def test_colours_that_do_not_or_are_not_there(self) -> None:
        dense = self.dense(6)
        for found, passes, verdict in ((symmetric(np.ones((6, 6))), 6, "no fewer passes"), (Dense("too many"), None, "not considered: too many")):
            made = colours.hessian(dense, found, 8, workers=2, tile=0, required=False)
            assert (made.strategy, made.legs, made.structure) == (dense.strategy, dense.legs, None)
            assert [(option.passes, option.verdict) for option in made.considered[1:]] == [(passes, verdict)]
        made = colours.hessian(dense, symmetric(np.ones((6, 6))), 8, workers=2, tile=0, required=True)
        assert (made.strategy, made.passes) == ("star-coloured", 6)

    def test_a_tile_is_taken_as_it_is(self) -> None:
        made = colours.hessian(self.dense(6, tile=4), symmetric(np.ones((6, 6))), 8, workers=2, tile=4, required=True)
        assert [(leg.tile, leg.tiles) for leg in made.legs] == [(4, 2)]

    def test_of_a_linear_function(self) -> None:
        made = colours.hessian(self.dense(6), symmetric(np.zeros((6, 6))), 0, workers=2, tile=0, required=False)
        assert (made.strategy, made.passes, made.inner) == ("empty", 0, Mode.REVERSE)
