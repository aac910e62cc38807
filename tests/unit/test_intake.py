"""Points on their way into a job's store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_server.jobs import store
from jacloom_server.jobs.intake import Intake
from jacloom_worker.unit import Source

X = Source("points/x", Type("float64", (3,)), varies=True)
K = Source("points/k", Type("bfloat16", ()), varies=True)
C = Source("shared/2", Type("int32", (2,)), varies=False)
KEY = Source("points/key", Type("key<threefry2x32>"), varies=True)

x = np.arange(30.0).reshape(10, 3)
k = np.arange(10).astype(ml_dtypes.bfloat16)
c = np.array([4, 5], np.int32)


def taken(folder: Path, cuts: Sequence[int], spec: bytes = b"spec") -> tuple[str, zarr.Group]:
    intake = Intake(folder, [X, K, C], [None, None, c], spec)
    for first, last in zip([0, *cuts], [*cuts, 10], strict=True):
        intake.add(last - first, [x[first:last].tobytes(), k[first:last].tobytes()])
    return intake.finish(), store.opened(folder)


def test_points_are_stored_as_arrays_with_an_axis_of_their_own(tmp_path: Path) -> None:
    _, group = taken(tmp_path / "new" / "job", [4])
    np.testing.assert_array_equal(group["points/x"][...], x)
    np.testing.assert_array_equal(group["points/k"][...], k.astype(np.float32))
    np.testing.assert_array_equal(group["shared/2"][...], c)


def test_the_digest_is_that_of_the_content_however_it_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ROWS_BYTES", 50)  # a few points to a chunk, so that chunks fill up in the middle of messages
    one, group = taken(tmp_path / "one", [])
    assert group["points/x"].chunks == (2, 3)
    for at, cuts in enumerate(([1, 2, 3], [5], [3, 4, 9])):
        other, group = taken(tmp_path / str(at), cuts)
        assert other == one
        np.testing.assert_array_equal(group["points/x"][...], x)
    assert taken(tmp_path / "spec", [], b"another")[0] != one


def test_keys_are_stored_as_their_raw_data(tmp_path: Path) -> None:
    intake = Intake(tmp_path / "job", [KEY], [None], b"")
    keys = np.arange(8, dtype=np.uint32).reshape(4, 2)
    intake.add(4, [keys.tobytes()])
    intake.finish()
    np.testing.assert_array_equal(store.opened(tmp_path / "job")["points/key"][...], keys)


@pytest.mark.parametrize(
    ("count", "leaves", "field", "problem"),
    [
        (2, [x[:2].tobytes()], "points.leaves", r"have 2 arrays .* got 1"),
        (2, [x[:2].tobytes(), k[:1].tobytes()], r"points.leaves\[1\]", r"2 points of bfloat16\[\] have 4 bytes, got 2 \(from point 3 on\)"),
        (0, [b"", b""], "points.count", "at least one point"),
        (1 << 60, [b"", b""], "points.count", "at least one point"),
    ],
)
def test_points_that_do_not_fit(tmp_path: Path, count: int, leaves: list[bytes], field: str, problem: str) -> None:
    intake = Intake(tmp_path / "job", [X, K, C], [None, None, c], b"")
    intake.add(3, [x[:3].tobytes(), k[:3].tobytes()])
    with pytest.raises(Fault, match=problem) as caught:
        intake.add(count, leaves)
    assert caught.value.reason is Reason.ARGUMENT_MISMATCH
    assert caught.value.field == field.replace("\\", "")


def test_a_job_has_points(tmp_path: Path) -> None:
    with pytest.raises(Fault, match="at least one point, got none"):
        Intake(tmp_path / "job", [X, K, C], [None, None, c], b"").finish()


def test_a_boolean_is_one(tmp_path: Path) -> None:
    intake = Intake(tmp_path / "job", [Source("points", Type("bool", (2,)), varies=True)], [None], b"")
    intake.add(1, [b"\1\2"])
    with pytest.raises(Fault, match="0 or 1"):
        intake.finish()
