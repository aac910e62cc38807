from __future__ import annotations

import time

import pytest

from jacloom_worker.bounded import Bounded


def test_the_entry_used_longest_ago_leaves_first() -> None:
    left: list[tuple[str, int]] = []
    cache: Bounded[str, int] = Bounded(2, dropped=lambda key, value: left.append((key, value)))
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert left == [("b", 2)]
    assert list(cache) == ["a", "c"]
    assert cache.get("b") is None


def test_bytes_are_counted() -> None:
    cache: Bounded[str, int] = Bounded(10, nbytes=100)
    cache.put("a", 1, 60)
    cache.put("a", 2, 40)
    assert cache.nbytes == 40
    cache.put("b", 3, 60)
    assert list(cache) == ["a", "b"]
    cache.put("c", 4, 1)
    assert (list(cache), cache.nbytes) == (["b", "c"], 61)
    cache.discard("b")
    cache.discard("b")
    assert (list(cache), cache.nbytes) == (["c"], 1)


def test_an_entry_above_the_bound_is_kept_alone() -> None:
    cache: Bounded[str, int] = Bounded(10, nbytes=100)
    cache.put("a", 1, 10)
    cache.put("b", 2, 1000)
    assert list(cache) == ["b"]
    cache.put("c", 3, 10)
    assert list(cache) == ["c"]
    assert len(cache) == 1


def test_entries_that_nobody_uses_can_be_told_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    cache: Bounded[str, int] = Bounded(10)
    for name in "abc":
        cache.put(name, 1, 10)
        now += 1
    cache.get("a")
    cache.discard_idle(2.5)
    assert list(cache) == ["b", "c", "a"]
    cache.discard_idle(2.0)
    assert (list(cache), cache.nbytes) == (["c", "a"], 20)
    cache.put("c", 2, 5)
    now += 1
    cache.discard_idle(1.0)
    assert (list(cache), cache.nbytes) == ([], 0)
