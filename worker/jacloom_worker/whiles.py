"""``while`` loops: as JAX's own where nothing is differentiated in reverse, else as something that can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from jacloom_worker import checkpointed
from jacloom_worker.modes import equations
from jacloom_worker.pruning import needed, pruned
from jacloom_worker.rules import Functions

SCAN_BYTES = 64 << 20
"""A loop whose number of steps is known becomes a scan if the states of all steps take no more: it keeps them for its way back."""
_MOST_COUNTED, _MOST_ELEMENTS = 1 << 16, 64
"""Steps that are counted ahead at most, and elements of the largest value that is read for it: counting is done while tracing."""

Leaves = Sequence[Any]


@dataclass(frozen=True)
class Loop:
    """A ``while`` of a graph with its functions, apart from the values it runs on.

    Constants are those of the program (``large``), of the test and of the body, one after the other. A test with axes stands for a batch of loops
    in one: each goes on by its own predicate, until none does.
    """

    functions: Functions
    reverse: bool
    """Whether loops within the body must have a reverse derivative."""
    test: int
    body: int
    large: int
    """How many of the constants are the program's."""
    of_test: int
    """How many are the test's."""

    def alive(self, constants: Leaves, carry: Leaves) -> Any:
        """Returns the predicate as the graph has it."""
        large, of_test, _ = self._split(constants)
        return jnp.asarray(self.functions.apart(large, reverse=False).run(self.test, [*of_test, *carry])[0])

    def going(self, constants: Leaves, carry: Leaves) -> Any:
        """Returns whether any loop of the batch goes on."""
        return self.alive(constants, carry).any()

    def step(self, constants: Leaves, carry: Leaves) -> list[Any]:
        """Returns the carry after one step."""
        large, _, of_body = self._split(constants)
        return list(self.functions.apart(large, reverse=self.reverse).run(self.body, [*of_body, *carry]))

    def step_alive(self, constants: Leaves, carry: Leaves) -> list[Any]:
        """Returns the carry after one step of those loops of the batch that go on."""
        return _chosen(self.alive(constants, carry), self.step(constants, carry), carry)

    def step_alive_reversibly(self, constants: Leaves, carry: Leaves) -> list[Any]:
        """As ``step_alive``, over a carry followed by what the last steps started from, and by which loops have taken any.

        Loops that have ended are stepped too, and what comes of it is not chosen; but in reverse a zero cotangent times an infinite derivative
        would reach all the others through the constants. So they start from where they still went on: there the step is defined.
        """
        half = len(carry) // 2
        current, before = carry[:half], [lax.stop_gradient(leaf) for leaf in carry[half:-1]]
        alive, gone_on = self.alive(constants, current), carry[-1]
        # Where a loop never went on, the place of another must do: there is one, or there would be no step.
        flat = alive.reshape(-1)
        other = [lax.dynamic_index_in_dim(leaf.reshape(flat.size, *leaf.shape[alive.ndim :]), jnp.argmax(flat), keepdims=False) for leaf in current]
        other = [lax.stop_gradient(jnp.broadcast_to(leaf, place.shape)) for leaf, place in zip(other, current, strict=True)]
        origin = _chosen(alive, current, _chosen(gone_on, before, other))
        kept = [lax.stop_gradient(leaf) for leaf in origin]
        return [*_chosen(alive, self.step(constants, origin), current), *kept, gone_on | alive]

    def _split(self, constants: Leaves) -> tuple[tuple[Any, ...], Leaves, Leaves]:
        end = self.large + self.of_test
        return tuple(constants[: self.large]), constants[self.large : end], constants[end:]


def run(loop: Loop, constants: Leaves, carry: Leaves, *, reverse: bool) -> list[Any]:
    """Returns the carry when the loop has ended.

    Args:
        loop: The loop.
        constants: Its constants.
        carry: What it starts with.
        reverse: Whether it must have a reverse derivative; it may then have no forward derivative of its own.
    """
    single = jax.eval_shape(loop.alive, constants, carry).shape == ()
    if not reverse:
        step = loop.step if single else loop.step_alive
        final: list[Any] = lax.while_loop(lambda carry: loop.going(constants, carry), lambda carry: step(constants, carry), list(carry))
        return final
    inside = replace(loop, reverse=True)
    if not single:
        going = lambda constants, carry: loop.going(constants, carry[: len(carry) // 2])  # noqa: E731
        wider = [*carry, *carry, jnp.zeros_like(loop.alive(constants, carry))]
        return checkpointed.while_loop(going, loop.step_alive_reversibly, inside.step_alive_reversibly, constants, wider)[: len(carry)]
    count = _count(loop, constants, carry)
    if count is None or count * sum(leaf.size * leaf.dtype.itemsize for leaf in map(jnp.asarray, carry)) > SCAN_BYTES:
        return checkpointed.while_loop(loop.going, loop.step, inside.step, constants, carry)
    # Checkpointed, or the scan would keep every intermediate of every step and not the states alone.
    step = jax.checkpoint(inside.step, prevent_cse=False)
    return list(lax.scan(lambda carry, _: (step(constants, carry), None), list(carry), length=count)[0])


def _count(loop: Loop, constants: Leaves, carry: Leaves) -> int | None:
    """Returns the number of steps if it follows from what is known while tracing, None otherwise.

    The part of the loop that decides when it ends is cut out: the carries that the test reads, and those that they are computed from. Where they
    and the constants they need are known, few, and integers, that part is run by itself. Not so for floating-point numbers: compiled by itself, the
    part may round otherwise than within the loop, and end a step sooner or later.
    """
    test = jax.make_jaxpr(loop.going)(list(constants), list(carry))
    body = jax.make_jaxpr(lambda constants, carry: loop.step(constants, carry))(list(constants), list(carry))
    used = [False] * len(carry)
    wanted = needed(test.jaxpr)
    while True:
        grown = [before or after for before, after in zip(used, wanted[len(constants) :], strict=True)]
        if grown == used:
            break
        used = grown
        wanted = [before or after for before, after in zip(wanted, needed(body.jaxpr, used), strict=True)]
    values = (*constants, *carry)
    if not all(_countable(value) for value, flag in zip(values, wanted, strict=True) if flag) or _loops(test, [True]) or _loops(body, used):
        return None
    kept = [index for index, flag in enumerate(used) if flag]
    with jax.ensure_compile_time_eval():
        # What is not needed has no value here, so anything of its type will do.
        known = [jnp.asarray(value) if flag else jnp.empty(value.shape, value.dtype) for value, flag in zip(values, wanted, strict=True)]
        return _counted(test, body, known[: len(constants)], known[len(constants) :], kept)


def _countable(value: Any) -> bool:
    whole = any(jax.dtypes.issubdtype(value.dtype, kind) for kind in (np.integer, np.bool_))
    return not isinstance(value, Tracer) and value.size <= _MOST_ELEMENTS and whole


def _loops(closed: ClosedJaxpr, outputs: Sequence[bool]) -> bool:
    """Returns whether some outputs of a jaxpr take loops of their own, which nobody bounds."""
    return any(eqn.primitive.name in ("while", "scan") for eqn in equations(pruned(closed.jaxpr, outputs), set()))


def _counted(test: ClosedJaxpr, body: ClosedJaxpr, constants: list[Any], carry: list[Any], kept: list[int]) -> int | None:
    def whole(part: list[Any]) -> list[Any]:
        state = list(carry)
        for index, value in zip(kept, part, strict=True):
            state[index] = value
        return state

    def step(state: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        results = jaxpr_as_fun(body)(*constants, *whole(state[1]))
        return state[0] + 1, [results[index] for index in kept]

    def going(state: tuple[Any, list[Any]]) -> Any:
        return jaxpr_as_fun(test)(*constants, *whole(state[1]))[0] & (state[0] <= _MOST_COUNTED)

    start = [carry[index] for index in kept]
    count = int(jax.jit(lambda start: lax.while_loop(going, step, (jnp.int32(0), start))[0])(start))
    return count if count <= _MOST_COUNTED else None


def _chosen(alive: Any, new: Leaves, old: Leaves) -> list[Any]:
    """Returns ``new`` where ``alive`` and ``old`` elsewhere, along the leading axes."""
    return [lax.select(lax.broadcast_in_dim(alive, after.shape, range(alive.ndim)), after, before) for after, before in zip(new, old, strict=True)]
