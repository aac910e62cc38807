"""Which function a word on the command line means."""

from __future__ import annotations

import re
from typing import Annotated, Final

import typer

from jacloom._client import Client
from jacloom._errors import ArgumentError, FunctionNotFoundError

_ID: Final = re.compile(r"(?:functions/)?([0-9a-f]{8,64})")
_DIGITS: Final = 64
SHORT: Final = 12
"""Digits of an id that tables show."""

_HELP = "Its id, the first 8 or more digits of it, or the name if only one function has it."
Which = Annotated[str, typer.Argument(metavar="FUNCTION", help=_HELP, show_default=False)]


def function_id(client: Client, word: str) -> str:
    """Returns the 64 hex digits of the function that a word means: an id, the beginning of one, or a display name.

    Raises:
        FunctionNotFoundError: if it means none.
        ArgumentError: if it means several.
    """
    given = _ID.fullmatch(word)
    digits = given[1] if given else None
    if digits is not None and len(digits) == _DIGITS:
        return digits
    found = [each for each in client.functions() if each.display_name == word or (digits is not None and each.id.startswith(digits))]
    if not found:
        raise FunctionNotFoundError(
            f"no function has the name {word!r}, or an id that begins with it (8 digits at least); `jacloom functions` lists what there is"
        )
    if len(found) > 1:
        shown = ", ".join(f"{each.id[:SHORT]} ({each.display_name})" for each in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ArgumentError(f"{word!r} means {len(found)} functions: {shown}{more}; give more digits of the id")
    return found[0].id
