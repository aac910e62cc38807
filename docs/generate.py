"""Writes ``docs/ops.md``, the reference of the op table, from the table; ``--check`` fails where the page is out of date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from jacloom_graph.attrs import REQUIRED, AttrSpec
from jacloom_graph.ops import FAMILIES, Op
from jacloom_graph.types import OPSET

PAGE = Path(__file__).with_name("ops.md")
HEAD = f"""# The operations of a graph

Written by `docs/generate.py` from the op table in `proto/jacloom_graph/ops`, version {OPSET}; do not edit.

A node names an op, its operands and its attributes. An attribute that is left out has its default; *required* ones have none. *Derivative zero*
marks ops that are constant almost everywhere.
"""


def page() -> str:
    """Returns the whole page."""
    return "\n".join([HEAD, *(line for family, rows in FAMILIES.items() for line in section(family, rows))])


def section(family: str, rows: tuple[Op, ...]) -> Iterator[str]:
    """Yields the lines of one family."""
    yield f"## {family.capitalize()}"
    yield ""
    yield "| op | operands | attributes | what it computes |"
    yield "|---|---|---|---|"
    for op in rows:
        doc = op.doc + (" *Derivative zero.*" if op.zero_derivative else "")
        yield f"| `{op.name}` | {operands(op)} | {'<br>'.join(map(attribute, op.attrs))} | {cell(doc)} |"
    yield ""


def operands(op: Op) -> str:
    """Returns the number of operands, or its bounds."""
    least, most = op.arity
    if most is None:
        return f"{least} or more" if least else "any"
    return str(least) if least == most else f"{least} to {most}"


def attribute(spec: AttrSpec) -> str:
    """Returns one attribute: its name, kind or members, and default."""
    kind = " ".join(f"`{member}`" for member in spec.members) if spec.members else spec.kind.value
    match spec.default:
        case default if default is REQUIRED:
            ending = "required"
        case None:
            ending = "optional"
        case str(text):
            ending = f"default `{text}`" if text else "default empty"
        case tuple(items):
            ending = f"default `{list(items)}`"
        case value:
            ending = f"default {str(value).lower()}"
    return cell(f"`{spec.name}`: {kind}, {ending}")


def cell(text: str) -> str:
    """Returns text that can stand in a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Returns the exit status of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/ops.md: out of date; run python docs/generate.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
