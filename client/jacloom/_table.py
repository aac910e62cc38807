"""Tables as lines of text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Returns one line per row with its cells below those of the row before; ``right``: columns that are set flush right, by number."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        cells = zip(row, widths, strict=True)
        return "  ".join(cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(cells)).rstrip()

    return [line(row) for row in rows]
