"""Tangents and cotangents as JAX hands them to custom rules: arrays, or zeros that are only spoken of."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero


def as_array(direction: Any) -> Any:
    """Returns a tangent or cotangent as an array, also where it is a symbolic zero."""
    if isinstance(direction, SymbolicZero):
        aval: Any = direction.aval
        return jnp.zeros(aval.shape, aval.dtype)
    return direction
