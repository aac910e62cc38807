"""The store of a job that fills up, is damaged, is not writable, or goes away: the job waits or mends it, and says so."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from faults import batches
from faults.batches import FAST, MEDIUM, Place, Server
from integration import service

from jacloom_api.v1 import job_service_pb2 as pb


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Server]:
    with place.serve() as running:
        yield running.wait_until_ready()


@pytest.fixture(scope="module")
def quiet(server: Server) -> pb.Job:
    return server.run(MEDIUM, out="quiet")


@pytest.fixture
def small() -> Iterator[Path]:
    """A file system of its own, of 16 MiB."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16M", "tmpfs", folder], capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
        yield Path(folder)
        subprocess.run(["umount", "-l", folder], check=True)


def damages(job: pb.Job) -> list[Path]:
    """Damages chunks of a job in each way, and returns them."""
    flipped, torn, empty, gone = [Path(job.store) / path for path in sorted(batches.results(job))[:4]]
    data = bytearray(flipped.read_bytes())
    data[5] ^= 1
    flipped.write_bytes(data)
    torn.write_bytes(torn.read_bytes()[:-7])
    empty.write_bytes(b"")
    gone.unlink()
    return [flipped, torn, empty, gone]


@pytest.mark.slow
def test_a_job_waits_for_room_and_goes_on(server: Server, quiet: pb.Job, small: Path, tmp_path: Path) -> None:
    place = Place(tmp_path, ("--results", str(small)))
    with place.serve() as other:
        other.wait_until_ready()
        job = other.submit(MEDIUM)
        service.wait_for(lambda: other.board.get(job.name).units_done > 0, 120)
        filled = fill(small)
        service.wait_for(lambda: "No space left on device" in other.board.get(job.name).message, 60)
        waiting = other.board.get(job.name)
        assert waiting.state == pb.JOB_RUNNING
        assert "room" in waiting.message or "space" in waiting.message
        assert (waiting.retries, waiting.units_failed) == (0, 0)
        # Neither can another be made meanwhile.
        with pytest.raises(grpc.RpcError, match="No space left on device") as caught:
            other.submit(MEDIUM, out="another")
        assert service.failure(caught.value).reason == "STORE_UNAVAILABLE"
        filled.unlink()
        done = batches.succeeded(other.board.wait(job.name))
        assert (done.retries, done.message) == (0, "")
        assert batches.files(done) == batches.files(quiet)
        assert not list((small / ".jacloom").glob("*/*"))


def fill(folder: Path) -> Path:
    """Leaves no room in a file system, and returns the file that takes it all."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


class TestDamage:
    def test_reading_finds_it_and_has_it_mended(self, server: Server, quiet: pb.Job) -> None:
        job = server.run(MEDIUM, out="damaged/read")
        good = {path: server.board.read(job.name, path).tobytes() for path in ("value", "tangent")}
        for damaged in damages(job):
            array = damaged.parent.name
            with pytest.raises(grpc.RpcError, match="is damaged, and is computed again") as caught:
                server.board.read(job.name, array, point(damaged), 1)
            assert service.failure(caught.value).reason == "RESULT_NOT_READY"
            again = batches.succeeded(server.board.wait(job.name))
            assert server.board.read(again.name, array, point(damaged), 1).tobytes() in good[array]
        assert batches.files(again) == batches.files(quiet)

    def test_verifying_finds_it_and_has_it_mended(self, server: Server, quiet: pb.Job) -> None:
        job = server.run(MEDIUM, out="damaged/verify")
        units = {point(path) for path in damages(job)}
        found = server.verify(job.name)
        assert (found.damaged, found.chunks) == (len(units), 2 * job.units)
        assert batches.files(batches.succeeded(server.board.wait(job.name))) == batches.files(quiet)
        assert server.verify(job.name).damaged == 0

    def test_while_the_job_runs(self, server: Server, quiet: pb.Job, place: Place) -> None:
        job = server.submit(MEDIUM, out="damaged/running")
        service.wait_for(lambda: server.board.get(job.name).units_done >= 4, 60)
        running = server.board.get(job.name)
        assert running.state == pb.JOB_RUNNING
        damages(running)
        assert server.verify(job.name).damaged >= 1
        assert batches.files(batches.succeeded(server.board.wait(job.name))) == batches.files(quiet)

    def test_the_status_of_points_is_written_anew(self, server: Server, quiet: pb.Job) -> None:
        job = server.run(MEDIUM, out="damaged/status")
        for status in (Path(job.store) / "status").glob("c*"):
            status.write_bytes(b"broken")
        damages(job)
        server.verify(job.name)
        assert batches.files(batches.succeeded(server.board.wait(job.name))) == batches.files(quiet)


def point(chunk: Path) -> int:
    """Returns the point of a chunk."""
    return int(chunk.name.split(".")[1])


def test_a_job_whose_results_were_taken_away_waits_until_they_are_back(server: Server, quiet: pb.Job, tmp_path: Path) -> None:
    job = server.submit(MEDIUM, out="taken/away")
    service.wait_for(lambda: server.board.get(job.name).units_done > 0, 60)
    away = Path(job.store).with_name("elsewhere")
    Path(job.store).rename(away)
    service.wait_for(lambda: server.board.get(job.name).message, 60)
    waiting = server.board.get(job.name)
    assert (waiting.state, waiting.retries) == (pb.JOB_RUNNING, 0)
    with pytest.raises(grpc.RpcError, match="there is none; mount its file system"):
        server.verify(job.name)
    away.rename(job.store)
    done = batches.succeeded(server.board.wait(job.name))
    assert (done.retries, done.message) == (0, "")
    assert batches.files(done) == batches.files(quiet)


def test_results_that_were_removed_under_a_job_do_not_keep_it_from_being_cancelled(server: Server, tmp_path: Path) -> None:
    job = server.submit(MEDIUM, out="removed")
    service.wait_for(lambda: server.board.get(job.name).units_done > 0, 60)
    # Units end in any order.
    service.wait_for(lambda: server.board.read(job.name, "status")[0] == 1)
    Path(job.store).rename(tmp_path / "removed")
    service.wait_for(lambda: server.board.get(job.name).message, 60)
    assert server.cancel(job.name).state == pb.JOB_CANCELLED
    with pytest.raises(grpc.RpcError, match="not where they were put") as caught:
        server.board.read(job.name, "value", 0, 1)
    assert service.failure(caught.value).reason == "RESULT_NOT_READY"
    server.delete(job.name)


def test_a_folder_for_results_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    place = Place(tmp_path, ("--results", str(tmp_path / "file" / "results")))
    command = [sys.executable, "-m", "jacloom_server", "--no-supervise", "--address", "127.0.0.1:0", *place.arguments()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "files cannot be kept there: Not a directory" in ended.stderr


def test_results_before_there_are_any_and_jobs_that_nobody_made(server: Server) -> None:
    stub = server.board.stub
    unknown = "jobs/" + "0" * 20
    calls = (
        lambda: server.board.get(unknown),
        lambda: server.board.wait(unknown),
        lambda: server.cancel(unknown),
        lambda: server.retry(unknown),
        lambda: server.verify(unknown),
        lambda: server.delete(unknown),
        lambda: server.failures(unknown),
        lambda: server.board.read(unknown, "value"),
        lambda: stub.Get(pb.GetJobRequest(name="../../etc/passwd"), timeout=service.TIMEOUT),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError, match="no job") as caught:
            call()
        assert service.failure(caught.value).reason == "JOB_NOT_FOUND"
    blocker = server.submit(batches.ENDLESS)
    service.wait_for(lambda: server.board.get(blocker.name).state in (pb.JOB_QUEUED, pb.JOB_RUNNING))
    job = server.submit(FAST)
    if server.board.get(job.name).state == pb.JOB_QUEUED:
        with pytest.raises(grpc.RpcError, match=r"not planned yet|is not computed yet") as caught:
            server.board.read(job.name, "value")
        assert service.failure(caught.value).reason == "RESULT_NOT_READY"
    for made in (blocker, job):
        server.cancel(made.name)
