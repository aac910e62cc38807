"""The user's own line behind an equation. It stays on the client: graphs do not carry it."""

from __future__ import annotations

import inspect
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

from jax._src import source_info_util

_OURS = {str(folder) for folder in Path(__file__).resolve().parents[:2]}
"""Where tracing and the client are. Their frames lie between a function and its user; JAX takes them for the user's."""
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
"""Where packages are installed. A line of such a package says less to its user than the line that called it."""


def user_line(source_info: Any) -> str | None:
    """Returns ``"file:line (function)"`` of the user's innermost frame, or None where JAX did not record one.

    Installed packages are not the user's. JAX's frames of what a package traces by itself end within the package.
    """
    return next((line for file, line in _frames(source_info) if not _INSTALLED.search(file)), None)


def nearest_line(source_info: Any) -> str | None:
    """Returns as ``user_line`` the innermost frame that is neither JAX's nor ours, be it of an installed package."""
    return next((line for _, line in _frames(source_info)), None)


def raising_line(error: BaseException) -> str | None:
    """Returns ``"file:line (function)"`` of the innermost frame that an exception of tracing passed through, or None if there is none.

    It is the user's own frame if there is one, else that of an installed package.
    """
    frames = [(frame.f_code, line) for frame, line in reversed(list(traceback.walk_tb(error.__traceback__)))]
    lines = [(code.co_filename, f"{code.co_filename}:{line} ({code.co_qualname})") for code, line in frames if _counts(code.co_filename)]
    return next((line for file, line in [*(each for each in lines if not _INSTALLED.search(each[0])), *lines]), None)


def defining_line(function: Any) -> str | None:
    """Returns ``"file:line (function)"`` of where a user's function begins, or None if it is nobody's."""
    try:
        code = getattr(inspect.unwrap(function), "__code__", None)
    except ValueError:  # something that wraps itself
        return None
    if not isinstance(code, CodeType) or not _counts(code.co_filename):
        return None
    return f"{code.co_filename}:{code.co_firstlineno} ({code.co_qualname})"


def _frames(source_info: Any) -> Iterator[tuple[str, str]]:
    """Yields file and ``"file:line (function)"`` of each frame that is neither JAX's nor ours, the innermost first."""
    for frame in source_info_util.user_frames(source_info.traceback):
        if _counts(frame.file_name):
            yield frame.file_name, f"{frame.file_name}:{frame.start_line} ({frame.function_name})"


def _counts(file: str) -> bool:
    return source_info_util.is_user_filename(file) and os.path.dirname(file) not in _OURS
