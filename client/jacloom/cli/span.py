"""Lengths of time as people write them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from jacloom._errors import OptionError

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_UNITS: Final = {"": "seconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def span(option: str, text: str) -> timedelta:
    """Returns the time that ``"90s"``, ``"30m"``, ``"8h"`` or ``"2d"`` is; a number alone counts seconds.

    Raises:
        OptionError: if it is none, or not a positive one. The text names the option.
    """
    found = _SPAN.fullmatch(text)
    try:
        length = timedelta(**{_UNITS[found[2]]: float(found[1])}) if found else timedelta()
    except OverflowError:
        length = timedelta()
    if not length:
        raise OptionError(f"`{option} {text}`: expected a time such as 90s, 30m, 8h or 2d.")
    return length
