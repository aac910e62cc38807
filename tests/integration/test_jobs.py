"""Batch jobs, from the raw wire: made, computed, read, stopped and forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import zarr
from integration import graphs, jobs, service
from integration.jobs import Jobs, spec
from integration.service import Client, Process, request

from jacloom_api.v1 import derivative_service_pb2 as call_pb
from jacloom_api.v1 import function_service_pb2
from jacloom_api.v1 import job_service_pb2 as pb

W = graphs.WEIGHTS
RNG = np.random.default_rng(7)
POINTS = 500
X, S, K = RNG.normal(size=(POINTS, 3)), RNG.normal(size=POINTS), np.array([3, 4], np.int32)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("server")
    with service.process(folder / "log", "--workers", "2", "--object-store", "1G", "--data", str(folder / "data")) as running:
        service.wait_for(lambda: running.ready() == 4, 60)
        yield running


@pytest.fixture(scope="module")
def board(process: Process) -> Iterator[Jobs]:
    with grpc.insecure_channel(process.address, options=service.OPTIONS) as channel:
        yield Jobs(channel)


def jacobians() -> np.ndarray:
    """Returns d(s tanh(W x))/dx at all points."""
    slope = 1 - np.tanh(X @ W.T) ** 2
    return S[:, None, None] * slope[:, :, None] * W


def succeeded(board: Jobs, spec: pb.JobSpec, *leaves: np.ndarray) -> pb.Job:
    """Makes a job, and returns it when all its points are done."""
    made = board.create(spec, leaves)
    job = board.wait(made.name)
    counts = (job.points_done, job.points_failed, job.units_done, job.units_failed)
    assert (job.state, *counts) == (pb.JOB_SUCCEEDED, len(leaves[0]), 0, job.units, 0), job.message
    return job


def store(job: pb.Job) -> zarr.Group:
    return zarr.open_group(job.store, mode="r")


class TestDerivatives:
    """Of ``f(x, s, k) = (s tanh(W x), sum x^2, k)``, in stores that anybody can open."""

    def test_jacobians(self, board: Jobs, mixed: str) -> None:
        job = succeeded(board, spec(mixed, [X[0], S[0], K], pb.JOB_JACOBIAN, points=(0, 1), wrt=(0, 1), outputs=(0, 1)), X, S)
        group = store(job)
        np.testing.assert_allclose(group["jacobian/0/0"][...], jacobians(), atol=1e-14)
        np.testing.assert_allclose(group["jacobian/0/1"][...], np.tanh(X @ W.T), rtol=1e-12)
        np.testing.assert_allclose(group["jacobian/1/0"][...], 2 * X, rtol=1e-12)
        np.testing.assert_array_equal(group["jacobian/1/1"][...], np.zeros(POINTS))
        np.testing.assert_allclose(group["value/0"][...], S[:, None] * np.tanh(X @ W.T), rtol=1e-12)
        np.testing.assert_array_equal(group["value/2"][...], np.tile(K, (POINTS, 1)))
        np.testing.assert_array_equal(group["points/0"][...], X)
        np.testing.assert_array_equal(group["points/1"][...], S)
        np.testing.assert_array_equal(group["shared/2"][...], K)
        assert group["status"][...].tolist() == [1] * POINTS
        assert group.attrs["jacloom"]["function"] == mixed
        assert {each.path for each in job.arrays} == set(group.attrs["jacloom"]["arrays"])

    def test_values(self, board: Jobs, mixed: str) -> None:
        job = succeeded(board, spec(mixed, [X[0], S[0], K], pb.JOB_VALUE, wrt=(), values=(1,)), X)
        np.testing.assert_allclose(board.read(job.name, "value/1"), (X**2).sum(axis=1), rtol=1e-12)
        assert [each.path for each in job.arrays] == ["value/1"]

    def test_products(self, board: Jobs, mixed: str) -> None:
        v, w = RNG.normal(size=(POINTS, 3)), RNG.normal(size=(POINTS, 2))
        jvp = succeeded(board, spec(mixed, [X[0], S[0], K], pb.JOB_JVP, points=(0, 1), outputs=(0,), seeds=[v[0]]), X, S, v)
        np.testing.assert_allclose(board.read(jvp.name, "tangent/0"), np.einsum("pij,pj->pi", jacobians(), v), atol=1e-14)
        vjp = succeeded(board, spec(mixed, [X[0], S[0], K], pb.JOB_VJP, points=(0, 1), outputs=(0,), seeds=[w[0]]), X, S, w)
        np.testing.assert_allclose(board.read(vjp.name, "cotangent"), np.einsum("pij,pi->pj", jacobians(), w), atol=1e-14)

    def test_gradients_and_hessians(self, board: Jobs, client: Client) -> None:
        name = client.register(graphs.cubes(3))
        gradient = succeeded(board, spec(name, [X[0]], pb.JOB_GRADIENT), X)
        np.testing.assert_allclose(board.read(gradient.name, "gradient"), 3 * X**2, rtol=1e-12)
        np.testing.assert_allclose(board.read(gradient.name, "value"), (X**3).sum(axis=1), rtol=1e-12)
        hessian = succeeded(board, spec(name, [X[0]], pb.JOB_HESSIAN, sparsity=call_pb.DENSE), X)
        np.testing.assert_allclose(board.read(hessian.name, "hessian"), 6 * X[:, :, None] * np.eye(3), rtol=1e-12)

    def test_sparse_derivatives(self, board: Jobs, client: Client) -> None:
        n = 40
        points = RNG.normal(size=(90, n))
        job = succeeded(board, spec(client.register(graphs.sine(n)), [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.SPARSE), points)
        assert job.plan.passes == 1
        np.testing.assert_allclose(board.read(job.name, "data"), np.cos(points), rtol=1e-12)
        np.testing.assert_array_equal(board.read(job.name, "indices"), np.arange(n))
        np.testing.assert_array_equal(board.read(job.name, "indptr"), np.arange(n + 1))
        second = succeeded(board, spec(client.register(graphs.cubes(n)), [points[0]], pb.JOB_HESSIAN, sparsity=call_pb.SPARSE), points)
        np.testing.assert_allclose(store(second)["data"][...], 6 * points, rtol=1e-12)

    def test_one_large_jacobian_is_many_units(self, board: Jobs, client: Client) -> None:
        n = 2900  # 67 MB a point, more than a chunk
        points = RNG.normal(size=(2, n))
        job = succeeded(board, spec(client.register(graphs.sine(n)), [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE), points)
        assert job.units > 2
        array = store(job)["jacobian"]
        assert array.chunks[0] == 1
        for point in range(2):
            np.testing.assert_allclose(array[point], np.diag(np.cos(points[point])), rtol=1e-12)
        np.testing.assert_array_equal(board.read(job.name, "jacobian", 1, 1)[0], array[1])

    def test_numbers_that_are_not_finite_are_values_and_flagged(self, board: Jobs, client: Client) -> None:
        points = RNG.normal(size=(7, 3))
        points[2, 1], points[5, 0] = np.nan, np.inf
        job = succeeded(board, spec(client.register(graphs.cubes(3)), [points[0]], pb.JOB_GRADIENT), points)
        assert job.points_not_finite == 2
        np.testing.assert_allclose(board.read(job.name, "gradient"), 3 * points**2, rtol=1e-12)
        assert board.read(job.name, "status").tolist() == [1, 1, 2, 1, 1, 2, 1]
        np.testing.assert_array_equal(store(job)["status"][...], board.read(job.name, "status"))


@pytest.fixture(scope="module")
def job(board: Jobs, client: Client) -> pb.Job:
    points = RNG.normal(size=(300, 120))
    return succeeded(board, spec(client.register(graphs.sine(120)), [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE), points)


class TestReading:
    def test_ranges_of_points(self, board: Jobs, job: pb.Job) -> None:
        whole = store(job)["jacobian"][...]
        for first, count in ((0, 0), (7, 1), (50, 211), (299, 1), (300, 0), (5, 0)):
            np.testing.assert_array_equal(board.read(job.name, "jacobian", first, count), whole[first : first + count if count else None])

    def test_a_stream_that_broke_goes_on_where_it_was(self, board: Jobs, job: pb.Job) -> None:
        asked = pb.ReadResultRequest(name=job.name, path="jacobian", first=3, count=200)
        _, *pieces = board.stub.ReadResult(asked, timeout=service.TIMEOUT)
        assert len(pieces) > 20
        ends = [reply.piece.offset + len(reply.piece.data) for reply in pieces]
        for at in (0, 7, len(pieces) - 1):
            again = pb.ReadResultRequest(name=job.name, path="jacobian", first=3, count=200, offset=ends[at])
            _, *rest = board.stub.ReadResult(again, timeout=service.TIMEOUT)
            assert [reply.piece for reply in rest] == [reply.piece for reply in pieces[at + 1 :]]

    def test_what_is_not_there(self, board: Jobs, job: pb.Job) -> None:
        for path, first, count, field, problem in (
            ("jacobian/x", 0, 0, "path", "has no array 'jacobian/x'; its arrays are value, jacobian, status"),
            ("../points", 0, 0, "path", "has no array"),
            ("jacobian", 301, 0, "first", "has 300 points, got all from 301 on"),
            ("jacobian", 290, 11, "first", "has 300 points, got 11 from 290 on"),
        ):
            with pytest.raises(grpc.RpcError, match=problem) as caught:
                board.read(job.name, path, first, count)
            assert service.failure(caught.value).fields == [field]

    def test_a_damaged_chunk_is_found_and_computed_again(self, board: Jobs, job: pb.Job) -> None:
        good = store(job)["jacobian"][...]
        chunk = Path(job.store) / "jacobian" / "c.2.0.0"
        data = bytearray(chunk.read_bytes())
        data[1000] ^= 1
        chunk.write_bytes(data)
        with pytest.raises(grpc.RpcError, match="damaged, and is computed again"):
            board.read(job.name, "jacobian")
        assert board.wait(job.name).state == pb.JOB_SUCCEEDED
        np.testing.assert_array_equal(board.read(job.name, "jacobian"), good)

    def test_chunks_that_are_torn_or_gone_are_found_by_verifying(self, board: Jobs, job: pb.Job) -> None:
        before = {path: path.read_bytes() for path in Path(job.store).rglob("*") if path.is_file()}
        assert board.stub.Verify(pb.VerifyJobRequest(name=job.name), timeout=service.TIMEOUT).damaged == 0
        torn, *_, gone = sorted((Path(job.store) / "jacobian").glob("c.*"))
        torn.write_bytes(torn.read_bytes()[:1000])
        gone.unlink()
        found = board.stub.Verify(pb.VerifyJobRequest(name=job.name), timeout=service.TIMEOUT)
        assert (found.damaged, found.chunks) == (2, 2 * job.units)
        again = board.wait(job.name)
        assert (again.state, again.units_done, again.points_done) == (pb.JOB_SUCCEEDED, job.units, job.points)
        assert {path: path.read_bytes() for path in Path(job.store).rglob("*") if path.is_file()} == before


class TestCreating:
    def test_a_request_makes_one_job_however_often_it_comes(self, board: Jobs, client: Client) -> None:
        asked = spec(client.register(graphs.cubes(3)), [X[0]], pb.JOB_GRADIENT, request_id="once", out="requests/once")
        with ThreadPoolExecutor(20) as pool:
            names = {job.name for job in pool.map(lambda _: board.create(asked, [X]), range(100))}
        assert len(names) == 1
        assert board.wait(names.pop()).points_done == POINTS
        with pytest.raises(grpc.RpcError, match="with another spec or other points") as caught:
            board.create(asked, [X + 1])
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS

    @pytest.mark.parametrize(
        ("change", "field", "problem"),
        [
            ({"out": "../x"}, "spec.out", "below the folder"),
            ({"out": "s3://x/y"}, "spec.out", "got the address"),
            ({"priority": 101}, "spec.priority", "from -100 to 100"),
            ({"derivative": 0}, "spec.derivative", "derivative is one of JOB_VALUE"),
            ({"points": ()}, "spec.points", "at least one input leaf"),
            ({"points": (1,)}, "spec.points", "1 input leaves|of the function's 1"),
            ({"display_name": "x" * 129}, "spec.display_name", "at most 128"),
            ({"request_id": "x" * 65}, "spec.request_id", "at most 64"),
        ],
    )
    def test_specs_that_are_refused(self, board: Jobs, client: Client, process: Process, change: dict[str, object], field: str, problem: str) -> None:
        asked = spec(client.register(graphs.cubes(3)), [X[0]], pb.JOB_GRADIENT)
        for name, value in change.items():
            if name == "points":
                asked.ClearField("points")
                asked.points.extend(value)
            else:
                setattr(asked, name, value)
        before = everything(process)
        with pytest.raises(grpc.RpcError, match=problem) as caught:
            board.create(asked, [X])
        assert (caught.value.code(), service.failure(caught.value).fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
        assert everything(process) == before

    def test_points_that_do_not_fit_leave_nothing(self, board: Jobs, client: Client, process: Process) -> None:
        asked = spec(client.register(graphs.cubes(3)), [X[0]], pb.JOB_GRADIENT)
        before = everything(process)
        with pytest.raises(grpc.RpcError, match=r"1,000 points of float64\[3\] have 24,000 bytes, got 16,000"):
            board.create(asked, [np.zeros((1000, 2))])
        with pytest.raises(grpc.RpcError, match="at least one point, got none"):
            board.create(asked, [np.zeros((0, 3))])
        unfinished = list(jobs.messages(asked, [X], 100))[:-1]
        with pytest.raises(grpc.RpcError, match="ended without a message that is its last"):
            board.stub.Create(iter(unfinished), timeout=service.TIMEOUT)
        with pytest.raises(grpc.RpcError, match="followed the one that says that it is the last"):
            board.stub.Create(iter([*unfinished, pb.CreateJobRequest(last=True), unfinished[-1]]), timeout=service.TIMEOUT)
        with pytest.raises(grpc.RpcError, match="spec is in the first message alone"):
            board.stub.Create(iter([*unfinished, unfinished[0]]), timeout=service.TIMEOUT)
        with pytest.raises(grpc.RpcError, match="first message has the job's spec"):
            board.stub.Create(iter([pb.CreateJobRequest(points=pb.Points(count=1))]), timeout=service.TIMEOUT)
        assert everything(process) == before

    def test_a_stream_that_breaks_leaves_nothing(self, board: Jobs, client: Client, process: Process) -> None:
        before = everything(process)

        def broken() -> Iterator[pb.CreateJobRequest]:
            yield from jobs.messages(spec(client.register(graphs.cubes(3)), [X[0]], pb.JOB_GRADIENT), [X], 100)
            raise RuntimeError("on purpose")

        with pytest.raises(grpc.RpcError):
            board.stub.Create(broken(), timeout=service.TIMEOUT)
        service.wait_for(lambda: everything(process) == before, 5)

    def test_a_function_without_that_derivative(self, board: Jobs, mixed: str) -> None:
        with pytest.raises(grpc.RpcError, match="scalar"):
            board.create(spec(mixed, [X[0], S[0], K], pb.JOB_GRADIENT, outputs=(0,)), [X])


class TestControl:
    def test_cancelling_frees_the_workers(self, board: Jobs, client: Client) -> None:
        points = np.zeros((40, 8))
        job = board.create(spec(client.register(graphs.decay(8, 2_000_000)), [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE), [points])
        service.wait_for(lambda: board.get(job.name).workers > 0)
        cancelled = board.stub.Cancel(pb.CancelJobRequest(name=job.name), timeout=service.TIMEOUT)
        assert cancelled.state == pb.JOB_CANCELLED
        x = np.arange(3.0)
        answer = client.call("Jacobian", request(client.register(graphs.sine(3)), [x], sparsity=call_pb.DENSE), timeout=20)
        np.testing.assert_allclose(answer.arrays[0], np.diag(np.cos(x)))
        with pytest.raises(grpc.RpcError, match="is not computed yet"):
            board.read(job.name, "jacobian")
        board.stub.Delete(pb.DeleteJobRequest(name=job.name), timeout=service.TIMEOUT)
        assert not Path(job.store).exists()
        with pytest.raises(grpc.RpcError, match="no job") as caught:
            board.get(job.name)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    def test_a_job_stops_at_its_deadline(self, board: Jobs, client: Client) -> None:
        points = np.zeros((40, 8))
        asked = spec(client.register(graphs.decay(8, 3_000_000)), [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE)
        asked.deadline.FromSeconds(int(time.time()) + 3)
        asked.request_id = "in three seconds"
        job = board.wait(board.create(asked, [points]).name)
        assert job.state == pb.JOB_DEADLINE_EXCEEDED
        assert board.create(asked, [points]).name == job.name
        asked.request_id = "too late"
        with pytest.raises(grpc.RpcError, match="the deadline is over already"):
            board.create(asked, [points])

    def test_an_interactive_call_has_its_turn_beside_a_job(self, board: Jobs, client: Client) -> None:
        points = np.zeros((4000, 8))
        job = board.create(spec(client.register(graphs.decay(8, 20_000)), [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE), [points])
        service.wait_for(lambda: board.get(job.name).units_done > 0)
        x = np.arange(3.0)
        answer = client.call("Jacobian", request(client.register(graphs.sine(3)), [x], sparsity=call_pb.DENSE), timeout=30)
        np.testing.assert_allclose(answer.arrays[0], np.diag(np.cos(x)))
        assert board.get(job.name).state == pb.JOB_RUNNING
        board.stub.Cancel(pb.CancelJobRequest(name=job.name), timeout=service.TIMEOUT)

    def test_jobs_of_a_higher_priority_go_first(self, board: Jobs, client: Client) -> None:
        points = np.zeros((3000, 8))
        name = client.register(graphs.decay(8, 20_000))
        low = board.create(spec(name, [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE), [points])
        service.wait_for(lambda: board.get(low.name).units_done > 0)
        high = board.create(spec(name, [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE, priority=5), [points[:300]])
        assert board.wait(high.name).state == pb.JOB_SUCCEEDED
        assert board.get(low.name).state == pb.JOB_RUNNING
        board.stub.Cancel(pb.CancelJobRequest(name=low.name), timeout=service.TIMEOUT)

    def test_lists_have_pages_and_filters(self, board: Jobs, client: Client) -> None:
        name = client.register(graphs.cubes(2))
        made = [succeeded(board, spec(name, [X[0, :2]], pb.JOB_GRADIENT), X[:3, :2]).name for _ in range(3)]
        first = board.stub.List(pb.ListJobsRequest(page_size=2, function=name, states=[pb.JOB_SUCCEEDED]))
        rest = board.stub.List(pb.ListJobsRequest(page_size=2, function=name, states=[pb.JOB_SUCCEEDED], page_token=first.next_page_token))
        assert [job.name for job in (*first.jobs, *rest.jobs)] == made[::-1]
        assert not board.stub.List(pb.ListJobsRequest(function=name, states=[pb.JOB_FAILED])).jobs

    def test_what_has_expired_is_deleted_and_named_before(self, board: Jobs, client: Client) -> None:
        asked = spec(client.register(graphs.cubes(3)), [X[0]], pb.JOB_GRADIENT)
        asked.ttl.FromSeconds(0)
        job = succeeded(board, asked, X)
        for dry in (True, False):
            assert [each.name for each in board.stub.Expire(pb.ExpireJobsRequest(dry_run=dry)).jobs] == [job.name]
            assert Path(job.store).exists() is dry

    def test_a_function_that_a_job_needs_is_not_deleted(self, board: Jobs, client: Client) -> None:
        points = np.zeros((40, 8))
        name = client.register(graphs.decay(8, 2_000_001))
        job = board.create(spec(name, [points[0]], pb.JOB_JACOBIAN, sparsity=call_pb.DENSE), [points])
        with pytest.raises(grpc.RpcError, match="has derivatives of this function; delete the job first"):
            client.functions.Delete(function_service_pb2.DeleteFunctionRequest(name=name))
        board.stub.Cancel(pb.CancelJobRequest(name=job.name), timeout=service.TIMEOUT)


def everything(process: Process) -> list[str]:
    """Returns all files and folders of a service's data but for the functions it keeps."""
    data = process.log.parent / "data"
    return sorted(
        str(path.relative_to(data)) for kind in ("results", "jobs") for path in (data / kind).rglob("*") if not path.name.startswith("jobs.sqlite3")
    )
