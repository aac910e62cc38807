"""The user's own line behind an equation. It stays on the client: graphs do not carry it."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

from jax._src import source_info_util

_OURS = {str(folder) for folder in Path(__file__).resolve().parents[:2]}
"""Where tracing and the client are. Their frames lie between a function and its user; JAX takes them for the user's."""


def user_line(source_info: Any) -> str | None:
    """Returns ``"file:line (function)"`` of the user's innermost frame, or None where JAX did not record one."""
    for frame in source_info_util.user_frames(source_info.traceback):
        if os.path.dirname(frame.file_name) not in _OURS:
            return f"{frame.file_name}:{frame.start_line} ({frame.function_name})"
    return None


def raising_line(error: BaseException) -> str | None:
    """Returns ``"file:line (function)"`` of the user's innermost frame that an exception of tracing passed through, or None if there is none."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        code = frame.f_code
        if source_info_util.is_user_filename(code.co_filename) and os.path.dirname(code.co_filename) not in _OURS:
            return f"{code.co_filename}:{line} ({code.co_qualname})"
    return None
