"""Loops of unknown length with a reverse derivative, in bounded memory.

JAX differentiates a ``while`` forward only: reverse mode needs the state before every step, and nobody knows how many there will be. Here the
forward pass counts the steps, and the reverse pass goes back through them with a fixed number of checkpoints, computing the states between
them again (see ``revolve``). The memory does not depend on the number of steps; up to ``slots`` steps each is repeated once, up to about
``slots^2 / 2`` at most twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun

from jacloom_worker import revolve
from jacloom_worker.directions import as_array

CHECKPOINT_BYTES = 4 << 20
"""Most memory for the checkpoints of one loop, unless the least number of slots needs more."""
_MOST_SLOTS = 64
"""More would repeat fewer steps of long loops, and cost short ones their making: a loop of a few steps may run thousands of times within another."""

Leaves = Sequence[Any]
Going = Callable[[Sequence[Any], Sequence[Any]], Any]
"""``(constants, carry) -> scalar bool``: whether there is another step."""
Step = Callable[[Sequence[Any], Sequence[Any]], Sequence[Any]]
"""``(constants, carry) -> carry``, of the same types."""


def while_loop(going: Going, step: Step, reversible: Step, constants: Leaves, carry: Leaves) -> list[Any]:
    """Returns what ``lax.while_loop`` returns, and can be differentiated in reverse, and forward over reverse; not forward alone.

    Args:
        going: Whether the loop goes on. May not close over traced values; neither may the steps.
        step: One step, as it is run; for second derivatives it is differentiated forward.
        reversible: One step, as it is differentiated in reverse: loops within it are of the same kind as this.
        constants: Arrays that all of them read.
        carry: The arrays that the loop starts with.
    """
    carry = [_strong(leaf) for leaf in carry]
    body = _traced(step, constants, carry)

    @jax.custom_vjp
    def loop(constants: list[Any], carry: list[Any]) -> list[Any]:
        final: list[Any] = lax.while_loop(lambda carry: going(constants, carry), lambda carry: _run(body, constants, carry), carry)
        return final

    def forward(constants: list[Any], carry: list[Any]) -> tuple[list[Any], Any]:
        given, start = [leaf.value for leaf in constants], [leaf.value for leaf in carry]

        def counted(state: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
            return state[0] + 1, _run(body, given, state[1])

        count, final = lax.while_loop(lambda state: going(given, state[1]), counted, (jnp.int32(0), start))
        # Residuals hold arrays only, so what is known while tracing is told by their structure: None or an empty tuple.
        marks = [() if leaf.perturbed else None for leaf in (*constants, *carry)]
        return list(final), (given, start, count, marks)

    def backward(residuals: Any, cotangents: list[Any]) -> tuple[list[Any], list[Any]]:
        given, start, count, marks = residuals
        flags = [mark is not None for mark in marks]
        return _Reversal(body, _traced(reversible, given, start), given, start, flags[: len(given)], flags[len(given) :]).run(count, cotangents)

    loop.defvjp(forward, backward, symbolic_zeros=True)
    return loop(list(constants), carry)


class _State(NamedTuple):
    """How far the way back has come, as its loop carries it. Numbers are scalar int32 and count steps from 0, the first of the loop.

    The next move is a step ahead, of ``carry``, until ``step`` is ``last``; then one back through that step. Checkpoints lie in slots ``0 .. top``,
    the newest at the end, each before a later step than the one below.
    """

    step: jax.Array
    """The step that ``carry`` is before."""
    last: jax.Array
    """The step to go back through next; -1 at the end."""
    top: jax.Array
    """The slot of the newest checkpoint."""
    place: jax.Array
    """The step before which the next checkpoint is placed; one beyond ``last`` for none."""
    carry: list[Any]
    """One array per carry of the loop, of its type."""
    cotangents: list[Any]
    """Of the carries that have one, after step ``last``; each like its carry."""
    sums: list[Any]
    """Cotangents of the constants that have one, of the steps after ``last``; each like its constant."""
    held: list[Any]
    """The checkpoints: ``(slots + 1, *shape)`` per carry. The last slot takes what is not to be kept: a branch around the write would copy all."""
    at: jax.Array
    """The steps that the checkpoints are before, ``(slots + 1,)`` int32."""


@dataclass(frozen=True)
class _Reversal:
    """A loop on its way back."""

    body: ClosedJaxpr
    """``(constants.., carry..) -> carry``, to be run."""
    reversible: ClosedJaxpr
    """The same, to be differentiated."""
    constants: list[Any]
    start: list[Any]
    perturbed_constants: list[bool]
    perturbed_start: list[bool]

    @cached_property
    def active_constants(self) -> list[int]:
        """Constants that have a cotangent."""
        return [index for index, (flag, leaf) in enumerate(zip(self.perturbed_constants, self.constants, strict=True)) if flag and _inexact(leaf)]

    @cached_property
    def active(self) -> list[int]:
        """Carries that have a cotangent, after as many steps as it takes."""
        flags = self.perturbed_start
        while True:
            reached = _reached(self.body.jaxpr, (*self.perturbed_constants, *flags))
            grown = [before or after for before, after in zip(flags, reached, strict=True)]
            if grown == flags:
                return [index for index, (flag, leaf) in enumerate(zip(flags, self.start, strict=True)) if flag and _inexact(leaf)]
            flags = grown

    @cached_property
    def slots(self) -> int:
        """Checkpoints that are held at once."""
        nbytes = sum(leaf.size * leaf.dtype.itemsize for leaf in self.start)
        return int(np.clip(CHECKPOINT_BYTES // max(1, nbytes), revolve.LEAST_SLOTS, _MOST_SLOTS))

    def run(self, count: Any, cotangents: list[Any]) -> tuple[list[Any], list[Any]]:
        """Returns the cotangents of constants and start, None where there is none.

        Args:
            count: How many steps the loop took, scalar int32.
            cotangents: One per carry, of the loop's results.
        """
        given = [as_array(cotangents[index]) for index in self.active]
        sums = [jnp.zeros_like(self.constants[index]) for index in self.active_constants]
        held = [jnp.broadcast_to(leaf, (self.slots + 1, *leaf.shape)) for leaf in self.start]
        at = jnp.zeros(self.slots + 1, jnp.int32)
        zero = jnp.int32(0)
        state = _State(zero, count - 1, zero, self._next(zero, count - 1, zero), self.start, given, sums, held, at)
        end = lax.while_loop(lambda state: state.last >= 0, self._move, state)
        of_constants, of_start = dict(zip(self.active_constants, end.sums, strict=True)), dict(zip(self.active, end.cotangents, strict=True))
        return [of_constants.get(index) for index in range(len(self.constants))], [of_start.get(index) for index in range(len(self.start))]

    def _move(self, state: _State) -> _State:
        """Returns the state after one move: a step ahead from the last checkpoint, or, where the step to be reversed is reached, back through it."""
        step, last, top, place, carry, cotangents, sums, held, at = state
        back = step == last
        top = jnp.where(back & (at[top] == last), jnp.maximum(top - 1, 0), top)
        restored = [lax.dynamic_index_in_dim(leaf, top, keepdims=False) for leaf in held]
        carry, cotangents, sums = lax.cond(
            back,
            lambda: (restored, *self._pulled(carry, cotangents, sums)),
            lambda: (_run(self.body, self.constants, carry), cotangents, sums),
        )
        last = jnp.where(back, last - 1, last)
        step = jnp.where(back, at[top], step + 1)
        placed = ~back & (step == place)
        top = jnp.where(placed, top + 1, top)
        slot = jnp.where(placed, top, self.slots)
        held = [lax.dynamic_update_index_in_dim(leaf, new, slot, 0) for leaf, new in zip(held, carry, strict=True)]
        at = at.at[slot].set(step)
        place = jnp.where(back | placed, self._next(step, last, top), place)
        return _State(step, last, top, place, carry, cotangents, sums, held, at)

    def _next(self, step: Any, last: Any, top: Any) -> Any:
        """Returns the step before which the next checkpoint is placed; one beyond ``last`` for none."""
        length = last + 1 - step
        return step + revolve.split(length, self.slots - top, self.slots)

    def _pulled(self, carry: list[Any], cotangents: list[Any], sums: list[Any]) -> tuple[list[Any], list[Any]]:
        """Returns the cotangents before a step from those after it, and the sums with what the step adds to them."""

        def stepped(constants: list[Any], active: list[Any]) -> list[Any]:
            results = _run(self.reversible, _replaced(self.constants, self.active_constants, constants), _replaced(carry, self.active, active))
            return [results[index] for index in self.active]

        _, pullback = jax.vjp(stepped, [self.constants[index] for index in self.active_constants], [carry[index] for index in self.active])
        of_constants, before = pullback(cotangents)
        return before, [total + part for total, part in zip(sums, of_constants, strict=True)]


def _traced(step: Step, constants: Leaves, carry: Leaves) -> ClosedJaxpr:
    return jax.make_jaxpr(lambda constants, carry: list(step(constants, carry)))(list(constants), list(carry))


def _run(body: ClosedJaxpr, constants: Leaves, carry: Leaves) -> list[Any]:
    return list(jaxpr_as_fun(body)(*constants, *carry))


def _replaced(leaves: Leaves, indices: Sequence[int], values: Leaves) -> list[Any]:
    replaced = list(leaves)
    for index, value in zip(indices, values, strict=True):
        replaced[index] = value
    return replaced


def _reached(jaxpr: Jaxpr, flags: Sequence[bool]) -> list[bool]:
    """Returns which outputs of a jaxpr a tangent may reach: each operation is taken to depend on all its operands."""
    reached = {variable for variable, flag in zip(jaxpr.invars, flags, strict=True) if flag and _inexact(variable.aval)}
    for eqn in jaxpr.eqns:
        if any(not isinstance(operand, Literal) and operand in reached for operand in eqn.invars):
            reached.update(variable for variable in eqn.outvars if _inexact(variable.aval))
    return [not isinstance(atom, Literal) and atom in reached for atom in jaxpr.outvars]


def _inexact(value: Any) -> bool:
    return bool(jax.dtypes.issubdtype(value.dtype, np.inexact))


def _strong(leaf: Any) -> Any:
    """Returns a carry without the weak type that it may have before the first step and not after it."""
    leaf = jnp.asarray(leaf)
    return lax.convert_element_type(leaf, leaf.dtype) if jax.typeof(leaf).weak_type else leaf
