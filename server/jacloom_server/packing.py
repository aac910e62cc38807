"""Blocks of an answer on their way into messages."""

from __future__ import annotations

import time

from jacloom_server.reply import Block, Header, Progress, Reply, Summary
from jacloom_server.tiling import BLOCK_BYTES


class Packing:
    """Collects blocks until they fill a message. The header goes with the first."""

    def __init__(self, header: Header) -> None:
        self._header: Header | None = header
        self._blocks: list[Block] = []
        self._size = 0
        self._since = time.perf_counter()

    @property
    def since(self) -> float:
        """When the last message was made, by the clock of ``time.perf_counter``."""
        return self._since

    def add(self, block: Block) -> bool:
        """Takes a block; returns whether there is enough for a message."""
        self._blocks.append(block)
        self._size += len(block.data)
        return self._size >= BLOCK_BYTES

    def message(self, progress: Progress | None = None, summary: Summary | None = None) -> Reply:
        """Returns a message with all that was taken since the last."""
        made = Reply(self._header, self._blocks, progress, summary)
        self._header, self._blocks, self._size, self._since = None, [], 0, time.perf_counter()
        return made
