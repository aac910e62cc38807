"""Why JAX could not trace a function, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def explain(fun: Callable[..., Any], error: Exception) -> str:
    """Returns what a user should know of an exception that tracing ended with."""
    name = getattr(fun, "__name__", repr(fun))
    first = str(error).strip().split("\n\n")[0]
    hint = _hint(error, first)
    return "\n".join([f"{name} could not be traced: {type(error).__name__}: {first[:1500]}", *([hint] if hint else [])])


def _hint(error: Exception, first: str) -> str:
    """Returns the way out, or nothing where none is known."""
    if isinstance(error, jax.errors.TracerArrayConversionError) or "only length-1 arrays can be converted" in first:
        return "A function that is not JAX's was given a traced array: use jnp.sin for np.sin or math.sin, jax.scipy for scipy, and so on."
    if isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        return (
            "How many elements a mask picks depends on values, and shapes are fixed while tracing: instead of x[x > 0] use jnp.where(x > 0, x, 0), "
            "with what the other elements should count for."
        )
    if isinstance(error, jax.errors.ConcretizationTypeError) and "size argument" in first:
        return (
            "The size of a result depends on values, and shapes are fixed while tracing: pass size=, as in jnp.nonzero(x, size=3), or use jnp.where "
            "with three arguments."
        )
    if isinstance(error, jax.errors.ConcretizationTypeError):
        return (
            "A Python branch or conversion depends on a traced value: use jnp.where or lax.cond for the branch, jnp functions in place of those of "
            "NumPy and math, or pass that argument as a Python int or bool, which is kept static."
        )
    if isinstance(error, jax.errors.TracerIntegerConversionError) or "Shapes must be" in first:
        return "An index or a size depends on a traced value: index jnp arrays, or pass that argument as a Python int, which is kept static."
    if "returned a value of type" in first:
        return "Return arrays and numbers, alone or in containers that JAX knows."
    if isinstance(error, TypeError) and "'list'" in first:
        return "A list is a container of separate numbers here, as in JAX: pass np.array([...]) for a vector."
    if "carry" in first or ("float32" in first and "float64" in first):
        return "If 32- and 64-bit values meet, give the constants the dtype of the arguments."
    return ""
