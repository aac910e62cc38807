"""JAX's primitives by the names of the op table."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache

from jax.extend.core import Primitive

_MODULES = (
    "jax.extend.core.primitives",
    # Primitives that JAX makes in user programs but does not list publicly. A module that a JAX version lacks brings no op.
    "jax._src.lax.lax",
    "jax._src.lax.slicing",
    "jax._src.lax.linalg",
    "jax._src.lax.control_flow.conditionals",
    "jax._src.prng",
    "jax._src.random",
    "jax._src.random.prng",
)


@cache
def primitives() -> Mapping[str, Primitive]:
    """Returns JAX's primitives by name, with ``_`` for ``-``."""
    found: dict[str, Primitive] = {}
    for name in _MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        for value in vars(module).values():
            if isinstance(value, Primitive):
                found.setdefault(value.name.replace("-", "_"), value)
    return found
