"""How commands speak: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jacloom._errors import JacloomError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option that all commands have."""


def print_json(value: Any) -> None:
    """Prints a value as one JSON document."""
    json.dump(value, sys.stdout, indent=2)
    print()


_UNBOUNDED: Final = 1 << 16


def print_table(columns: list[str], rows: list[list[str]], *, right: frozenset[str] = frozenset(), cut: frozenset[str] | None = None) -> None:
    """Prints a table as wide as the terminal, or as it needs to be where there is none.

    Args:
        columns: Their heads.
        rows: One cell per column.
        right: Columns that are set flush right.
        cut: Columns that give way where the terminal is too narrow, so that each row has one line and the other columns can be copied. None: all
            are folded instead.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # Rich narrows columns that may wrap before all others; their cells do not wrap, so it cuts these.
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=cut is not None and column not in cut)
    for row in rows:
        table.add_row(*(_cut(cell) if cut and column in cut else cell for column, cell in zip(columns, row, strict=True)))
    # What reads from a pipe goes by lines, and has no width. Names of the user's are no markup.
    Console(markup=False, width=None if Console().is_terminal else _UNBOUNDED).print(table)


def _cut(cell: str) -> Text:
    return Text(cell, no_wrap=True, overflow="ellipsis")


def print_error(error: JacloomError, *, as_json: bool) -> None:
    """Prints an error: on standard error for people, as the document on standard output for programs."""
    if as_json:
        print_json({"error": {"type": type(error).__name__, "reason": error.reason.value if error.reason else None, "message": str(error)}})
    else:
        print(f"jacloom: {error}", file=sys.stderr)
