"""Chunks held against what was recorded of them."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit import landed

from jacloom_graph.errors import Fault, Reason
from jacloom_server.jobs import verifying
from jacloom_server.jobs.states import UnitRow, UnitState
from jacloom_server.jobs.verifying import Verified, verify
from jacloom_worker.unit import Chunk

CONTENT = {"value/c/0": b"", "value/c/1": b"0123456789", "jacobian/c/1/0/0": bytes(range(256)) * 5000}
"""One is empty, and one takes more than a piece to read."""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for path, data in CONTENT.items():
        target = tmp_path / "out" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return tmp_path / "out"


def row(number: int, *paths: str) -> UnitRow:
    chunks = tuple(landed.chunk(path, CONTENT[path]) for path in paths)
    return UnitRow(number, UnitState.COMMITTED, 0, "", "", np.ones(2, bool), chunks)


ROWS = [row(4, "value/c/0"), row(2, "value/c/1", "jacobian/c/1/0/0"), UnitRow(7, UnitState.FAILED, 3, "POISONED", "m", None, ())]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 16
    path.write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def test_chunks_that_are_as_they_were_are_not_damaged(store: Path) -> None:
    assert verify(store, ROWS) == Verified(3, ())
    assert verify(store, iter([])) == Verified(0, ())


@pytest.mark.parametrize("damage", [flip, truncate, lengthen, Path.unlink, become_a_folder])
@pytest.mark.parametrize("path", ["value/c/1", "jacobian/c/1/0/0"])
def test_damage_is_found(store: Path, damage: Callable[[Path], None], path: str) -> None:
    damage(store / path)
    assert verify(store, ROWS) == Verified(3, (2,))


def test_an_empty_chunk_can_be_damaged_too(store: Path) -> None:
    lengthen(store / "value" / "c" / "0")
    flip(store / "value" / "c" / "1")
    assert verify(store, ROWS) == Verified(3, (4, 2))


def test_what_cannot_be_read_is_damaged_only_if_the_disk_has_lost_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opening(number: int) -> Callable[..., Any]:
        def failed(path: Path, mode: str) -> None:
            raise OSError(number, os.strerror(number))

        return failed

    monkeypatch.setattr(Path, "open", opening(errno.EIO))
    assert verify(store, ROWS) == Verified(3, (4, 2))
    monkeypatch.setattr(Path, "open", opening(errno.EACCES))
    with pytest.RaisesExc(Fault, match=r"value/c/0 in .*: Permission denied", check=lambda fault: fault.reason is Reason.STORE_UNAVAILABLE):
        verify(store, ROWS)


def test_a_group_that_is_not_there_is_no_damage(store: Path) -> None:
    store.rename(store.with_name("elsewhere"))
    with pytest.RaisesExc(Fault, match="mount its file system", check=lambda fault: fault.reason is Reason.STORE_UNAVAILABLE):
        verify(store, ROWS)


def test_no_chunk_is_in_memory_as_a_whole(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = []
    extend = zlib.crc32

    def extended(piece: bytes, checksum: int) -> int:
        pieces.append(len(piece))
        return extend(piece, checksum)

    monkeypatch.setattr(verifying.zlib, "crc32", extended)
    assert verify(store, ROWS).damaged == ()
    assert (max(pieces), sum(pieces)) == (1 << 20, sum(map(len, CONTENT.values())))


def test_a_wrong_checksum_alone_is_found(store: Path) -> None:
    good = landed.chunk("value/c/1", CONTENT["value/c/1"])
    wrong = UnitRow(1, UnitState.COMMITTED, 0, "", "", np.ones(1, bool), (Chunk(good.path, good.nbytes, good.checksum ^ 1),))
    assert verify(store, [wrong]) == Verified(1, (1,))
