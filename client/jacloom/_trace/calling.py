"""What JAX calls a primitive with when it evaluates an equation."""

from __future__ import annotations

from typing import Any

import jax
from jax.extend import core


def call_parameters(eqn: core.JaxprEqn) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Returns the functions that an equation's primitive takes before its operands, and its parameters without them."""
    found = eqn.primitive.get_bind_params(eqn.params)
    if jax.__version_info__ < (0, 9):  # since then the functions are one of the parameters
        functions, others = found
        return tuple(functions), others
    others = dict(found)
    return tuple(others.pop("subfuns", ())), others
