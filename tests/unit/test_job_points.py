"""What the points of a job can be, and how each sort arrives at the service."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr
from unit.scripted_jobs import Jobs

import jacloom as jl
from jacloom._jobs import sources
from jacloom_api.v1 import job_service_pb2 as pb

POINTS = np.arange(15.0).reshape(5, 3)
TREE = {"a": np.arange(10.0, dtype=np.float32).reshape(5, 2), "b": np.arange(5.0)}


def squared(x: Any) -> Any:
    return x**2


def weighted(p: Any) -> Any:
    return jnp.sum(p["a"]) * p["b"]


def arrived(jobs: Jobs, *dtypes: Any) -> list[np.ndarray]:
    """Returns the leaves that arrived with the last job, flat."""
    parts = jobs.points[-1]
    return [np.concatenate([np.frombuffer(part.leaves[leaf], dtype) for part in parts]) for leaf, dtype in enumerate(dtypes)]


def single(points: Any) -> Iterator[Any]:
    for at in range(len(points)):
        yield points[at]


def in_fortran_order() -> np.ndarray:
    return np.asfortranarray(POINTS)


@pytest.mark.parametrize(
    "points",
    [POINTS, POINTS.astype(">f8"), in_fortran_order(), np.repeat(POINTS, 2, axis=0)[::2], single(POINTS), iter(list(POINTS))],
    ids=["array", "big-endian", "fortran", "strided", "generator", "list iterator"],
)
def test_points_that_are_one_array(jobs_client: jl.Client, jobs: Jobs, points: Any) -> None:
    job = jobs_client.submit(squared, points)
    assert (job.state, job.progress.points) == ("queued", 5)
    np.testing.assert_array_equal(arrived(jobs, np.float64)[0], POINTS.ravel())
    assert [each.count for each in jobs.points[-1]] == [5]
    assert [(each.dtype, list(each.shape), each.data) for each in jobs.specs[-1].call.args] == [("float64", [3], b"")]


def test_points_that_are_arrays_of_jax(jobs_client: jl.Client, jobs: Jobs) -> None:
    points = jnp.asarray(POINTS, np.float32)
    for given in (points, iter(points)):
        jobs_client.submit(squared, given)
        np.testing.assert_array_equal(arrived(jobs, np.float32)[0], POINTS.ravel())


@pytest.mark.parametrize("points", [TREE, ({"b": b, "a": a} for a, b in zip(TREE["a"], TREE["b"], strict=True))], ids=["arrays", "iterator"])
def test_points_that_are_trees(jobs_client: jl.Client, jobs: Jobs, points: Any) -> None:
    jobs_client.submit(weighted, points)
    a, b = arrived(jobs, np.float32, np.float64)
    np.testing.assert_array_equal(a, TREE["a"].ravel())
    np.testing.assert_array_equal(b, TREE["b"])
    assert list(jobs.specs[-1].points) == [0, 1]


def test_python_floats_are_points(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs_client.submit(squared, iter([1.0, 2.0, np.float64(3.0)]), derivative="gradient")
    np.testing.assert_array_equal(arrived(jobs, np.float64)[0], [1.0, 2.0, 3.0])
    assert list(jobs.specs[-1].call.args[0].shape) == []


def test_random_keys_are_points_of_a_value(jobs_client: jl.Client, jobs: Jobs) -> None:
    keys = jax.random.split(jax.random.key(1), 3)
    jobs_client.submit(lambda key: jax.random.uniform(key, (2,)), keys, derivative="value")
    np.testing.assert_array_equal(arrived(jobs, np.uint32)[0], np.asarray(jax.random.key_data(keys)).ravel())
    assert jobs.specs[-1].call.args[0].dtype.startswith("key<")


def test_nan_is_a_value(jobs_client: jl.Client, jobs: Jobs) -> None:
    points = np.array([[np.nan, 1.0], [np.inf, 2.0]])
    jobs_client.submit(squared, points)
    np.testing.assert_array_equal(arrived(jobs, np.float64)[0], points.ravel())


def test_files_of_one_array(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    for path in (tmp_path / "points.npy", str(tmp_path / "columns.npy")):
        np.save(path, POINTS if str(path).endswith("points.npy") else in_fortran_order())
        jobs_client.submit(squared, path)
        np.testing.assert_array_equal(arrived(jobs, np.float64)[0], POINTS.ravel())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_files_of_several_arrays_are_dicts(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path, save: Any) -> None:
    save(tmp_path / "points.npz", a=np.asfortranarray(TREE["a"]), b=TREE["b"])
    jobs_client.submit(weighted, tmp_path / "points.npz")
    a, b = arrived(jobs, np.float32, np.float64)
    np.testing.assert_array_equal(a, TREE["a"].ravel())
    np.testing.assert_array_equal(b, TREE["b"])


def test_zarr_arrays_and_groups_by_value_and_by_path(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    array = zarr.create_array(tmp_path / "points.zarr", shape=POINTS.shape, chunks=(2, 3), dtype="float64")
    array[:] = POINTS
    for points in (array, tmp_path / "points.zarr"):
        jobs_client.submit(squared, points)
        np.testing.assert_array_equal(arrived(jobs, np.float64)[0], POINTS.ravel())
    group = zarr.create_group(tmp_path / "tree")
    for name, leaf in TREE.items():
        group.create_array(name, data=leaf, chunks=(4, *leaf.shape[1:]))
    for points in (group, tmp_path / "tree", {"a": group["a"], "b": TREE["b"]}):
        jobs_client.submit(weighted, points)
        a, b = arrived(jobs, np.float32, np.float64)
        np.testing.assert_array_equal(a, TREE["a"].ravel())
        np.testing.assert_array_equal(b, TREE["b"])


def test_a_zarr_store_without_zarr(jobs_client: jl.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zarr.create_array(tmp_path / "points.zarr", data=POINTS)
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    monkeypatch.delitem(sys.modules, "zarr")
    with pytest.raises(jl.MissingExtraError, match=r'Zarr is not installed: pip install "jacloom\[zarr\]"'):
        jobs_client.submit(squared, tmp_path / "points.zarr")


def test_points_stream_in_messages_of_about_a_mebibyte(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    many = np.arange(3 * 100_000.0).reshape(-1, 3)
    np.savez_compressed(tmp_path / "many.npz", many)
    store = zarr.create_array(tmp_path / "many.zarr", data=many, chunks=(70_000, 3))
    sources: list[tuple[Any, Any]] = [
        (squared, many),
        (squared, single(many)),
        (squared, store),
        (lambda p: p["arr_0"] ** 2, tmp_path / "many.npz"),
    ]
    for f, points in sources:
        jobs.sizes.clear()
        jobs_client.submit(f, points)
        np.testing.assert_array_equal(arrived(jobs, np.float64)[0], many.ravel())
        assert [each.count for each in jobs.points[-1]] == [43_690, 43_690, 12_620]
        assert max(jobs.sizes) < (1 << 20) + 1024


def test_a_point_that_is_larger_than_a_message_has_one_of_its_own(jobs_client: jl.Client, jobs: Jobs) -> None:
    large = np.zeros((2, 200_000))
    jobs_client.submit(lambda x: x[:2], large)
    assert [each.count for each in jobs.points[-1]] == [1, 1]


@pytest.mark.parametrize(
    ("f", "points", "text"),
    [
        (squared, np.zeros((0, 3)), r"points has 0 points; a job needs at least one"),
        (squared, iter(()), "the iterator is empty; a job needs at least one point"),
        (squared, np.float64(3.0), r"must be an array whose first axis is that of the points, got an array without axes"),
        (squared, jax.ShapeDtypeStruct((5, 3), np.float32), "got a shape without elements"),
        (squared, 3.0, r"points must be an array whose first axis is that of the points, got float 3.0"),
        (squared, [[1.0, 2.0]], r"points\[0\]\[0\] must be an array .* Pass np.asarray\(points\) for a list"),
        (squared, (), "points must have an array at least"),
        (squared, np.array([{}, {}]), "points: arrays must have one of the dtypes .*got object"),
        (squared, np.array(["a"]), "points: arrays must have one of the dtypes"),
        (weighted, {"a": np.zeros((4, 2)), "b": np.zeros(5)}, r"points\['a'\] has 4, points\['b'\] has 5"),
        (squared, np.zeros((5, 3), int), r"int64.*only floating-point and complex inputs have derivatives"),
        (squared, iter([3]), "the Python int 3"),
        (squared, iter([np.zeros(4), np.zeros(4), np.zeros(3)]), r"point 2: x has shape \(3,\), expected \(4,\)"),
        (squared, iter([np.zeros(4), np.zeros(4, np.float32)]), r"point 1: x has dtype float32, expected float64"),
        (squared, iter([np.zeros(4), "four"]), r"point 1: x is str 'four', expected float64\[4\]"),
        (squared, iter([np.zeros(1), np.array([{}])]), r"point 1: x: arrays must have one of the dtypes"),
        (weighted, iter([{"a": np.zeros(2), "b": 1.0}, {"a": np.zeros(3), "b": 1.0}]), r"point 1: x\['a'\] has shape \(3,\), expected \(2,\)"),
        (weighted, iter([{"a": np.zeros(2), "b": 1.0}, {"a": np.zeros(2)}]), r"point 1: points must all have the containers of the first one"),
        (squared, "nowhere.npy", r"there is no file 'nowhere\.npy'"),
        (squared, "nowhere.npz", r"there is no file 'nowhere\.npz'"),
        (squared, __file__, r"must be a \.npy or \.npz file, or the folder of a Zarr store"),
    ],
)
def test_points_that_are_none(jobs_client: jl.Client, jobs: Jobs, f: Any, points: Any, text: str) -> None:
    with pytest.raises(jl.ArgumentError, match=text):
        jobs_client.submit(f, points)
    assert jobs.jobs == {}


def test_points_that_are_fixed_while_tracing(jobs_client: jl.Client, jobs: Jobs) -> None:
    with pytest.raises(jl.ArgumentError, match="is int 3, which is fixed while tracing, for all points: pass an array in its place"):
        jobs_client.submit(squared, iter([3, 4]), derivative="value")
    assert jobs.jobs == {}


def test_files_that_hold_no_points(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    objects, empty, torn, scalar = (tmp_path / name for name in ("objects.npy", "empty.npy", "torn.npz", "scalar.npz"))
    np.save(objects, np.array([{}, {}]))
    empty.touch()
    np.savez(torn, a=TREE["a"], b=TREE["b"])
    whole = torn.read_bytes()
    torn.write_bytes(whole[: len(whole) // 2])
    np.savez(scalar, a=np.float64(1.0))
    flipped = tmp_path / "flipped.npz"
    np.savez(flipped, np.zeros((1000, 3)))
    content = bytearray(flipped.read_bytes())
    content[12_000] ^= 1
    flipped.write_bytes(content)
    for path, text in (
        (objects, "objects.npy' cannot be read: .*it must hold an array of numbers"),
        (empty, "empty.npy' cannot be read"),
        (torn, "torn.npz' cannot be read"),
        (scalar, "a is a scalar, and has no axis of points"),
    ):
        with pytest.raises(jl.ArgumentError, match=text):
            jobs_client.submit(weighted, path)
    with pytest.raises(jl.ArgumentError, match=r"flipped\.npz: the file cannot be read: Bad CRC-32"):
        jobs_client.submit(lambda p: p["arr_0"] ** 2, flipped)
    assert jobs.jobs == {}


def test_points_of_a_function_whose_types_are_fixed(jobs_client: jl.Client, jobs: Jobs) -> None:
    function = jl.trace(weighted, {"a": np.zeros(2, np.float32), "b": 0.0})
    jobs_client.submit(function, TREE)
    assert jobs.specs[-1].call.function == f"functions/{function.id}"
    with pytest.raises(jl.ArgumentError, match=r"points must have the containers of one of them, .*expected \{'a': array, 'b': array\}, got array"):
        jobs_client.submit(function, POINTS)
    with pytest.raises(jl.ArgumentError, match=r"✗ args\[0\]\['a'\]  float32\[2\] expected, got float64\[3\]"):
        jobs_client.submit(function, {"a": POINTS, "b": np.zeros(5)})
    with pytest.raises(jl.ArgumentError, match="takes no arguments, and a job needs one: the point"):
        jobs_client.submit(jl.trace(lambda: jnp.zeros(2)), POINTS)
    assert len(jobs.points) == 1


def test_seeds_are_one_for_each_point(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    tangents = POINTS + 100
    jobs_client.submit(squared, POINTS, derivative="jvp", seeds=tangents)
    spec = jobs.specs[-1]
    assert (spec.derivative, [(each.dtype, list(each.shape), each.data) for each in spec.call.seeds]) == (pb.JOB_JVP, [("float64", [3], b"")])
    np.testing.assert_array_equal(arrived(jobs, np.float64, np.float64), [POINTS.ravel(), tangents.ravel()])
    np.save(tmp_path / "cotangents.npy", np.arange(5.0))
    jobs_client.submit(weighted, TREE, derivative="vjp", seeds=tmp_path / "cotangents.npy")
    assert jobs.specs[-1].derivative == pb.JOB_VJP
    np.testing.assert_array_equal(arrived(jobs, np.float32, np.float64, np.float64)[2], np.arange(5.0))
    jobs_client.submit(squared, single(POINTS), derivative="jvp", seeds=single(tangents))
    np.testing.assert_array_equal(arrived(jobs, np.float64, np.float64), [POINTS.ravel(), tangents.ravel()])


@pytest.mark.parametrize(
    ("points", "seeds", "text"),
    [
        (POINTS, POINTS[:4], "seeds must be as many as points: got 4 for 5 points"),
        (POINTS, single(POINTS[:4]), "seeds must be as many as points: there are 4 seeds and then no more"),
        (single(POINTS[:3]), POINTS, "there are 3 points and then no more"),
        (POINTS, POINTS.astype(np.float32), r"seeds must have one float64\[3\] for each point, got float32\[3\]"),
        (POINTS, POINTS[:, :2], r"seeds must have one float64\[3\] for each point, got float64\[2\]"),
        (POINTS, {"x": POINTS}, r"seeds must be an array whose first axis is that of the points, got dict"),
        (POINTS, iter([np.zeros(3), np.zeros(2)]), r"point 1: seed has shape \(2,\), expected \(3,\)"),
    ],
)
def test_seeds_that_do_not_fit(jobs_client: jl.Client, jobs: Jobs, points: Any, seeds: Any, text: str) -> None:
    with pytest.raises(jl.ArgumentError, match=text):
        jobs_client.submit(squared, points, derivative="jvp", seeds=seeds)
    assert jobs.jobs == {}
