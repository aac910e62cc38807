"""A plan for people: what it prints, and what it can still be asked."""

from __future__ import annotations

import copy
import pickle
from dataclasses import fields

import pytest

import jacloom as jl
from jacloom._plan import in_seconds, plan_from_message
from jacloom_api.v1 import derivative_service_pb2 as pb

BOTH = pb.Plan(
    strategy="bicoloured",
    passes=3,
    forward=2,
    tile=2,
    tiles=2,
    workers=2,
    nbytes=23_400,
    seconds=6.5e-6,
    considered=[
        pb.Considered(strategy="bicoloured", passes=3, price=1.125, verdict="cheapest"),
        pb.Considered(strategy="coloured forward", passes=1000, price=1.0625, verdict="about 314 times the price"),
        pb.Considered(strategy="reverse", passes=1000, verdict="not available: no", place=pb.NodePlace(function=1, node=4, op="sort")),
        pb.Considered(strategy="coloured", verdict="not considered: no need"),
    ],
)


def test_a_plan_prints_what_was_considered_in_columns() -> None:
    assert str(plan_from_message(BOTH)).splitlines() == [
        "strategy  bicoloured: JVPs for columns and VJPs for rows, one for all of a colour",
        "passes    3 (2 JVPs and 1 VJP) in 2 tiles of 2",
        "workers   2",
        "result    22.9 KiB",
        "compute   about 6.5 µs, summed over workers (estimate)",
        "",
        "considered        passes  each  in all  verdict",
        "bicoloured             3   1.1     3.4  cheapest",
        "coloured forward   1,000   1.1   1,062  about 314 times the price",
        "reverse            1,000                not available: no (at function 1, node 4 (sort))",
        "coloured                                not considered: no need",
        "(each, in all: what one pass and all of them cost, in evaluations of the function; estimates)",
    ]


def test_what_is_not_known_is_none_and_zero_is_a_price() -> None:
    plan = plan_from_message(pb.Plan(considered=[pb.Considered(strategy="forward", passes=0, price=0.0), pb.Considered(strategy="coloured")]))
    assert [(option.passes, option.price) for option in plan.considered] == [(0, 0.0), (None, None)]


def test_without_any_price_there_are_no_columns_for_them() -> None:
    considered = jl.Considered("forward", 50, None, "cheapest"), jl.Considered("coloured", None, None, "not considered: no need")
    assert str(jl.Plan("forward", 50, 50, 1, 1, 400, None, considered)).splitlines()[-3:] == [
        "considered  passes  verdict",
        "forward         50  cheapest",
        "coloured            not considered: no need",
    ]


def test_a_plan_by_a_given_pattern_says_that_nobody_has_looked_at_it() -> None:
    plan = jl.Plan("coloured forward", 2, 2, 1, 1, 400, None, given=True)
    assert "pattern   as given: compared with the function when the derivative is computed, and not here" in str(plan).splitlines()
    assert pickle.loads(pickle.dumps(plan)).given


@pytest.mark.parametrize("of", [jl.Plan, jl.Considered, jl.Summary])
def test_help_explains_every_field(of: type) -> None:
    assert of.__doc__ is not None
    attributes = of.__doc__.partition("Attributes:")[2]
    for item in fields(of):
        assert item.name.startswith("_") or f"        {item.name}: " in attributes, item.name


def test_a_plan_without_choice_prints_no_table() -> None:
    lines = str(jl.Plan("empty", 0, 0, 0, 0, 0, None)).splitlines()
    assert lines == ["strategy  empty: nothing to compute", "passes    0", "workers   0", "result    0 bytes"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(2.5e-9, "2.5 ns"), (4.2e-6, "4.2 µs"), (0.0125, "12.5 ms"), (0.25, "250 ms"), (1.5, "1.5 s"), (12_345.6, "12,346 s")]
)
def test_durations(seconds: float, words: str) -> None:
    assert in_seconds(seconds) == words


def test_only_a_plan_of_explain_knows_its_pattern() -> None:
    plan = plan_from_message(BOTH)
    for ask, name in ((lambda: plan.pattern(), "pattern()"), (lambda: plan.spy("a.png"), "spy('a.png')")):
        with pytest.raises(jl.ClientStateError) as found:
            ask()
        assert str(found.value).startswith(f"`plan.{name}` asks a service for the pattern, and only a plan that client.explain has returned")


def test_a_plan_that_travels_leaves_the_service_behind() -> None:
    plan = jl.Plan("forward", 3, 2, 2, 2, 216, None, forward=3, _ask=lambda timeout: pytest.fail("asked"))
    for other in (pickle.loads(pickle.dumps(plan)), copy.copy(plan)):
        assert other == plan
        assert other._ask is None
    assert "ask" not in repr(plan)
