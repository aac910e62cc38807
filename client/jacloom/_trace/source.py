"""The user's own line behind an equation. It stays on the client: graphs do not carry it."""

from __future__ import annotations

from typing import Any

from jax._src import source_info_util


def user_line(source_info: Any) -> str | None:
    """Returns ``"file:line (function)"`` of the user's frame, or None where JAX did not record one."""
    frame = source_info_util.user_frame(source_info.traceback)
    if frame is None:
        return None
    return f"{frame.file_name}:{frame.start_line} ({frame.function_name})"
