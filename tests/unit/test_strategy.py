"""From prices to plans."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from jacloom_graph.answer import Derivative
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.limits import MOST_WIDTH
from jacloom_graph.types import Type
from jacloom_server import strategy
from jacloom_server.plan import WIDTHS, Mode, Plan, fitting
from jacloom_server.strategy import Candidate, Problem
from jacloom_worker.protocol import Cost, Survey

VALUE = Cost(1e6, 1e5, 1000)
FORWARD = Cost(2e6, 2e5, 10_000)
REVERSE = Cost(4e6, 4e5, 10_000)
COLUMN, ROW = Cost(2e6, 2e5, 10_000, 1e6, 1e5), Cost(4e6, 4e5, 10_000, 1e6, 1e5)
"""The same, and an evaluation for all seeds of a tile."""
LOOPED = replace(ROW, shared_flops=2e6, shared_bytes=2e5)
"""A row of a loop of unknown length, which is run twice for all seeds of a tile."""
REFUSED = Fault(Reason.MODE_UNAVAILABLE, "a custom_vjp has no forward rule", place=Place(1, 4, "custom_call"))


def problem(n: int, m: int) -> Problem:
    return Problem((Type("float64", (n,)),), (Type("float64", (m,)),), n * m * 8)


def plan(n: int, m: int, survey: Survey = Survey(VALUE, FORWARD, REVERSE), workers: int = 2, **options: object) -> Plan:  # noqa: B008
    return strategy.jacobian(problem(n, m), survey, workers=workers, **options)


@pytest.mark.parametrize(
    ("n", "m", "mode", "passes"),
    [
        (3, 1000, Mode.FORWARD, 3),
        (1000, 3, Mode.REVERSE, 3),
        (100, 100, Mode.FORWARD, 100),  # a reverse pass costs two forward ones
        (100, 51, Mode.FORWARD, 100),
        (100, 40, Mode.REVERSE, 40),
        (100, 49, Mode.FORWARD, 100),  # within 5 %: the mode that keeps nothing
    ],
)
def test_prices_times_passes_decide(n: int, m: int, mode: Mode, passes: int) -> None:
    made = plan(n, m)
    assert (made.mode, made.passes, made.strategy) == (mode, passes, mode.value)
    assert made.considered[0].strategy == mode.value
    assert made.considered[0].verdict == "cheapest"
    assert made.nbytes == n * m * 8


@pytest.mark.parametrize(
    ("ratio", "words"), [(0.5, "about 0.5 times the price"), (1.001, "about the same price"), (1234.5, "about 1,234 times the price")]
)
def test_prices_are_compared_in_words(ratio: float, words: str) -> None:
    assert strategy.times(ratio) == words


def test_prices_are_relative_to_the_value() -> None:
    forward, reverse = plan(3, 1000).considered
    assert (round(forward.price, 9), round(reverse.price, 9)) == (2.0, 4.0)
    assert reverse.verdict == "about 667 times the price"


@pytest.mark.parametrize(
    ("row", "n", "tile", "mode"),
    [
        (REVERSE, 11, 0, Mode.REVERSE),  # 22 evaluations' worth of columns, 20 of rows
        (ROW, 11, 0, Mode.FORWARD),  # one tile of rows has one evaluation more: 21, which is near
        (ROW, 12, 0, Mode.REVERSE),
        (ROW, 12, 1, Mode.FORWARD),  # five tiles of rows have five: 25
    ],
)
def test_what_rows_share_costs_once_a_tile(row: Cost, n: int, tile: int, mode: Mode) -> None:
    assert strategy.jacobian(problem(n, 5), Survey(VALUE, FORWARD, row), workers=2, tile=tile).mode is mode


def test_the_price_of_a_row_has_its_part_of_what_they_share() -> None:
    row, column = strategy.jacobian(problem(12, 5), Survey(VALUE, FORWARD, ROW), workers=2).considered
    assert (round(row.price, 9), round(column.price, 9)) == (4.2, 2.0)
    assert (row.verdict, column.verdict) == ("cheapest", "about 1.14 times the price")
    asked = strategy.jacobian(problem(12, 5), Survey(VALUE, FORWARD, ROW), workers=2, mode=Mode.REVERSE, tile=1)
    assert asked.seconds == pytest.approx(25 * strategy.seconds(VALUE))


def test_a_second_derivative_goes_over_the_cheaper_first_with_all_that_its_passes_share() -> None:
    assert strategy.hessian(problem(11, 5), Survey(VALUE, FORWARD, REVERSE), workers=2).inner is Mode.REVERSE
    assert strategy.hessian(problem(11, 5), Survey(VALUE, FORWARD, ROW), workers=2).inner is Mode.FORWARD


def test_an_asked_for_mode_is_taken() -> None:
    made = plan(3, 1000, mode=Mode.REVERSE)
    assert (made.mode, made.passes, made.considered[0].verdict) == (Mode.REVERSE, 1000, "asked for")


@pytest.mark.parametrize(
    ("one", "best", "words"),
    [(2.0, 1.0, "about 2 times the price"), (0.0, 0.0, "about the same price"), (1e-9, 0.0, "costs more"), (0.0, 1.0, "costs nothing")],
)
def test_what_costs_nothing_is_compared_in_other_words(one: float, best: float, words: str) -> None:
    found = strategy.weighed([Candidate("a", 1, best), Candidate("b", 2, one)], "a", 0.0, asked=True)
    assert [(option.price, option.verdict, option.seconds) for option in found] == [(None, "asked for", best), (None, words, one)]


def test_of_a_function_that_costs_nothing_passes_have_no_price() -> None:
    nothing = Cost(0.0, 0.0, 0)
    made = plan(3, 1000, Survey(nothing, FORWARD, REVERSE))
    assert [(option.strategy, option.passes, option.price) for option in made.considered] == [("forward", 3, None), ("reverse", 1000, None)]
    assert made.considered[1].verdict == "about 667 times the price"
    assert strategy.hessian(problem(3, 1), Survey(nothing, FORWARD, REVERSE), workers=1).considered[0].price is None


def test_a_mode_that_is_not_there_is_avoided_or_refused() -> None:
    survey = Survey(VALUE, REFUSED, REVERSE)
    made = plan(3, 1000, survey)
    assert (made.mode, made.considered[1].price) == (Mode.REVERSE, None)
    assert (made.considered[1].verdict, made.considered[1].place) == (f"not available: {REFUSED.message}", REFUSED.place)
    with pytest.raises(Fault, match=r"forward mode \(use mode 'reverse'.*custom_vjp has no forward rule") as caught:
        plan(3, 1000, survey, mode=Mode.FORWARD)
    assert (caught.value.reason, caught.value.field, caught.value.place) == (Reason.MODE_UNAVAILABLE, "options.mode", REFUSED.place)


def test_no_mode_at_all() -> None:
    survey = Survey(VALUE, REFUSED, Fault(Reason.MODE_UNAVAILABLE, "a while loop of unknown length"))
    with pytest.raises(Fault, match="in neither mode: a custom_vjp has no forward rule; a while loop"):
        plan(3, 5, survey)
    with pytest.raises(Fault, match="there is no other either"):
        plan(3, 5, survey, mode=Mode.FORWARD)


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_to_compute(n: int, m: int) -> None:
    made = plan(n, m, Survey(VALUE, REFUSED, REFUSED))
    assert (made.strategy, made.mode, made.passes, made.tiles, made.tile) == ("empty", None, 0, 0, 0)


@pytest.mark.parametrize(
    ("passes", "cost", "workers", "tile"),
    [
        (5, Cost(10, 100, 100), 2, 6),  # next to nothing: one tile, in the next width there is
        (1000, Cost(2e6, 2e6, 24_000), 2, 256),  # two tiles for each worker
        (1000, Cost(2e6, 2e6, 24_000), 8, 64),
        (512, Cost(6.8e6, 1.5e8, 36_864), 2, 96),  # a scan: intermediates in cache
        (4096, Cost(1e9, 0, 8), 4, 8),  # 50 ms a seed: no fewer than a vector unit takes
        (100_000, Cost(2e6, 0, 100 << 20), 2, 1),  # one seed alone outgrows the cache
    ],
)
def test_widths_by_rule(passes: int, cost: Cost, workers: int, tile: int) -> None:
    made = strategy.jacobian(problem(passes, 2000), Survey(VALUE, cost, REFUSED), workers=workers)
    assert made.tile == tile
    assert made.tiles == -(-passes // tile)
    assert made.workers == min(workers, made.tiles)


@pytest.mark.parametrize(
    ("passes", "shared", "workers", "tile"),
    [
        (8, 0.2, 2, 4),  # one tile for each worker, though two seeds outgrow the cache
        (8, 0.2, 1, 8),
        (8, 0.0, 2, 1),
        (8, 0.01, 2, 1),  # out of the cache a seed costs twice as much: so little is not worth it
        (100, 0.05, 2, 32),
    ],
)
def test_tiles_are_wider_where_most_of_their_work_is_shared(passes: int, shared: float, workers: int, tile: int) -> None:
    cost = Cost(2e8, 0, 4 << 20, shared_flops=shared * strategy.FLOPS)  # 10 ms and 4 MiB a seed
    made = strategy.jacobian(problem(passes, 2000), Survey(VALUE, cost, REFUSED), workers=workers)
    assert made.tile == tile
    assert made.seconds == pytest.approx(passes * 0.01 + made.tiles * shared)


def test_an_asked_for_width_is_taken_as_it_is() -> None:
    made = plan(10, 2000, tile=7)
    assert (made.tile, made.tiles) == (7, 2)
    assert plan(10, 2000, tile=64).tile == 64


def test_a_plan_of_another_width_is_priced_for_its_own_tiles() -> None:
    survey = Survey(VALUE, REFUSED, ROW)
    made = strategy.jacobian(problem(12, 500), survey, workers=2)
    for width in (1, 8):
        (other,) = (leg.resized(width) for leg in made.legs)
        assert other.tiles != made.tiles
        assert other.seconds == pytest.approx(strategy.jacobian(problem(12, 500), survey, workers=2, tile=width).seconds)


def test_wide_answers_keep_tiles_narrow() -> None:
    made = strategy.jacobian(problem(1000, 1 << 20), Survey(VALUE, Cost(1, 1, 1), REFUSED), workers=2)
    assert made.tile == made.legs[0].widest == 4, "four columns of 8 MiB"


def test_no_trial_makes_tiles_so_wide_that_workers_have_none() -> None:
    survey = Survey(VALUE, Cost(2e8, 0, 8), REFUSED)
    assert [plan(256, 2000, survey, workers=workers).legs[0].widest for workers in (1, 2, 8)] == [256, 128, 32]
    assert plan(5, 2000, Survey(VALUE, Cost(10, 100, 100), REFUSED)).legs[0].widest == 6, "next to nothing is not shared out"


def test_widths_are_few_and_near() -> None:
    assert all(later / earlier <= 1.5 for earlier, later in itertools.pairwise(WIDTHS[1:]))
    assert (fitting(65), fitting(1), fitting(10**9)) == (96, 1, MOST_WIDTH)


def test_hessian_counts_columns_and_needs_a_first_derivative() -> None:
    made = strategy.hessian(problem(30, 1), Survey(VALUE, FORWARD, REVERSE), workers=2)
    assert (made.passes, made.mode, made.considered[0].strategy) == (30, Mode.FORWARD, "forward over reverse")
    assert strategy.hessian(problem(30, 1), Survey(VALUE, FORWARD, REFUSED), workers=2).considered[0].strategy == "forward over forward"
    through_a_rule = strategy.hessian(problem(30, 1), Survey(VALUE, REFUSED, REVERSE), workers=2)
    assert (through_a_rule.inner, through_a_rule.considered[0].strategy) == (Mode.REVERSE, "forward over reverse")
    measured = Survey(VALUE.times(3, measured=False), FORWARD.times(3, measured=False), REVERSE.times(3, measured=True))
    (timed,) = strategy.hessian(problem(30, 1), measured, workers=2).considered
    (estimated,) = made.considered
    assert (timed.verdict, timed.price) == (f"{estimated.verdict} (measured)", pytest.approx(estimated.price))
    with pytest.raises(Fault, match="neither mode"):
        strategy.hessian(problem(30, 1), Survey(VALUE, REFUSED, REFUSED), workers=2)
    without = Survey(VALUE, REFUSED, REVERSE, Fault(Reason.MODE_UNAVAILABLE, "no second derivative"))
    with pytest.raises(Fault, match="no second derivative"):
        strategy.hessian(problem(30, 1), without, workers=2)
    assert strategy.hessian(problem(0, 1), without, workers=2).strategy == "empty"


@pytest.mark.parametrize(
    ("survey", "n", "mode"),
    [
        (Survey(VALUE, COLUMN, LOOPED), 2, Mode.FORWARD),  # 1 + 2 x 2 evaluations' worth, against 2 + 4
        (Survey(VALUE, COLUMN, LOOPED), 3, Mode.REVERSE),
        (Survey(VALUE, COLUMN, replace(LOOPED, flops=3e6, bytes=3e5)), 2, Mode.FORWARD),  # 5 against 2 + 3
        (Survey(VALUE, REFUSED, ROW), 2, Mode.REVERSE),
        (Survey(VALUE, COLUMN, REFUSED), 60, Mode.FORWARD),
        (Survey(VALUE, COLUMN, REFUSED), 60_000, Mode.REVERSE),  # which is then refused with its reason
    ],
)
def test_the_gradient_of_a_loop_goes_the_cheaper_way(survey: Survey, n: int, mode: Mode) -> None:
    assert strategy.gradient(problem(n, 1), survey) is mode


def test_a_gradient_of_mixed_types_goes_in_reverse() -> None:
    mixed = Problem((Type("float32"),), (Type("float64"),), 4)
    assert strategy.gradient(mixed, Survey(VALUE, FORWARD, REVERSE)) is Mode.REVERSE


def test_a_batch_is_cut_for_all_workers() -> None:
    survey = Survey(Cost(2e6, 2e5, 1000), Cost(2e8, 2e6, 1000), Cost(4e8, 4e6, 1000))
    made = strategy.batch(problem(30, 20), survey, Derivative.JVP, 64, workers=2)
    assert (made.strategy, made.mode, made.passes, made.tile, made.tiles, made.workers) == ("batch", None, 64, 16, 4, 2)
    assert strategy.batch(problem(30, 20), survey, Derivative.JVP, 64, workers=2, tile=5).tiles == 13
    assert made.seconds < strategy.batch(problem(30, 20), survey, Derivative.VJP, 64, workers=2).seconds


@pytest.mark.parametrize("derivative", [Derivative.JVP, Derivative.VJP, Derivative.HVP])
def test_a_batch_without_a_price_is_planned_all_the_same(derivative: Derivative) -> None:
    made = strategy.batch(problem(30, 20), Survey(VALUE, REFUSED, REFUSED), derivative, 7, workers=2)
    assert (made.passes, made.seconds > 0) == (7, True)


def test_a_mode_that_a_worker_has_no_memory_for_gives_way_to_one_that_fits() -> None:
    large, larger = replace(REVERSE, shared_peak=1 << 30), replace(FORWARD, shared_peak=1 << 40)
    tall = Survey(VALUE, FORWARD, large)
    assert plan(100, 3, tall).mode is Mode.REVERSE
    fits = strategy.within(tall, 1 << 20)
    made = plan(100, 3, fits)
    assert made.mode is Mode.FORWARD
    assert made.considered[1].verdict == "not available: its passes share 1,073,741,824 bytes, and a worker may use 1,048,576"
    assert plan(3, 100, strategy.within(Survey(VALUE, larger, REVERSE), 1 << 20)).mode is Mode.REVERSE
    for survey, memory in ((tall, None), (tall, 1 << 30), (Survey(VALUE, larger, large), 1 << 20), (Survey(VALUE, REFUSED, large), 1 << 20)):
        assert strategy.within(survey, memory) is survey, "where no other fits, the workers are asked"
