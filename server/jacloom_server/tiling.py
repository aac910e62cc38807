"""Cutting: seeds into tiles, tiles into the leaves that they touch, matrices into rectangles of the size of a message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from jacloom_graph.answer import Rectangle

BLOCK_BYTES: Final = 1 << 20
"""Size of a block: streams run at 0.8 to 0.9 GB/s with messages of 1 to 4 MiB, at half of that with 64 KiB or 16 MiB."""


@dataclass(frozen=True, slots=True)
class Tile:
    """A contiguous range of seeds, computed by one worker call."""

    start: int
    count: int
    width: int
    """Seeds that the kernel computes: ``count`` of them are wanted, the rest is padding."""

    def __str__(self) -> str:
        return f"seeds {self.start} to {self.start + self.count - 1}"


class Cutter:
    """Hands out all seeds, in tiles whose width may change on the way: each once, unless a tile is given back."""

    def __init__(self, total: int) -> None:
        self._ranges = [(0, total)] if total else []
        """Ranges ``(first, last + 1)`` not handed out, the next one at the end."""

    @property
    def left(self) -> int:
        """Seeds not handed out yet."""
        return sum(last - first for first, last in self._ranges)

    def take(self, width: int) -> Tile:
        """Returns the next tile, of at most ``width`` seeds. There must be some left."""
        first, last = self._ranges.pop()
        tile = Tile(first, min(width, last - first), width)
        if first + tile.count < last:
            self._ranges.append((first + tile.count, last))
        return tile

    def give_back(self, tile: Tile) -> None:
        """Takes a tile back, to be handed out anew in other pieces."""
        self._ranges.append((tile.start, tile.start + tile.count))


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a tile that belongs to one leaf."""

    leaf: int
    """Position of the leaf among those the seeds number."""
    first: int
    """First entry, counted within the leaf."""
    at: int
    """First seed, counted within the tile."""
    count: int


def segments(sizes: Sequence[int], start: int, count: int) -> list[Segment]:
    """Returns the leaves that a range of seeds touches.

    Args:
        sizes: Entries of each leaf; seeds number the entries of all leaves, one leaf after the other. Leaves without entries are fine.
        start: First seed.
        count: Number of seeds.
    """
    found, begin = [], 0
    for leaf, size in enumerate(sizes):
        first, last = max(start, begin), min(start + count, begin + size)
        if first < last:
            found.append(Segment(leaf, first - begin, first - start, last - first))
        begin += size
    return found


def rectangles(rows: int, columns: int, itemsize: int, most: int = BLOCK_BYTES) -> Iterator[Rectangle]:
    """Yields rectangles that cover a matrix once, each of at most ``most`` bytes: whole rows together, or pieces of a row where one is larger.

    A matrix without elements has none. An element larger than ``most`` travels alone.
    """
    if columns * itemsize <= most:
        step = max(1, most // max(1, columns * itemsize))
        for row in range(0, rows if columns else 0, step):
            yield Rectangle(row, min(step, rows - row), 0, columns)
        return
    step = max(1, most // itemsize)
    for row in range(rows):
        for column in range(0, columns, step):
            yield Rectangle(row, 1, column, min(step, columns - column))
