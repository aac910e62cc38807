"""Results of a job as files: whole or not at all, also over streams that break."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from unit.finished import JACOBIAN, ROW, SPARSE, SQUARE, Y_X, finished
from unit.scripted_jobs import Jobs

import jacloom as jl
from jacloom._jobs import fetching
from jacloom_graph.answer import Part


def test_files_of_one_array_and_of_all(job: jl.Job, tmp_path: Path) -> None:
    assert job.fetch(tmp_path / "x.npy", array="jacobian/y/x") == {"jacobian/y/x": tmp_path / "x.npy"}
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), Y_X)
    written = job.fetch(tmp_path / "all", points=slice(2, 5))
    expected = {path: array[2:5] for path, _, array in JACOBIAN} | {"status": np.array([2, 1, 1], np.uint8)}
    assert {path: file.relative_to(tmp_path / "all").as_posix() for path, file in written.items()} == {path: f"{path}.npy" for path in expected}
    for path, array in expected.items():
        np.testing.assert_array_equal(np.load(written[path]), array)
    os.mkdir(tmp_path / "folder.npy")
    assert job.fetch(tmp_path / "folder.npy", array="status") == {"status": tmp_path / "folder.npy" / "status.npy"}
    assert not list(tmp_path.rglob("*.part"))


def test_a_file_of_the_only_array_of_a_derivative(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    arrays = [("value", (Part.VALUE, 0, 0, 0), ROW), ("jacobian", (Part.JACOBIAN, 0, 0, 0), SQUARE)]
    job = finished(jobs_client, jobs, lambda x: x**2, ROW, arrays)
    assert job.fetch(str(tmp_path / "j.npy"), slice(1, 1)) == {"jacobian": tmp_path / "j.npy"}
    assert np.load(tmp_path / "j.npy").shape == (0, 3, 3)
    job.fetch(tmp_path / "j.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "j.npy"), SQUARE)


def test_files_of_a_sparse_derivative_have_its_whole_structure(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    job = finished(jobs_client, jobs, lambda x: x**2, ROW, SPARSE, output="csr")
    written = job.fetch(tmp_path / "all", points=slice(4, 5))
    found = sparse.csr_array((np.load(written["data"])[0], np.load(written["indices"]), np.load(written["indptr"])), (3, 3))
    np.testing.assert_array_equal(found.toarray(), job.result()[4].toarray())


def test_a_file_goes_on_after_a_cut_in_the_middle(job: jl.Job, jobs: Jobs, tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def look(array: np.ndarray) -> list[tuple[slice, ...]]:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        return [(slice(at, at + 1),) for at in range(len(array))]

    jobs.cut, jobs.breaks = look, [3, 2]
    job.fetch(tmp_path / "x.npy", array="jacobian/y/x")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), Y_X)
    assert seen == [[], ["x.npy.part"], ["x.npy.part"]]
    assert [request.offset for request in jobs.reads] == [0, 3 * 32, 5 * 32]
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_a_file_that_fails_leaves_the_old_one(job: jl.Job, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.npy").write_bytes(b"old")
    jobs.breaks = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    with pytest.raises(jl.UnavailableError, match="shutting down"):
        job.fetch(tmp_path / "x.npy", array="jacobian/y/x", timeout=0.5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.npy": b"old"}
    with pytest.raises(jl.OptionError, match=r"x\.npy/y/jacobian/y/x\.npy cannot be written: Not a directory"):
        job.fetch(tmp_path / "x.npy" / "y", array="jacobian/y/x")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    jobs.breaks = []
    with pytest.raises(jl.OptionError, match=r"x\.npy cannot be written: No space left on device"):
        job.fetch(tmp_path / "x.npy", array="jacobian/y/x")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x.npy": b"old"}


def test_arrays_that_cannot_be_files(job: jl.Job, jobs: Jobs, tmp_path: Path) -> None:
    with pytest.raises(jl.ArgumentError, match=r"a file takes one array; choose with array=\.\.\. among value/y, value/z, .*, or give a folder"):
        job.fetch(tmp_path / "x.npy")
    with pytest.raises(jl.ArgumentError, match=r"array='gradient'\)`: job 0{20} has the arrays value/y, .*, status"):
        job.fetch(tmp_path / "x.npy", array="gradient")
    with pytest.raises(jl.ArgumentError, match="slices of step 1"):
        job.fetch(tmp_path / "x.npy", slice(0, 4, 2), array="status")
    for path in ("../x", "/x", "a/../../x", "..\\x"):
        with pytest.raises(jl.ProtocolError, match="would lead out of the folder"):
            fetching._file(path)
    assert list(tmp_path.iterdir()) == []
