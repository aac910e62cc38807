"""A coloured pattern as a picture."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jacloom._errors import MissingExtraError, OptionError
from jacloom._sparsity import Structure

MOST: Final = 1000
"""Pixels of the longer side, about."""
LARGEST: Final = 20
"""Pixels of the side of an entry in a small pattern."""
LEAST: Final = 20
"""Pixels of the shorter side: of a pattern with few columns and many rows, entries are no squares."""
GAP_FROM: Final = 4
"""Entries of so many pixels are kept apart by a white line."""
MARGIN: Final = 3
"""White pixels between the entries and the frame, which is one pixel wide."""
_CHUNK: Final = 1 << 22
"""Entries that are drawn at a time: what they take while they are is some forty bytes each."""

WHITE: Final = (255, 255, 255)
FRAME: Final = (110, 110, 110)
# Of Okabe and Ito, "Color Universal Design" (2008), which people with any colour vision tell apart, those that are dark enough on white.
_HUES: Final = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (60, 60, 60))
_DARK: Final = 0.55
_PALE: Final = 0.4


def _shaded(hue: tuple[int, int, int], towards: int, share: float) -> tuple[int, int, int]:
    red, green, blue = (round(part + (towards - part) * share) for part in hue)
    return red, green, blue


COLOURS: Final = (*_HUES, *(_shaded(hue, 0, 1 - _DARK) for hue in _HUES), *(_shaded(hue, 255, _PALE) for hue in _HUES))
"""Of the passes in turn: seven hues, then the same darker, then paler."""


@dataclass(frozen=True, slots=True)
class Axis:
    """How rows, or columns, become pixels."""

    block: int
    """Rows that share a pixel."""
    cells: int
    """Blocks of rows."""
    zoom: int
    """Pixels of each."""

    def spread(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Returns an image, one cell per block along its first axis, with pixels in the place of cells."""
        found = np.repeat(image, self.zoom, axis=0)
        if self.zoom >= GAP_FROM:
            found[self.zoom - 1 :: self.zoom] = 0
            return found[:-1]
        return found


def axes(rows: int, columns: int) -> tuple[Axis, Axis]:
    """Returns how the rows and the columns of a pattern become pixels: on the same scale, unless one side would be too short to see."""
    longest = max(rows, columns, 1)
    block, zoom = -(-longest // MOST), max(1, min(LARGEST, MOST // longest))
    return _axis(rows, block, zoom), _axis(columns, block, zoom)


def _axis(size: int, block: int, zoom: int) -> Axis:
    size = max(size, 1)  # of nothing, too, there is a frame
    if size * zoom < LEAST * block:
        block = max(1, size // LEAST)
        zoom = max(zoom, LEAST // -(-size // block))
    return Axis(block, -(-size // block), zoom)


def picture(structure: Structure) -> NDArray[np.uint8]:
    """Returns the picture as places in ``palette()``: shape ``(height, width)``."""
    down, across = axes(structure.sizes.rows, structure.sizes.columns)
    cells = _cells(structure, down, across)
    coloured = np.where(cells < 0, 0, 2 + cells % len(COLOURS)).astype(np.uint8)
    return np.pad(np.pad(across.spread(down.spread(coloured).T).T, MARGIN), 1, constant_values=1)


def _cells(structure: Structure, down: Axis, across: Axis) -> NDArray[np.int64]:
    """Returns for each block of entries the pass of one that is there, -1 where none is: shape ``(down.cells, across.cells)``.

    Which one is left to chance, always the same: were it the last, say, a band of many colours would have only one.
    """
    drawn = np.zeros(down.cells * across.cells, np.uint64)
    passes = structure.passes()
    for first in range(0, len(passes), _CHUNK):
        entries = np.arange(first, min(first + _CHUNK, len(passes)))
        rows = np.searchsorted(structure.pointers, entries, side="right") - 1
        places = rows // down.block * across.cells + structure.indices[entries].astype(np.int64) // across.block
        # Multiplicative hashing scatters the numbers of entries over 32 bits (Knuth, The Art of Computer Programming, 6.4).
        lots = entries.astype(np.uint64) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
        np.maximum.at(drawn, places, (lots << np.uint64(32)) | (passes[entries].astype(np.uint64) + np.uint64(1)))
    found: NDArray[np.int64] = (drawn & np.uint64(0xFFFFFFFF)).astype(np.int64).reshape(down.cells, across.cells) - 1
    return found


def palette() -> bytes:
    """Returns the colours of a picture: three bytes each."""
    return bytes(part for colour in (WHITE, FRAME, *COLOURS) for part in colour)


def png(path: str | os.PathLike[str]) -> str:
    """Returns the name of a file that a picture can be written to.

    Raises:
        MissingExtraError: if there is nothing to write pictures with.
        OptionError: if it does not end with ``.png``.
    """
    if importlib.util.find_spec("PIL") is None:
        raise MissingExtraError("drawing a pattern takes Pillow, which is not installed: pip install 'jacloom[plot]'")
    name = os.fspath(path)
    if not name.lower().endswith(".png"):
        raise OptionError(f"`plan.spy({name!r})`: the picture is a PNG, so the path must end with .png.")
    return name


def write(name: str, image: NDArray[np.uint8]) -> None:
    """Writes a picture to a file.

    Raises:
        OSError: if that is not possible.
    """
    from PIL import Image

    made = Image.fromarray(image)
    made.putpalette(palette())
    made.save(name, format="PNG")
