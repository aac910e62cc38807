"""What a primitive computes, as a function that JAX can trace.

Most primitives are called by a Python function. Others are called by compiling themselves, which traces to themselves again, and say in Python
only how they are compiled: ``jax.experimental.sparse``, ``lax.ragged_dot`` and libraries' own. Where that is by tracing a function, it is the one.
A *high* primitive of ``jax.experimental.hijax`` stands in a jaxpr only until that is compiled, and says what replaces it then; since JAX 0.11
``lax.custom_root`` is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from jax._src.interpreters import mlir
from jax.extend import core


def is_high(eqn: core.JaxprEqn) -> bool:
    """Returns whether an equation is replaced by others before it is compiled. All such share a few primitives: what they are is a parameter."""
    return bool(eqn.primitive.is_high(*(atom.aval for atom in eqn.invars), **eqn.params))


def implementation(eqn: core.JaxprEqn) -> Callable[..., Any]:
    """Returns the function behind a primitive; for one that is compiled code all through, a function that traces to the primitive itself."""
    primitive = eqn.primitive
    called: Callable[..., Any] = primitive.to_lojax if is_high(eqn) else primitive.impl
    if not (isinstance(called, partial) and called.args[:1] == (primitive,)):  # how JAX applies a primitive by compiling it
        return called
    rule: Any = getattr(mlir._lowerings.get(primitive), "rule", None)
    code = getattr(rule, "__code__", None)
    if code is None or "fun" not in code.co_freevars:  # mlir.lower_fun closes over what it traces under this name
        return called
    found: Callable[..., Any] = dict(zip(code.co_freevars, rule.__closure__, strict=True))["fun"].cell_contents
    return found
