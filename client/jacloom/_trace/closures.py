"""Values of the trace around it that a primitive's own rule closes over: they become operands, as functions of a graph close over nothing.

JAX's ``linear_call`` is an example: the transpose of its transpose is the function itself again, with the constants that this had where it stood.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.extend import core


def closed_over(programs: Iterable[core.ClosedJaxpr]) -> tuple[Any, ...]:
    """Returns the traced values among the constants of some programs, each once."""
    found = {id(value): value for program in programs for value in program.consts if isinstance(value, jax.core.Tracer)}
    return tuple(found.values())


def variable(tracer: Any) -> Any:
    """Returns the variable that a traced value is in the program where it was traced, or None."""
    return getattr(tracer, "val", None)


def with_inputs(closed: core.ClosedJaxpr, values: Sequence[Any], at: int) -> core.ClosedJaxpr:
    """Returns a program that takes traced values as inputs from number ``at`` on, whether it closes over them or not."""
    jaxpr = closed.jaxpr
    place = {id(value): index for index, value in enumerate(values)}
    kept = [(var, value) for var, value in zip(jaxpr.constvars, closed.consts, strict=True) if id(value) not in place]
    # Variables stay the objects that they are: a rule within may close over them.
    taken: dict[int, Any] = {place[id(value)]: var for var, value in zip(jaxpr.constvars, closed.consts, strict=True) if id(value) in place}
    inputs = [taken.get(index) or type(jaxpr.invars[0])(jax.typeof(value)) for index, value in enumerate(values)]
    opened = jaxpr.replace(
        constvars=[var for var, _ in kept],
        invars=[*jaxpr.invars[:at], *inputs, *jaxpr.invars[at:]],
        debug_info=jaxpr.debug_info.with_unknown_names(),
    )
    return core.ClosedJaxpr(opened, [value for _, value in kept])
