"""Where results may go: below their folder and nowhere else, and never over anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from jacloom_graph.errors import Fault, Reason
from jacloom_server.jobs.places import Places


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "results" / "taken").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    return Places(tmp_path / "jobs", tmp_path / "results")


def test_a_path_below_the_folder(places: Places) -> None:
    assert places.new("kinetics/run 1") == places.results / "kinetics" / "run 1"
    assert not (places.results / "kinetics").exists()


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ("../elsewhere/x", "below the folder"),
        ("a/../../x", "below the folder"),
        ("a/./b", "below the folder"),
        ("/tmp/x", "relative path of names"),
        ("a//b", "relative path of names"),
        ("a/", "relative path of names"),
        ("", "relative path of names"),
        ("a\0b", "relative path of names"),
        ("x" * 300, "relative path of names"),
        ("a/" * 300 + "b", "relative path of names"),
        ("s3://bucket/x", "own file system, got the address"),
        ("file:///tmp/x", "own file system, got the address"),
        (".jacloom/incoming/x", "below the folder"),
        ("taken", "is there already"),
        ("link/x", "by a link"),
        ("dangling", "is there already"),
        ("store/inside", "holds results already"),
    ],
)
def test_paths_that_are_refused(places: Places, out: str, problem: str) -> None:
    (places.results / "link").symlink_to(places.results.parent / "elsewhere")
    (places.results / "dangling").symlink_to("nowhere")
    (places.results / "store").mkdir()
    (places.results / "store" / "zarr.json").touch()
    before = sorted(str(path) for path in places.results.parent.rglob("*"))
    with pytest.raises(Fault, match=problem) as caught:
        places.new(out)
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_OPTION, "spec.out")
    assert sorted(str(path) for path in places.results.parent.rglob("*")) == before


def test_what_an_earlier_server_was_making_is_removed(places: Places) -> None:
    for folder in (places.incoming("gone"), places.incoming("goes-on"), places.aside("gone"), places.aside("goes-on") / "7-an-attempt"):
        folder.mkdir(parents=True)
    places.tidy({"goes-on"})
    assert [path.name for path in places.incoming("x").parent.iterdir()] == ["goes-on"]
    assert list(places.aside("x").parent.iterdir()) == []
