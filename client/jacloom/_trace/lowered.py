"""What a primitive computes, as a function that JAX can trace.

Most primitives are called by a Python function. Others are called by compiling themselves, which traces to themselves again, and say in Python
only how they are compiled: ``jax.experimental.sparse``, ``lax.ragged_dot`` and libraries' own. Where that is by tracing a function, it is the one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jax._src.interpreters import mlir
from jax.extend import core


def implementation(primitive: core.Primitive) -> Callable[..., Any]:
    """Returns the function behind a primitive; for one that is compiled code all through, a function that traces to the primitive itself."""
    called: Callable[..., Any] = primitive.impl
    if not (isinstance(called, partial) and called.args[:1] == (primitive,)):  # how JAX applies a primitive by compiling it
        return called
    rule: Any = getattr(mlir._lowerings.get(primitive), "rule", None)
    code = getattr(rule, "__code__", None)
    if code is None or "fun" not in code.co_freevars:  # mlir.lower_fun closes over what it traces under this name
        return called
    found: Callable[..., Any] = dict(zip(code.co_freevars, rule.__closure__, strict=True))["fun"].cell_contents
    return found
