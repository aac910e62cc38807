"""The store of blobs with real Ray, alone and behind a real gRPC server: room, digests, pins and the folder."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import ray
from integration import service

from jacloom_api.v1 import blob_service_pb2 as pb
from jacloom_api.v1 import blob_service_pb2_grpc as stubs
from jacloom_graph import blobnames
from jacloom_graph.errors import Fault, Reason
from jacloom_server.blobs import Blob, Blobs
from jacloom_server.edges.blob import BlobServicer

MIB = 1 << 20

pytestmark = pytest.mark.usefixtures("cluster")


@asynccontextmanager
async def serving(blobs: Blobs) -> AsyncIterator[stubs.BlobServiceStub]:
    server = grpc.aio.server()
    BlobServicer(blobs).add_to(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield stubs.BlobServiceStub(channel)
    await server.stop(None)


async def upload(stub: stubs.BlobServiceStub, data: bytes, *, digest: str = "", pause: float = 0.0) -> pb.Blob:
    """Uploads with a pause after the first byte."""

    async def messages() -> AsyncIterator[pb.PutRequest]:
        yield pb.PutRequest(header=pb.PutHeader(sha256=digest, size=len(data)), data=data[:1])
        await asyncio.sleep(pause)
        for at in range(1, len(data), MIB):
            yield pb.PutRequest(data=data[at : at + MIB])

    return await stub.Put(messages(), timeout=60)


async def put(blobs: Blobs, data: bytes, digest: str = "") -> Blob:
    with blobs.uploading(len(data), digest) as coming:
        for at in range(0, len(data), MIB):
            coming.take(data[at : at + MIB])
        return await blobs.keep(coming)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def name_of(data: bytes) -> str:
    return blobnames.by_digest(sha256(data))


def content(folder: Path, data: bytes) -> str:
    """Writes content to a folder as an earlier server has, and returns the blob's name."""
    folder.mkdir(exist_ok=True)
    (folder / sha256(data)).write_bytes(data)
    return name_of(data)


def reason(error: BaseException) -> Reason:
    assert isinstance(error, Fault)
    return error.reason


async def test_uploads_under_way_have_their_room_and_give_it_back() -> None:
    async with serving(Blobs(100, 60.0)) as stub:
        outcomes = await asyncio.gather(*(upload(stub, bytes(60), pause=1.0) for _ in range(3)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, grpc.RpcError)]
        assert len(refused) == 2, "only one of the three fits"
        assert {service.failure(error).reason for error in refused} == {"OVER_QUOTA"}
        for outcome in outcomes:
            if isinstance(outcome, pb.Blob):
                await stub.Release(pb.ReleaseRequest(name=outcome.name))
        # Uploads that fail, and those whose client goes away, give their room back.
        with pytest.raises(grpc.RpcError, match="SHA-256"):
            await upload(stub, bytes(60), digest="0" * 64)
        gone = asyncio.create_task(upload(stub, bytes(60), pause=60.0))
        await asyncio.sleep(0.5)
        gone.cancel()
        await asyncio.sleep(0.5)
        assert (await upload(stub, bytes(60))).size == 60


async def test_the_same_content_sent_twice_at_once_is_one_blob() -> None:
    data = np.random.default_rng(0).bytes(3 * MIB)
    async with serving(Blobs(7 * MIB, 60.0)) as stub:
        first, second = await asyncio.gather(*(upload(stub, data, digest=sha256(data)) for _ in range(2)))
        assert first.name == second.name
        # Counted once: four more fit beside its three.
        await upload(stub, bytes(4 * MIB))
    blobs = Blobs(7 * MIB, 60.0)
    first_blob, second_blob = await asyncio.gather(*(put(blobs, data, sha256(data)) for _ in range(2)))
    assert first_blob is second_blob, "who has pinned one has pinned the other"


@pytest.mark.parametrize("size", [0, 1, MIB, 8 * MIB, 19 * MIB + 5])
async def test_what_came_is_what_is_kept_and_its_digest_is_checked_on_the_way(size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    blobs = Blobs(64 * MIB, 60.0)
    blob = await put(blobs, data, sha256(data))
    assert bytes(ray.get(blob.ref)) == data
    with pytest.raises(Fault, match="SHA-256"):
        await put(blobs, data + b"x", sha256(data))


async def test_pinning_is_all_or_nothing() -> None:
    blobs = Blobs(100, 60.0)
    here, gone = await put(blobs, b"here", sha256(b"here")), name_of(b"gone")
    with pytest.raises(Fault) as caught:
        await blobs.pin([here.name, gone])
    assert reason(caught.value) is Reason.BLOB_NOT_FOUND
    assert here.pins == 0
    await blobs.pin([here.name])
    blobs.release(here.name)
    assert blobs.find(here.name) is here, "pinned"
    blobs.unpin([here.name])
    blobs.release(here.name)
    with pytest.raises(Fault):
        blobs.find(here.name)


async def test_a_lease_begins_when_the_last_pin_goes() -> None:
    blobs = Blobs(100, 0.5)
    blob = await put(blobs, b"content", sha256(b"content"))
    await blobs.pin([blob.name])
    await asyncio.sleep(0.6)
    blobs.sweep()
    blobs.unpin([blob.name])
    blobs.sweep()
    assert blobs.find(blob.name) is blob
    await asyncio.sleep(0.6)
    blobs.sweep()
    assert await blobs.missing([blob.name]) == [blob.name]


async def test_room_is_made_of_expired_blobs_then_of_what_others_give_up() -> None:
    blobs = Blobs(100, 0.3)
    asked: list[bool] = []
    pinned = await put(blobs, bytes(50), sha256(bytes(50)))
    await blobs.pin([pinned.name])

    def relieve(enough: object) -> None:
        asked.append(enough())  # type: ignore[operator]
        blobs.unpin([pinned.name])
        blobs.release(pinned.name)
        asked.append(enough())  # type: ignore[operator]

    blobs.when_full(relieve)
    await put(blobs, bytes(40))
    await asyncio.sleep(0.4)
    await put(blobs, bytes(41))
    assert asked == [], "the expired one was enough"
    await put(blobs, bytes(42))
    assert asked == [False, True]
    with pytest.raises(Fault) as caught:
        await put(blobs, bytes(101))
    assert reason(caught.value) is Reason.TOO_LARGE


async def test_only_what_is_stored_outlives_the_server(tmp_path: Path) -> None:
    before = Blobs(100, 60.0, tmp_path)
    kept, other = await put(before, b"kept", sha256(b"kept")), await put(before, b"other", sha256(b"other"))
    await before.pin([kept.name])
    await before.store([kept.name])
    after = Blobs(100, 60.0, tmp_path)
    assert await after.missing([other.name, kept.name]) == [other.name]
    references = await after.pin([kept.name])
    assert ray.get(references[kept.name]).tobytes() == b"kept"
    after.erase([kept.name])
    assert list(tmp_path.iterdir()) == []
    assert after.find(kept.name).size == 4, "it stays in memory"


async def test_asking_what_is_missing_loads_nothing(tmp_path: Path) -> None:
    names = [content(tmp_path, bytes(size)) for size in (200, 300)]
    blobs = Blobs(100, 60.0, tmp_path)
    assert await blobs.missing([*names, name_of(b"none")]) == [name_of(b"none")], "although neither would fit into memory"
    with pytest.raises(Fault) as caught:
        await blobs.pin(names)
    assert reason(caught.value) is Reason.TOO_LARGE


async def test_what_is_loaded_counts(tmp_path: Path) -> None:
    name = content(tmp_path, bytes(70))
    blobs = Blobs(100, 60.0, tmp_path)
    await put(blobs, bytes(40))
    with pytest.raises(Fault) as caught:
        await blobs.pin([name])
    assert reason(caught.value) is Reason.OVER_QUOTA
    blobs = Blobs(100, 60.0, tmp_path)
    await asyncio.gather(blobs.pin([name]), blobs.pin([name]))
    assert blobs.find(name).pins == 2
    with pytest.raises(Fault):
        await put(blobs, bytes(31))
    await put(blobs, bytes(30))


async def test_a_damaged_file_is_missing_and_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = content(tmp_path, b"as it was")
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"as it is!")
    blobs = Blobs(100, 60.0, tmp_path)
    with pytest.raises(Fault) as caught:
        await blobs.pin([name])
    assert reason(caught.value) is Reason.BLOB_NOT_FOUND
    assert f"{file} is damaged" in caplog.text
    assert await blobs.missing([name]) == [name]
    await put(blobs, bytes(100))


async def test_loading_does_not_hold_up_the_loop(tmp_path: Path) -> None:
    name = content(tmp_path, np.random.default_rng(0).bytes(64 * MIB))
    blobs = Blobs(100 * MIB, 60.0, tmp_path)
    started = last = time.monotonic()
    longest = 0.0
    loading = asyncio.create_task(blobs.pin([name]))
    while not loading.done():
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    await loading
    assert longest < (time.monotonic() - started) / 2
