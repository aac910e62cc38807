"""Reverse mode through a loop of unknown length, beside the same loop where its length is known, and beside equinox's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.measure import Goal, Report, in_turn
from jacloom_worker import checkpointed

_STEPS: Final = 2_000
_SIZE: Final = 1_000

Step = Callable[[Any], Any]
Loop = Callable[[Step, Any, Any], Any]
"""``(step, steps, x) -> x after so many steps``."""


def reversed_loop() -> Report:
    """The gradient of 2 000 steps on 1 000 float64 numbers, compiled, in this process; and the memory that each program needs."""
    loops: dict[str, Loop] = {"scan of known length": _scan, "checkpointed": _checkpointed, "equinox's checkpointed": _equinox}
    with jax.enable_x64(True):
        x = np.linspace(0.0, 1.0, _SIZE)
        compiled = {name: _gradient(loop).lower(x, _STEPS).compile() for name, loop in loops.items()}
        contenders = {name: partial(_run, program, x) for name, program in compiled.items()}
        value = jax.jit(lambda x, n: _forward(_step, n, x)).lower(x, np.int64(_STEPS)).compile()
        contenders["the loop itself, forward"] = partial(_run, value, x)
        medians, spread = in_turn(contenders, rounds=9)
    memory = {f"{name} (MiB)": program.memory_analysis().temp_size_in_bytes / (1 << 20) for name, program in compiled.items()}
    goal = Goal("checkpointed at most 2 x a scan that keeps every state", medians["checkpointed"] / medians["scan of known length"], 2.0, "x")
    return Report("Gradient of a loop of 2 000 steps on 1 000 numbers", medians | memory, (goal,), spread)


def _step(x: Any) -> Any:
    return x + 0.01 * jnp.sin(x) * jnp.cos(jnp.roll(x, 1))


def _gradient(loop: Loop) -> Any:
    # Only a scan must know the number of steps beforehand, so it is a constant of its program.
    known = _STEPS if loop is _scan else None
    return jax.jit(lambda x, n: jax.grad(lambda x: jnp.sum(loop(_step, n if known is None else known, x)))(x))


def _run(program: Any, x: np.ndarray) -> None:
    jax.block_until_ready(program(x, np.int64(_STEPS)))


def _forward(step: Step, steps: Any, x: Any) -> Any:
    return lax.while_loop(lambda c: c[0] < steps, lambda c: (c[0] + 1, step(c[1])), (0, x))[1]


def _scan(step: Step, steps: Any, x: Any) -> Any:
    return lax.scan(lambda c, _: (step(c), None), x, length=steps)[0]


def _checkpointed(step: Step, steps: Any, x: Any) -> Any:
    def going(constants: Any, carry: Any) -> Any:
        return carry[0] < constants[0]

    def stepped(constants: Any, carry: Any) -> Any:
        return [carry[0] + 1, step(carry[1])]

    return checkpointed.while_loop(going, stepped, stepped, [jnp.asarray(steps)], [jnp.zeros_like(steps), x])[1]


def _equinox(step: Step, steps: Any, x: Any) -> Any:
    start = (jnp.zeros_like(steps), x)
    return eqx.internal.while_loop(
        lambda c: c[0] < steps, lambda c: (c[0] + 1, step(c[1])), start, max_steps=None, kind="checkpointed", checkpoints=64
    )[1]
