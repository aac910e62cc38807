"""How commands speak: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from jacloom._errors import JacloomError

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
"""The option that all commands have."""


def print_json(value: Any) -> None:
    """Prints a value as one JSON document."""
    json.dump(value, sys.stdout, indent=2)
    print()


def print_table(columns: list[str], rows: list[list[str]], *, right: frozenset[str] = frozenset(), whole: frozenset[str] = frozenset()) -> None:
    """Prints a table; the columns named in ``right`` are set flush right, those in ``whole`` are never broken, so that they can be copied."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, column in enumerate(columns):
        least = max((len(row[at]) for row in rows), default=0) if column in whole else None
        table.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in whole, min_width=least)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_error(error: JacloomError, *, as_json: bool) -> None:
    """Prints an error: on standard error for people, as the document on standard output for programs."""
    if as_json:
        print_json({"error": {"type": type(error).__name__, "reason": error.reason.value if error.reason else None, "message": str(error)}})
    else:
        print(f"jacloom: {error}", file=sys.stderr)
