"""The line of the user's own code that a warning is about."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def callers_level() -> int:
    """Returns the ``stacklevel`` at which the function that asks would name the line outside this package that called it."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    return level
