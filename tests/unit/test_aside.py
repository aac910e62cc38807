"""The store of one attempt: chunks lie aside, synced and with their checksums, and the group is as it was."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from unit.batch import Batch
from zarr.codecs import Crc32cCodec

from jacloom_graph.errors import Fault, Reason
from jacloom_worker.aside import Aside
from jacloom_worker.protocol import Kind
from jacloom_worker.unit import Chunk, Unit

pytestmark = pytest.mark.usefixtures("worker_jax")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A group with an array of 5 x 4 numbers, in chunks of 2 x 4, of which the first is written."""
    group = zarr.open_group(tmp_path / "results", mode="w")
    array = group.create_array("deep/numbers", shape=(5, 4), chunks=(2, 4), dtype="f8", compressors=[Crc32cCodec()], fill_value=np.nan)
    array[0:2] = 1.0
    return tmp_path / "results"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def opened(store: Aside) -> Any:
    return zarr.open_array(store, path="deep/numbers", mode="r+")


def test_chunks_go_aside_and_the_group_stays(results: Path, tmp_path: Path) -> None:
    before = files(results)
    store = Aside(results, tmp_path / "aside")
    assert not (tmp_path / "aside").exists(), "no folder before there is something to write"
    opened(store)[2:5] = np.arange(12.0).reshape(3, 4)
    assert files(results) == before
    assert [chunk.path for chunk in store.chunks] == ["deep/numbers/c/1/0", "deep/numbers/c/2/0"]
    shutil.copytree(tmp_path / "aside", results, dirs_exist_ok=True)
    np.testing.assert_array_equal(
        zarr.open_array(results, path="deep/numbers", mode="r")[...], [[1] * 4] * 2 + np.arange(12.0).reshape(3, 4).tolist()
    )


def test_what_others_wrote_is_not_seen(results: Path, tmp_path: Path) -> None:
    store = Aside(results, tmp_path / "aside")
    array = opened(store)
    assert np.isnan(array[0:2]).all()
    array[0:1] = 7.0
    shutil.copy(tmp_path / "aside/deep/numbers/c/0/0", results / "deep/numbers/c/0/0")
    np.testing.assert_array_equal(zarr.open_array(results, path="deep/numbers", mode="r")[0:2], [[7.0] * 4, [np.nan] * 4])


def test_each_file_is_synced(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (synced.append(os.readlink(f"/proc/self/fd/{number}")), sync(number)))
    opened(Aside(results, tmp_path / "aside"))[...] = 3.0
    assert sorted(synced) == [str(tmp_path / f"aside/deep/numbers/c/{number}/0") for number in range(3)]


def test_a_chunk_that_is_written_twice_is_refused(results: Path, tmp_path: Path) -> None:
    array = opened(Aside(results, tmp_path / "aside"))
    array[0:1] = 7.0
    with pytest.raises(Fault, match=r"deep/numbers/c/0/0 is written twice") as caught:
        array[1:2] = 7.0
    assert caught.value.reason is Reason.INTERNAL


def test_nothing_is_deleted(results: Path, tmp_path: Path) -> None:
    before = files(results)
    store = Aside(results, tmp_path / "aside")
    with pytest.raises(Fault, match="cannot be deleted"):
        opened(store).with_config({"write_empty_chunks": False})[0:2] = np.nan
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_array(store.with_read_only(True), path="deep/numbers", mode="r")[0:2] = 1.0
    assert files(results) == before


def test_a_checksum_tells_whether_a_file_is_the_one_that_was_written(results: Path, tmp_path: Path) -> None:
    store = Aside(results, tmp_path / "aside")
    opened(store)[...] = np.arange(20.0).reshape(5, 4)
    data = [(tmp_path / "aside" / chunk.path).read_bytes() for chunk in store.chunks]
    for number, chunk in enumerate(store.chunks):
        assert chunk == Chunk.of(chunk.path, data[number])
        assert [chunk.matches(each) for each in data] == [other == number for other in range(3)], "whole and sound, but others"
        assert not any(chunk.matches(torn) for torn in (b"", data[number][:3], data[number][:-1], data[number] + b"\0"))
        for at in range(len(data[number])):
            flipped = bytearray(data[number])
            flipped[at] ^= 1 << at % 8
            assert not chunk.matches(bytes(flipped))


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this user cannot mount a file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def batch(folder: Path) -> tuple[Batch, Any]:
    """Returns a job whose units have 320 kB of results."""
    made = Batch(folder, lambda x: x[:, None] * x, {0: np.ones((4, 100))}, {})
    return made, made.single(made.kernel(Kind.VALUE, (), (), values=(0,)), 4, made.outputs)


def test_a_full_store_is_the_answer_until_there_is_room(small: Path) -> None:
    made, recipe = batch(small)
    (small / "ballast").write_bytes(bytes(300 << 10))
    answer = made.write(recipe, Unit(0, 0, 4))
    assert isinstance(answer, Fault)
    assert answer.reason is Reason.STORE_UNAVAILABLE
    assert answer.message.startswith("result/0/c/0/0/0 cannot be written: No space left on device; ")
    assert str(small) not in answer.message
    shutil.rmtree(small / "aside-1")
    (small / "ballast").unlink()
    (written,) = made.run(recipe, [Unit(0, 0, 4)])
    assert written.finite.all()
    assert (made.read("result/0") == 1).all()


def test_a_store_that_refuses_is_the_answer(tmp_path: Path) -> None:
    made, recipe = batch(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 << 10, limits[1]))
    try:
        answer = made.write(recipe, Unit(0, 0, 4))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(answer, Fault)
    assert (answer.reason, answer.message.split(";")[0]) == (Reason.STORE_UNAVAILABLE, "result/0/c/0/0/0 cannot be written: File too large")
    (tmp_path / "aside-2").write_text("a file in the way")
    answer = made.write(recipe, Unit(0, 0, 4))
    assert isinstance(answer, Fault)
    assert (answer.reason, answer.message.split(";")[0]) == (Reason.STORE_UNAVAILABLE, "result/0/c/0/0/0 cannot be written: File exists")
    assert str(tmp_path) not in answer.message


def test_what_comes_when_the_job_has_ended_leaves_nothing(results: Path, tmp_path: Path) -> None:
    array = opened(Aside(results, tmp_path / "aside of a job that has ended" / "attempt"))
    with pytest.raises(Fault, match="cannot be written: No such file or directory"):
        array[0:2] = 7.0
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_group_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        opened(Aside(tmp_path / "not mounted", tmp_path / "aside"))
    assert list(tmp_path.iterdir()) == []
