"""Finding the best width on the way."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jacloom_server.tuning import Tuner


def climb(tuner: Tuner, a_seed: Callable[[int], float], seeds: int, compile_seconds: float = 0.1) -> list[int]:
    """Runs a call's tiles one by one and returns their widths."""
    widths, left = [], seeds
    while left:
        width = tuner.next(left, 2)
        count = min(width, left)
        widths.append(width)
        left -= count
        tuner.record(width, count, a_seed(width) * count, compile_seconds)
    return widths


@pytest.mark.parametrize(("best", "first"), [(512, 64), (8, 64), (64, 64)])
def test_finds_the_best_width(best: int, first: int) -> None:
    tuner = Tuner(first)
    climb(tuner, lambda width: 0.001 * max(width / best, best / width), 50_000)
    assert tuner.best == best


def test_each_width_is_tried_once() -> None:
    tuner = Tuner(64)
    widths = climb(tuner, lambda _: 0.001, 50_000)
    assert widths[:4] == [64, 128, 32, 64]
    assert widths.count(128) == widths.count(32) == 1


def test_short_work_is_not_worth_a_trial() -> None:
    assert set(climb(Tuner(64), lambda _: 0.001, 1000)) == {64}
    assert set(climb(Tuner(64), lambda _: 0.001, 50_000, compile_seconds=60.0)) == {64}


def test_work_that_comes_again_is() -> None:
    tuner = Tuner(64)
    seen = set()
    for _ in range(20):
        seen |= set(climb(tuner, lambda width: 0.001 * 64 / width, 1000))
    assert max(seen) > 64


def test_fixed_limit_and_forget() -> None:
    assert set(climb(Tuner(7, fixed=True), lambda _: 0.01, 5000)) == {7}
    tuner = Tuner(64)
    tuner.limit(16)
    assert tuner.best == 16
    assert set(climb(tuner, lambda _: 0.01, 50_000)) == {16}
    tuner = Tuner(64, 256)
    tuner.record(64, 64, 10.0, 0.1)
    assert tuner.next(10_000, 1) == 128
    assert tuner.next(10_000, 1) == 64, "one trial at a time"
    tuner.forget(64)
    assert tuner.next(10_000, 1) == 64, "that was another call's tile, not the trial"
    tuner.forget(128)
    assert tuner.next(10_000, 1) == 128


def test_padding_tells_nothing() -> None:
    tuner = Tuner(64)
    tuner.record(64, 3, 10.0, 0.1)
    assert tuner.next(10_000, 1) == 64
