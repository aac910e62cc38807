"""How a diagnosis reads."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

import jacloom as jl
from jacloom_graph.errors import Place

PLACE = Place(2, 5, "div")
OVERFLOW = jl.NonFinite("inf", "exp", 2, 6, "/there/model.py:3 (loss)", operands=((-1.0, 1e3),))


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (OVERFLOW, "Inf first in exp, 2 of 6 entries, at /there/model.py:3 (loss); operand from -1 to 1000"),
        (
            jl.NonFinite("nan", "div", 1, 1, None, PLACE, operands=((0.0, 0.0), (1.5, 2.25)), cause=OVERFLOW),
            f"NaN first in div, at function 2, node 5 (div); operands 0 and from 1.5 to 2.25; made of: {OVERFLOW}",
        ),
        (
            jl.NonFinite("nan", "eigh", 3, 4000, "m.py:1 (f)", result=1, iterations=(3, 17), operands=(None,)),
            "NaN first in eigh (result 1), 3 of 4,000 entries, at m.py:1 (f), in iteration 17 of iteration 3",
        ),
        (
            jl.NonFinite("nan", "sub", 1, 1, "m.py:1 (f)", operands=(None, (2.0, 2.0))),
            "NaN first in sub, at m.py:1 (f); operands without finite numbers and 2",
        ),
        (
            jl.NonFinite("nan", "linear_solve", 1, 2, "m.py:1 (f)", operands=((0.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.0, 0.0), (1.0, 1.0))),
            "NaN first in linear_solve, 1 of 2 entries, at m.py:1 (f); operands 0, from 0 to 1 and 1",
        ),
        (jl.NonFinite("nan", "div", 1, 1, "m.py:1 (f)", operands=((0.0, 0.0), (0.0, 0.0))), "NaN first in div, at m.py:1 (f); operands 0 each"),
        (jl.NonFinite("inf", "", 1, 3, path="args[0]['w']"), "Inf already in args[0]['w'], 1 of 3 entries"),
        (
            jl.NonFinite("nan", "", 1, 3, "m.py:1 (f)", PLACE, path="a constant"),
            "NaN already in a constant, 1 of 3 entries, used at m.py:1 (f)",
        ),
        (jl.NonFinite("nan", "", 1, 1, None, PLACE, path="a constant"), "NaN already in a constant, used at function 2, node 5 (div)"),
        (
            jl.NonFinite("nan", "", 1, 1, "m.py:1 (f)", PLACE, check="x must be positive"),
            "NaN because an error check failed, at m.py:1 (f): x must be positive",
        ),
        (jl.NonFinite("nan", "", 1, 1, "m.py:1 (f)", PLACE, check=""), "NaN because an error check failed, at m.py:1 (f)"),
        (jl.NonFinite("nan", "", 1, 3), "NaN, 1 of 3 entries, but no operation makes one when they are computed one by one"),
    ],
)
def test_a_finding(found: jl.NonFinite, text: str) -> None:
    assert str(found) == text


def test_files_are_named_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    found = jl.NonFinite("nan", "log", 1, 1, str(tmp_path / "models" / "a.py:7 (f)"))
    assert str(found) == "NaN first in log, at models/a.py:7 (f)"
    monkeypatch.chdir(tmp_path / "models")
    assert str(found) == "NaN first in log, at a.py:7 (f)"


def test_a_diagnosis() -> None:
    nan = jl.NonFinite("nan", "div", 1, 1, "m.py:1 (f)", cause=OVERFLOW)
    both = jl.Diagnosis(nan, OVERFLOW, {"out": False}, {"args[0]": False, "args[1]": True}, ("args[2]",), ("args[3]", "args[4]"), ("a note",))
    assert str(both).splitlines() == [
        f"value: {nan}",
        "derivative: not finite, for the same reason",
        "  forward: not finite for out",
        "  reverse: not finite for args[0]",
        "nothing depends on: args[2]",
        "zero derivative, whatever the values: args[3], args[4]",
        "a note",
    ]
    assert not both.ok
    assert str(jl.Diagnosis(None, OVERFLOW, {"out": True}, {"args[0]": False})).splitlines()[1:3] == [f"derivative: {OVERFLOW}", "  forward: finite"]
    assert str(jl.Diagnosis(None, None, {}, {"args[0]": True}, notes=("forward mode is not available",))).splitlines()[1] == "derivative: finite"
    assert str(jl.Diagnosis(None, None, notes=("forward mode is not available",))).splitlines()[1] == "derivative: not available"
    assert jl.Diagnosis(None, None).ok
    with pytest.raises(FrozenInstanceError):
        both.value = None  # type: ignore[misc]
