"""One computation at several points at once, as a function that JAX can compile.

The numbers are those of one point after the other, to rounding: what a point gives does not depend on which others it is computed with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from jacloom_graph.types import Type
from jacloom_worker.infer import abstract, struct
from jacloom_worker.modes import equations
from jacloom_worker.pruning import pruned

_BATCHED_KEYS: Final = "key<fry>"
"""The keys that draw the same numbers in a batch as alone. Of others, JAX draws all of a batch's numbers with its first key."""
_GENERATOR: Final = "rng_bit_generator"
"""What draws so."""


def repeated(type_: Type, points: int) -> Type:
    """Returns the type of several values of one type along a further first axis."""
    return replace(type_, shape=(points, *type_.shape))


def several(call: Callable[..., list[jax.Array]], arguments: Sequence[Type], points: int, varying: Sequence[int]) -> Callable[..., list[jax.Array]]:
    """Returns a computation at several points at once.

    Args:
        call: ``(constants, *arguments) -> results``, of one point.
        arguments: Types of the arguments of one point.
        points: How many points.
        varying: The arguments, by index, that have a further first axis; the others are the same for all points. All results have that axis.
    """

    def at_all(constants: Sequence[Any], *given: jax.Array) -> list[jax.Array]:
        # Traced for one point first: what nothing comes of must not be batched, because JAX refuses some of it; see ``pruning.without_unused``.
        closed = jax.make_jaxpr(call)(abstract(constants), *map(struct, arguments))
        one = jaxpr_as_fun(ClosedJaxpr(pruned(closed.jaxpr), closed.consts))

        def at(mine: Sequence[jax.Array]) -> list[jax.Array]:
            chosen = dict(zip(varying, mine, strict=True))
            return list(one(*constants, *(chosen.get(index, argument) for index, argument in enumerate(given))))

        own = [given[index] for index in varying]
        if _draws_apart(closed.jaxpr):
            results: list[jax.Array] = jax.lax.map(at, own)
            return results
        return list(jax.vmap(at, axis_size=points)(own))

    return at_all


def _draws_apart(jaxpr: Jaxpr) -> bool:
    """Returns whether a computation draws random numbers that would be others in a batch."""
    for eqn in equations(jaxpr, set()):
        dtypes: list[Any] = [getattr(value.aval, "dtype", None) for value in (*eqn.invars, *eqn.outvars)]
        keys = [dtype for dtype in dtypes if dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)]
        if eqn.primitive.name == _GENERATOR or any(str(dtype) != _BATCHED_KEYS for dtype in keys):
            return True
    return False
