"""Progress as people see it: a bar for long calls on a terminal, and nothing else anywhere else."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

import jacloom as jl
from jacloom import _progress
from jacloom._plan import in_bytes
from jacloom._progress import Watch

PLAN = jl.Plan("forward", 40, 10, 4, 2, 12_800, 1.5)
SUMMARY = jl.Summary(passes=40, tiles=4, retries=0, workers=2, tile=10)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    monkeypatch.setenv("TERM", "xterm")
    yield Terminal()
    assert not _progress.screen.locked()


def go_through(watch: Watch) -> None:
    with watch:
        watch.planned(PLAN)
        for done in range(1, 5):
            watch.advanced(done, 4)
        watch.ended(SUMMARY)


def test_short_calls_show_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)  # here and not in the fixture: pytest puts its own back before a test begins
    go_through(Watch("jacobian of f", None))
    assert terminal.getvalue() == ""


def test_long_calls_show_a_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)  # here and not in the fixture: pytest puts its own back before a test begins
    monkeypatch.setattr(_progress, "DELAY", 0.0)
    go_through(Watch("jacobian of f", None))
    assert "jacobian of f" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()


def test_one_bar_at_a_time(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)  # here and not in the fixture: pytest puts its own back before a test begins
    monkeypatch.setattr(_progress, "DELAY", 0.0)
    with Watch("outer", None) as outer:
        outer.planned(PLAN)
        go_through(Watch("inner", None))
        outer.advanced(1, 4)
    assert "outer" in terminal.getvalue()
    assert "inner" not in terminal.getvalue()


def test_no_terminal_no_bar(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(_progress, "DELAY", 0.0)
    go_through(Watch("jacobian of f", None))
    assert capfd.readouterr() == ("", "")


def test_callbacks_replace_the_bar(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", terminal)  # here and not in the fixture: pytest puts its own back before a test begins
    monkeypatch.setattr(_progress, "DELAY", 0.0)
    seen: list[jl.Progress] = []
    go_through(Watch("jacobian of f", seen.append))
    assert [progress.tiles_done for progress in seen] == [0, 1, 2, 3, 4, 4]
    assert seen[-1].summary == SUMMARY
    assert terminal.getvalue() == ""


def test_plans_print() -> None:
    assert str(PLAN).splitlines() == [
        "strategy  forward: one JVP for each column",
        "passes    40 in 4 tiles of 10",
        "workers   2",
        "result    12.5 KiB",
        "compute   about 1.5 s, summed over workers (estimate)",
    ]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (1 << 50, "1,024.0 TiB")]
)
def test_bytes(count: int, text: str) -> None:
    assert in_bytes(count) == text
