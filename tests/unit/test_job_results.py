"""Results of a job: in the trees of a call at one point, stacked, and sparse, over streams that break."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest
from scipy import sparse
from unit.finished import COUNT, DATA, JACOBIAN, PATTERN, POINTS, ROW, SCALAR, SPARSE, SQUARE, Y_S, Y_X, Z_S, Z_X, Y, Z, finished, model
from unit.scripted import Script
from unit.scripted_jobs import Jobs, client_of_jobs

import jacloom as jl
from jacloom._deadline import Deadline
from jacloom._jobs import reading
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_graph import wire
from jacloom_graph.answer import Part
from jacloom_graph.types import Type


def test_a_point_has_the_tree_of_a_call_there(job: jl.Job) -> None:
    result = job.result()
    assert len(result) == COUNT
    for index in (0, 4, -1, np.int64(2)):
        found = result[index]
        assert sorted(found) == ["y", "z"]
        assert isinstance(found["z"], tuple)
        np.testing.assert_array_equal(found["y"]["s"], Y_S[index])
        np.testing.assert_array_equal(found["y"]["x"], Y_X[index])
        np.testing.assert_array_equal(found["z"][0]["x"], Z_X[index])
        assert found["z"][0]["s"] == Z_S[index]
        for leaf in (found["z"][0]["s"], found["y"]["x"]):
            assert isinstance(leaf, np.ndarray)
            assert leaf.flags.writeable
        value = result.value[index]
        np.testing.assert_array_equal(value["y"], Y[index])
        assert value["z"] == (Z[index],)


def test_slices_are_stacked_along_a_first_axis(job: jl.Job, jobs: Jobs) -> None:
    result = job.result()
    for points in (slice(1, 4), slice(None), slice(-2, None), slice(4, 100), slice(3, 3), slice(5, 2)):
        found = result[points]
        np.testing.assert_array_equal(found["y"]["x"], Y_X[points])
        np.testing.assert_array_equal(found["z"][0]["s"], Z_S[points])
        np.testing.assert_array_equal(result.value[points]["y"], Y[points])
    # None of no points was asked for: to the service they would be all.
    assert 0 not in {request.count for request in jobs.reads}
    with pytest.raises(jl.ArgumentError, match=r"slices of step 1, got step 2: read \[a:b\], and take \[::2\] of its arrays"):
        result[::2]


def test_positions_that_are_none(job: jl.Job) -> None:
    result = job.result()
    for at in (6, -7):
        with pytest.raises(IndexError, match=rf"point {at} of 6: the points are numbered from 0 to 5"):
            result[at]
        with pytest.raises(IndexError):
            result.value[at]
    for index in ("y", 1.0, None):
        with pytest.raises(TypeError, match="expected an integer or a slice"):
            result[index]


def test_points_one_after_the_other(job: jl.Job, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    result = job.result()
    jobs.reads.clear()
    found = list(result)
    assert len(jobs.reads) == 4  # one for each array, not for each point
    np.testing.assert_array_equal([each["y"]["x"] for each in found], Y_X)
    monkeypatch.setattr("jacloom._jobs.result._AT_ONCE", 200)
    np.testing.assert_array_equal([each["y"]["x"] for each in result], Y_X)
    assert [value["z"][0] for value in result.value] == list(Z)


def test_status_and_arrays_by_path(job: jl.Job) -> None:
    result = job.result()
    np.testing.assert_array_equal(result.status, [1, 1, 2, 1, 1, 1])
    assert result.status.dtype == np.uint8
    assert list(result.arrays) == [*(path for path, _, _ in JACOBIAN), "status"]
    array = result.arrays["jacobian/y/x"]
    assert (array.shape, array.dtype, len(array)) == ((6, 2, 2), np.float64, 6)
    np.testing.assert_array_equal(array[2:4], Y_X[2:4])
    np.testing.assert_array_equal(array[-1], Y_X[-1])
    assert repr(array) == "<array jacobian/y/x of a job: float64[6,2,2]>"
    assert repr(result).startswith("<jacloom.JobResult of 6 points: value/y, value/z, ")


def test_the_id_is_enough_in_another_process(script: Script, jobs: Jobs) -> None:
    with client_of_jobs(script, jobs) as first:
        made = finished(first, jobs, model, POINTS, JACOBIAN)
    # The scripted service infers no types: a real one tells them.
    script.registered[f"functions/{made.record.function}"].outputs.extend(
        wire.type_to_message(type_) for type_ in (Type("float64", (2,)), Type("float64"))
    )
    with client_of_jobs(script, jobs) as second:
        result = second.job(made.id).result()
        np.testing.assert_array_equal(result[3]["y"]["x"], Y_X[3])
        assert result.value[3]["z"] == (Z[3],)


class Pair(NamedTuple):
    """A container that other processes know by its name alone."""

    left: Any
    right: Any


@jax.tree_util.register_dataclass
@dataclass
class State:
    """A container that only this process knows."""

    at: Any


def test_results_have_the_users_own_containers(jobs_client: jl.Client, jobs: Jobs) -> None:
    arrays = [("a", (Part.JACOBIAN, 0, 0, 0), SQUARE), ("b", (Part.JACOBIAN, 1, 0, 0), ROW)]
    job = finished(jobs_client, jobs, lambda state: Pair(state.at**2, state.at.sum()), State(ROW), arrays)
    gc.collect()
    found = job.result()[1]
    assert isinstance(found, Pair)
    assert isinstance(found.left, State)
    np.testing.assert_array_equal(found.left.at, SQUARE[1])
    np.testing.assert_array_equal(job.result()[1:3].right.at, ROW[1:3])


@pytest.mark.parametrize(
    ("f", "derivative", "further", "key", "array"),
    [
        (lambda x: x**2, "value", {}, (Part.VALUE, 0, 0, 0), ROW),
        (lambda x: (x**2).sum(), "gradient", {}, (Part.GRADIENT, 0, 0, 0), ROW),
        (lambda x: x**2, "jacobian", {}, (Part.JACOBIAN, 0, 0, 0), SQUARE),
        (lambda x: (x**2).sum(), "hessian", {}, (Part.HESSIAN, 0, 0, 0), SQUARE),
        (lambda x: x**2, "jvp", {"seeds": ROW}, (Part.TANGENT, 0, 0, 0), ROW),
        (lambda x: (x**2).sum(), "vjp", {"seeds": SCALAR}, (Part.COTANGENT, 0, 0, 0), ROW),
    ],
)
def test_every_derivative(jobs_client: jl.Client, jobs: Jobs, f: Any, derivative: Any, further: Any, key: Any, array: np.ndarray) -> None:
    job = finished(jobs_client, jobs, f, ROW, [("it", key, array)], derivative=derivative, **further)
    result = job.result()
    np.testing.assert_array_equal(result[2], array[2])
    np.testing.assert_array_equal(result[1:3], array[1:3])
    if derivative == "value":
        np.testing.assert_array_equal(result.value[2], array[2])
    else:
        with pytest.raises(jl.JobError, match="this job stores no values of the function"):
            _ = result.value


def test_results_of_holomorphic_functions(jobs_client: jl.Client, jobs: Jobs) -> None:
    array = SQUARE.astype(complex)
    job = finished(jobs_client, jobs, lambda z: z**2, ROW.astype(complex), [("jacobian", (Part.JACOBIAN, 0, 0, 0), array)], holomorphic=True)
    np.testing.assert_array_equal(job.result()[1], array[1])


def test_results_that_the_store_keeps_in_another_dtype(jobs_client: jl.Client, jobs: Jobs, tmp_path: Path) -> None:
    points = ROW.astype(ml_dtypes.bfloat16)
    array = points.astype(np.float32)
    arrays = [("gradient", (Part.GRADIENT, 0, 0, 0), array)]
    # Whether the service tells of the function's dtype or of the store's.
    for dtype in ("bfloat16", "float32"):
        job = finished(jobs_client, jobs, lambda x: x.sum(), points, arrays, dtype=dtype, derivative="gradient")
        found = job.result()[1:3]
        assert found.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(found, points[1:3])
        assert job.result().arrays["gradient"].dtype == np.float32
        job.fetch(tmp_path / "gradient.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "gradient.npy"), array)


def test_values_that_are_random_keys(jobs_client: jl.Client, jobs: Jobs) -> None:
    keys = jax.random.split(jax.random.key(1), COUNT)
    data = np.asarray(jax.random.key_data(keys))
    job = jobs_client.submit(lambda key: jax.random.split(key)[0], keys, derivative="value")
    jobs.jobs[job.name].state = pb.JOB_SUCCEEDED
    jobs.add_array(jobs.jobs[job.name], "value", (Part.VALUE, 0, 0, 0), data)
    jobs.jobs[job.name].arrays[0].type.CopyFrom(wire.type_to_message(Type("key<threefry2x32>", (COUNT,))))
    result = job.result()
    np.testing.assert_array_equal(jax.random.key_data(result[2]), data[2])
    np.testing.assert_array_equal(jax.random.key_data(result[1:4]), data[1:4])


def test_sparse_derivatives_are_matrices(jobs_client: jl.Client, jobs: Jobs) -> None:
    job = finished(jobs_client, jobs, lambda x: x**2, ROW, SPARSE, output="csr")
    result = job.result()
    for at, found in [(1, result[1]), *enumerate(result[0:3]), *enumerate(result)]:
        assert isinstance(found, sparse.csr_array)
        assert found.has_canonical_format
        np.testing.assert_array_equal(found.toarray(), sparse.csr_array((DATA[at], PATTERN.indices, PATTERN.indptr), (3, 3)).toarray())
    assert result[2:2] == []
    # Each has arrays of its own, and the structure was read once.
    result[0].indices[:] = 0
    np.testing.assert_array_equal(result[0].indices, PATTERN.indices)
    assert sum(request.path in ("indices", "indptr") for request in jobs.reads) == 2


def test_sparse_entries_shorter_than_any_of_scipys(jobs_client: jl.Client, jobs: Jobs) -> None:
    arrays = [("data", (Part.ENTRIES, 0, 0, 0), DATA.astype(np.float16)), *SPARSE[1:]]
    job = finished(jobs_client, jobs, lambda x: x**2, ROW.astype(np.float16), arrays, output="csr")
    assert job.result()[1].dtype == np.float32


def test_results_before_they_are_there(jobs_client: jl.Client, jobs: Jobs) -> None:
    job = jobs_client.submit(model, POINTS)
    with pytest.raises(jl.JobError, match=f"job {job.id} is queued and has no results yet; job.wait\\(\\) waits"):
        job.result()
    with pytest.raises(jl.JobError, match="has no results yet"):
        job.fetch("x.npy")
    made = jobs.jobs[job.name]
    made.state, made.message = pb.JOB_FAILED, "no workers came"
    with pytest.raises(jl.JobError, match=f"job {job.id} is failed and has no results: no workers came"):
        job.result()
    made.state = pb.JOB_RUNNING
    for path, key, array in JACOBIAN:
        jobs.add_array(made, path, key, array)
    del jobs.results["jacobian/y/x"]
    with pytest.raises(jl.JobError, match="jacobian/y/x is not there yet"):
        job.result()[0]


def columns(array: np.ndarray) -> list[tuple[slice, ...]]:
    """Cuts an array into its points' columns, as units of some seeds are."""
    if array.ndim < 2:
        return [(slice(0, len(array)),)]
    return [(slice(at, at + 1), slice(column, column + 1)) for at in range(len(array)) for column in range(array.shape[1])]


@pytest.mark.parametrize("cut", [None, columns], ids=["points", "columns"])
def test_a_stream_that_breaks_goes_on_from_where_it_was(job: jl.Job, jobs: Jobs, cut: Any) -> None:
    if cut is not None:
        jobs.cut = cut
    array = job.result().arrays["jacobian/y/x"]
    jobs.reads.clear()
    jobs.breaks = [2, 0, 1]
    np.testing.assert_array_equal(array[1:6], Y_X[1:6])
    nbytes = len(Y_X[0].tobytes()) // (1 if cut is None else 2)
    assert [request.offset for request in jobs.reads] == [0, 2 * nbytes, 2 * nbytes, 3 * nbytes]
    assert {(request.first, request.count) for request in jobs.reads} == {(1, 5)}


def spoilt(**changes: Any) -> pb.ReadResultReply:
    """Returns a whole answer of two points, spoilt."""
    array = np.zeros((2, 3))
    reply = pb.ReadResultReply(type=wire.type_to_message(changes.pop("type", Type("float64", (2, 3)))), nbytes=changes.pop("nbytes", 48))
    reply.piece.CopyFrom(pb.Piece(**{"starts": [0, 0], "counts": [2, 3], "data": array.tobytes(), "offset": 0, **changes}))
    return reply


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"type": Type("float64", (3, 3))}, r"answered with float64\[3,3\] of it, 2 points were asked for"),
        ({"type": Type("float128", (2, 3))}, "a dtype that this version does not know"),
        ({"nbytes": 47}, "announced 47 bytes of it, whose type needs 48"),
        ({"starts": [1, 0]}, "a part of it that lies outside of it"),
        ({"starts": [0]}, "a part of it that lies outside of it"),
        ({"counts": [2, 2]}, "not the bytes that its size needs"),
        ({"offset": 8}, "bytes from 8 on where those from 0 on were next"),
        ({"counts": [1, 3], "data": b"\0" * 24}, "ended after 24 of 48 bytes; they are not used"),
    ],
)
def test_answers_that_are_none(jobs_client: jl.Client, jobs: Jobs, changes: dict[str, Any], text: str) -> None:
    jobs.answer = spoilt(**changes)
    with pytest.raises(jl.ProtocolError, match=text):
        reading.read(jobs_client._session.connection, "0" * 20, "it", range(2), Deadline(20.0))


def test_slices_that_do_not_fit_into_memory(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.answer = spoilt(type=Type("float64", (2, 1 << 31, 1 << 30)), nbytes=1)
    with pytest.raises(jl.OutOfMemoryError, match=r"these points of it have .* bytes, .*; read fewer at a time, or have job\.fetch write them"):
        reading.read(jobs_client._session.connection, "0" * 20, "it", range(2), Deadline(20.0))


def test_an_answer_that_is_whole(jobs_client: jl.Client, jobs: Jobs) -> None:
    jobs.answer = spoilt()
    np.testing.assert_array_equal(reading.read(jobs_client._session.connection, "0" * 20, "it", range(2), Deadline(20.0)), np.zeros((2, 3)))


def test_results_of_another_function(jobs_client: jl.Client, jobs: Jobs) -> None:
    job = finished(jobs_client, jobs, model, POINTS, JACOBIAN[:-1])
    with pytest.raises(jl.ProtocolError, match="told of results without the array"):
        job.result()
    job = finished(jobs_client, jobs, lambda x: x**2, ROW, SPARSE[:2])
    with pytest.raises(jl.ProtocolError, match="a sparse derivative without its pointers"):
        job.result()
    job = finished(jobs_client, jobs, lambda x: x**2, ROW, [("jacobian", (Part.JACOBIAN, 0, 0, 0), SQUARE[:, :2])])
    with pytest.raises(jl.ProtocolError, match=r"the function gives float64\[3,3\]"):
        job.result()[0]


def test_a_service_that_stays_away_is_given_up(job: jl.Job, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacloom._retry.PATIENCE", 0.3)
    jobs.breaks = [0] * 1000
    with pytest.raises(jl.UnavailableError, match="shutting down"):
        job.result()[0]
