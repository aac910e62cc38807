"""The registry with a real clerk: what is kept, what is leased and forgotten, and what another server finds of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from integration import graphs

from jacloom_api.v1 import graph_pb2
from jacloom_graph import blobnames
from jacloom_graph.errors import Fault, Reason
from jacloom_server import shelf
from jacloom_server.blobs import Blobs
from jacloom_server.cluster import Cluster
from jacloom_server.function import Function
from jacloom_server.functions import Functions
from jacloom_server.pool import Pool
from jacloom_worker.launch import Role, Seat

MATRIX = np.arange(12.0).reshape(3, 4)


@pytest.fixture(scope="module")
async def clerk(cluster: Cluster) -> AsyncIterator[Pool]:
    made = Pool(lease=60.0, attempts=3, patience=20.0, abreast=1)
    made.seat([Seat(Role.CLERK, 0)])
    yield made
    made.close()


def sine(n: int) -> bytes:
    return graphs.serialized(graphs.sine(n))


def apart(matrix: np.ndarray) -> tuple[bytes, str]:
    """Returns the graph of a linear function that names its matrix by digest, and that name."""
    message = graph_pb2.Graph.FromString(graphs.serialized(graphs.linear(matrix)))
    message.constants[0].tensor.blob = blobnames.by_digest(hashlib.sha256(matrix.tobytes()).hexdigest())
    return message.SerializeToString(), message.constants[0].tensor.blob


async def put(blobs: Blobs, matrix: np.ndarray) -> None:
    digest = hashlib.sha256(matrix.tobytes()).hexdigest()
    with blobs.uploading(matrix.nbytes, digest) as coming:
        coming.take(matrix.tobytes())
        await blobs.keep(coming)


class Made(Functions):
    """A registry with little room, and its blobs."""

    def __init__(self, clerk: Pool, folder: Path | None = None, **bounds: Any) -> None:
        self.blobs = Blobs(bounds.pop("blob_bytes", 1 << 20), 60.0, folder and folder / "blobs")
        super().__init__(
            clerk, self.blobs, **{"most": 3, "most_bytes": 4096, "total_bytes": 1 << 20} | bounds, folder=folder and folder / "functions"
        )

    def ids(self) -> list[str]:
        return [function.id for function in self.page(0, "")[0]]


async def refusal(work: Any) -> Reason:
    with pytest.raises(Fault) as caught:
        await work
    return caught.value.reason


async def gone(functions: Functions, function: Function) -> bool:
    if function.id in functions.ids():
        return await functions.find(function.id) is not function
    assert await refusal(functions.find(function.id)) is Reason.FUNCTION_NOT_FOUND
    return True


async def test_leased_functions_make_room_the_one_used_longest_ago_first(clerk: Pool) -> None:
    functions = Made(clerk)
    first, second, third = [await functions.register(sine(n)) for n in (1, 2, 3)]
    await functions.find(first.name)
    assert await functions.register(sine(2)) is second
    fourth = await functions.register(sine(4))
    assert functions.ids() == [fourth.id, second.id, first.id]
    assert await gone(functions, third)
    again = await functions.register(sine(3))
    assert again.id == third.id
    assert await gone(functions, first)


async def test_kept_functions_stay_and_fill_the_registry(clerk: Pool) -> None:
    functions = Made(clerk)
    kept = [await functions.register(sine(n), leased=False) for n in (1, 2)]
    leased = await functions.register(sine(3))
    assert await functions.register(sine(1), leased=True) is kept[0], "a kept function stays kept"
    await functions.register(sine(4))
    assert await gone(functions, leased)
    await functions.register(sine(5), leased=False)
    assert await refusal(functions.register(sine(6))) is Reason.OVER_QUOTA
    assert await refusal(functions.register(sine(6), leased=False)) is Reason.OVER_QUOTA
    await functions.delete(kept[1].name)
    last = await functions.register(sine(6))
    assert len(functions.ids()) == 3
    assert functions.ids()[0] == last.id


async def test_bytes_of_graphs_are_bounded_too(clerk: Pool) -> None:
    size = len(sine(100))
    functions = Made(clerk, most=100, most_bytes=size, total_bytes=2 * size)
    first, second = await functions.register(sine(101)), await functions.register(sine(102), leased=False)
    third = await functions.register(sine(103))
    assert functions.ids() == [third.id, second.id]
    assert await gone(functions, first)
    await functions.register(sine(103), leased=False)
    assert await refusal(functions.register(sine(104))) is Reason.OVER_QUOTA


async def test_a_leased_function_that_is_registered_again_is_kept(clerk: Pool, tmp_path: Path) -> None:
    functions = Made(clerk, tmp_path)
    leased = await functions.register(sine(1), "leased")
    assert list((tmp_path / "functions").iterdir()) == []
    kept, same = await asyncio.gather(functions.register(sine(1), "kept", leased=False), functions.register(sine(1), leased=False))
    assert kept is same is leased
    assert kept.display_name == "kept"
    for n in (2, 3, 4, 5):
        await functions.register(sine(n))
    assert not await gone(functions, kept)
    after = Made(clerk, tmp_path)
    await after.restore()
    (found,) = after.page(0, "")[0]
    assert (found.id, found.display_name, found.created, found.kept) == (kept.id, "kept", kept.created, True)


async def test_only_kept_functions_and_their_constants_outlive_the_server(clerk: Pool, tmp_path: Path) -> None:
    before = Made(clerk, tmp_path)
    (kept_graph, kept_blob), (leased_graph, leased_blob) = apart(MATRIX), apart(MATRIX + 1)
    for matrix in (MATRIX, MATRIX + 1):
        await put(before.blobs, matrix)
    kept, leased = await before.register(kept_graph, leased=False), await before.register(leased_graph)
    after = Made(clerk, tmp_path)
    assert await after.blobs.missing([kept_blob, leased_blob]) == [leased_blob]
    assert await refusal(after.find(leased.id)) is Reason.FUNCTION_NOT_FOUND
    # A call that brings its graph before the restoring has come to it does not make it a leased one.
    found = await after.register(kept_graph)
    assert (found.id, found.kept) == (kept.id, True)
    assert ray.get(found.load().constants[kept_blob]).tobytes() == MATRIX.tobytes()
    await after.delete(kept.id)
    assert [path for folder in ("blobs", "functions") for path in (tmp_path / folder).iterdir()] == []


async def test_a_constant_stays_in_the_folder_while_a_kept_function_needs_it(clerk: Pool, tmp_path: Path) -> None:
    functions = Made(clerk, tmp_path)
    await put(functions.blobs, MATRIX)
    graph, blob = apart(MATRIX)
    other = graph_pb2.Graph.FromString(graph)
    other.functions[0].nodes.add(op="sin", operands=[1])
    other.functions[0].outputs[:] = [2]
    one = await functions.register(graph, leased=False)
    two = await functions.register(other.SerializeToString(), leased=False)
    assert one.id != two.id
    await functions.delete(one.id)
    assert await Made(clerk, tmp_path).blobs.missing([blob]) == []
    await functions.delete(two.id)
    assert await Made(clerk, tmp_path).blobs.missing([blob]) == [blob]


async def test_uploads_find_the_room_of_leased_functions_but_not_of_kept_ones(clerk: Pool) -> None:
    functions = Made(clerk, most=10, blob_bytes=2 * MATRIX.nbytes)
    plain = await functions.register(sine(1))
    found = []
    for add in (1, 2):
        await put(functions.blobs, MATRIX + add)
        found.append(await functions.register(apart(MATRIX + add)[0]))
    await functions.find(found[0].id)
    await put(functions.blobs, MATRIX + 3)
    assert await gone(functions, found[1])
    assert not await gone(functions, found[0])
    assert not await gone(functions, plain), "it has no blobs to give"
    third = await functions.register(apart(MATRIX + 3)[0], leased=False)
    await functions.register(apart(MATRIX + 1)[0], leased=False)
    assert await refusal(put(functions.blobs, MATRIX + 4)) is Reason.OVER_QUOTA
    assert not await gone(functions, third)


async def test_calls_under_way_outlast_their_function(clerk: Pool) -> None:
    functions = Made(clerk, blob_bytes=MATRIX.nbytes)
    await put(functions.blobs, MATRIX)
    graph, blob = apart(MATRIX)
    function = await functions.register(graph)
    await put(functions.blobs, MATRIX + 1)
    assert await gone(functions, function)
    assert ray.get(function.load().constants[blob]).tobytes() == MATRIX.tobytes()


async def test_a_missing_constant_leaves_nothing_pinned(clerk: Pool) -> None:
    functions = Made(clerk, most=1)
    assert await refusal(functions.register(apart(MATRIX)[0])) is Reason.BLOB_NOT_FOUND
    await put(functions.blobs, MATRIX)
    await functions.register(sine(1), leased=False)
    assert await refusal(functions.register(apart(MATRIX)[0])) is Reason.OVER_QUOTA
    functions.blobs.release(apart(MATRIX)[1])
    assert await functions.blobs.missing([apart(MATRIX)[1]]) == [apart(MATRIX)[1]]


async def test_pages_go_on_after_functions_were_forgotten(clerk: Pool) -> None:
    functions = Made(clerk, most=5)
    made = [await functions.register(sine(n)) for n in range(1, 6)]
    page, token = functions.page(2, "")
    assert [function.id for function in page] == [made[4].id, made[3].id]
    await functions.delete(made[2].id)
    page, token = functions.page(1, token)
    assert [function.id for function in page] == [made[1].id]
    assert functions.page(1, token) == ([made[0]], "")
    for wrong in ("x", "-1", "9" * 40):
        with pytest.raises(Fault, match="begin again without one"):
            functions.page(1, wrong)


async def test_nobody_is_told_that_a_function_is_kept_when_it_is_not(clerk: Pool, tmp_path: Path) -> None:
    functions = Made(clerk, tmp_path)
    # What a full disk or a lost mount does.
    (tmp_path / "functions").rename(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            await functions.register(sine(1), leased=False)
    (tmp_path / "elsewhere").rename(tmp_path / "functions")
    assert not (await functions.register(sine(1))).kept
    kept = await functions.register(sine(1), leased=False)
    assert kept.kept
    assert await Made(clerk, tmp_path).find(kept.id)


async def test_a_function_that_is_deleted_while_it_is_written_is_gone(clerk: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, go_on = threading.Event(), threading.Event()

    def slowly(path: Path, data: bytes, write: Any = shelf.write_whole) -> None:
        writing.set()
        assert go_on.wait(30)
        write(path, data)

    monkeypatch.setattr(shelf, "write_whole", slowly)
    functions = Made(clerk, tmp_path)
    registering = asyncio.create_task(functions.register(sine(1), leased=False))
    await asyncio.to_thread(writing.wait, 30)
    (id_,) = functions.ids()
    # It cannot be pushed out meanwhile.
    for n in (2, 3, 4, 5):
        await functions.register(sine(n))
    assert id_ in functions.ids()
    deleting = asyncio.create_task(functions.delete(id_))
    await asyncio.sleep(0.2)
    go_on.set()
    await asyncio.gather(registering, deleting)
    assert await refusal(functions.find(id_)) is Reason.FUNCTION_NOT_FOUND
    assert list((tmp_path / "functions").iterdir()) == []


async def test_a_caller_that_gives_up_leaves_the_writing_to_end(clerk: Pool, tmp_path: Path) -> None:
    functions = Made(clerk, tmp_path)
    caller = asyncio.create_task(functions.register(sine(1), leased=False))
    await asyncio.sleep(0)
    caller.cancel()
    kept = await functions.register(sine(1), leased=False)
    assert await Made(clerk, tmp_path).find(kept.id)


async def test_what_cannot_be_restored_is_logged_and_left_alone(clerk: Pool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = Made(clerk, tmp_path, most=10)
    ids = [(await before.register(sine(n), leased=False)).id for n in range(1, 9)]
    folder = tmp_path / "functions"
    good = json.loads((folder / f"{ids[0]}.json").read_text())
    for id_, about in zip(ids[:5], ["{", "[]", json.dumps({**good, "created": "soon"}), json.dumps({"display_name": ""}), b"\xff"], strict=True):
        (folder / f"{id_}.json").write_bytes(about if isinstance(about, bytes) else about.encode())
    (folder / f"{ids[5]}.graph").write_bytes(b"no graph")
    # As after a change of the rule that gives ids.
    (folder / f"{ids[6]}.graph").write_bytes(sine(100))
    (folder / "notes.json").write_text("{}")
    files = sorted(folder.iterdir())
    after = Made(clerk, tmp_path, most=10)
    await after.restore()
    assert after.ids() == [ids[7]]
    for id_ in (*ids[:7], "notes"):
        assert id_ in caplog.text
    for id_ in (*ids[:5], ids[6]):
        assert await refusal(after.find(id_)) is Reason.FUNCTION_NOT_FOUND
    assert sorted(folder.iterdir()) == files
    # What is registered anew is kept anew, and what is deleted is gone.
    assert (await after.register(sine(1), leased=False)).id == ids[0]
    await after.delete(ids[1])
    last = Made(clerk, tmp_path, most=10)
    await last.restore()
    assert sorted(last.ids()) == sorted([ids[0], ids[7]])
    assert not (folder / f"{ids[1]}.graph").exists()


async def test_derivatives_are_asked_for_when_wanted_and_once(clerk: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    ask = clerk.ask

    async def counted(assignment: Any) -> Any:
        asked.append(assignment.label)
        return await ask(assignment)

    monkeypatch.setattr(clerk, "ask", counted)
    functions = Made(clerk)
    function = await functions.register(sine(3))
    assert asked == ["reading the graph"]
    asked.clear()
    first, second = await asyncio.gather(function.derivatives(clerk), function.derivatives(clerk))
    assert first is second is await function.derivatives(clerk)
    assert [(leaf.forward.available, leaf.reverse.available) for leaf in first.leaves] == [(True, True)]
    assert asked == ["asking for the function's derivatives"]


async def test_derivatives_that_were_not_found_out_are_asked_for_again(clerk: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    functions = Made(clerk)
    function = await functions.register(sine(4))

    async def busy(_: Any) -> Any:
        raise Fault(Reason.NO_WORKERS, "none")

    with monkeypatch.context() as patch:
        patch.setattr(clerk, "ask", busy)
        assert await refusal(function.derivatives(clerk)) is Reason.NO_WORKERS
    assert (await function.derivatives(clerk)).traces == 2


async def test_a_damaged_constant_is_uploaded_again(clerk: Pool, tmp_path: Path) -> None:
    graph, blob = apart(MATRIX)
    before = Made(clerk, tmp_path)
    await put(before.blobs, MATRIX)
    id_ = (await before.register(graph, leased=False)).id
    (file,) = (tmp_path / "blobs").iterdir()
    file.write_bytes((MATRIX + 1).tobytes())
    after = Made(clerk, tmp_path)
    await after.restore()
    assert after.ids() == []
    assert await after.blobs.missing([blob]) == [blob]
    await put(after.blobs, MATRIX)
    assert (await after.register(graph, leased=False)).id == id_
    assert file.read_bytes() == MATRIX.tobytes()
