"""Blocks on their way into messages."""

from __future__ import annotations

from jacloom_server.packing import Packing
from jacloom_server.plan import empty
from jacloom_server.reply import Block, Header, Summary
from jacloom_server.tiling import BLOCK_BYTES

HEADER = Header("functions/0", empty(), ())


def block(size: int) -> Block:
    return Block(0, 0, 1, 0, size, bytes(size))


def test_blocks_fill_messages_and_the_header_is_in_the_first() -> None:
    packing, summary = Packing(HEADER), Summary(0, 0, 0, 0, {}, 0)
    half, more = block(BLOCK_BYTES // 2), block(BLOCK_BYTES - BLOCK_BYTES // 2)
    assert [packing.add(half), packing.add(more)] == [False, True]
    first = packing.message()
    assert (first.header, list(first.blocks), first.summary) == (HEADER, [half, more], None)
    assert not packing.add(half)
    last = packing.message(summary=summary)
    assert (last.header, list(last.blocks), last.summary) == (None, [half], summary)


def test_a_message_starts_the_clock_anew() -> None:
    packing = Packing(HEADER)
    before = packing.since
    packing.message()
    assert packing.since > before
