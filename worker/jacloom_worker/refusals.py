"""What JAX, and libraries on it, say where a function has no derivative in some mode."""

from __future__ import annotations

import re

LOOP = "Reverse-mode differentiation does not work for lax.while_loop"
"""What JAX says of reverse mode through a loop of unknown length."""

_TEXTS = re.compile(
    r"can't apply forward-mode|Reverse-mode differentiation does not work|[Dd]ifferentiation rule .* not implemented|"
    r"[Tt]ranspose rule .* not implemented|transpose_solve required|No [JV][JV]P defined|gradient with respect to .* not supported|"
    r"not differentiable|does not support (forward|reverse)-mode|[Ff]orward-mode autodiff|cannot be (forward|reverse)-mode|"
    r"\b([Dd]erivatives?|[Gg]radients?|[JV][JV]P|transpose)\b.* (not|only) (defined|implemented|valid)",
)
"""The classes of these errors differ each time, so the text has to do. The last line is for operations with a derivative in some cases only: of
``eig`` the eigenvectors, of a full ``svd``, of a part of ``eigh``, of ``scatter_mul`` with repeated indices."""


def refuses(text: str) -> bool:
    """Returns whether the text of an error says that there is no derivative."""
    return _TEXTS.search(text) is not None
