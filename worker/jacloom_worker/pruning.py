"""What is left of a jaxpr when only some of its outputs are wanted, and which of its inputs that takes."""

from __future__ import annotations

from collections.abc import Sequence

from jax.extend.core import Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


def pruned(jaxpr: Jaxpr, outputs: Sequence[bool] | None = None) -> Jaxpr:
    """Returns a jaxpr without what some outputs (default: all of them) do not depend on; its inputs stay."""
    left: Jaxpr = dce_jaxpr(jaxpr, _flags(jaxpr, outputs), instantiate=True)[0]
    return left


def needed(jaxpr: Jaxpr, outputs: Sequence[bool] | None = None) -> list[bool]:
    """Returns for each input whether some outputs (default: all of them) depend on it."""
    return list(dce_jaxpr(jaxpr, _flags(jaxpr, outputs))[1])


def _flags(jaxpr: Jaxpr, outputs: Sequence[bool] | None) -> list[bool]:
    return [True] * len(jaxpr.outvars) if outputs is None else list(outputs)
