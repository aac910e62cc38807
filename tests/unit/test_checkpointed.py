"""How often a loop's step is taken on the way back: as often as the paper on the schedule says, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacloom_worker import checkpointed
from jacloom_worker.revolve import LEAST_SLOTS

X = np.array([0.5, -1.0, 2.0])


@pytest.fixture(autouse=True)
def few_slots(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(checkpointed, "_MOST_SLOTS", LEAST_SLOTS)
    with jax.enable_x64(True):
        yield


def beta(slots: int, repeats: int) -> int:
    return comb(slots + repeats, slots) if repeats >= 0 else 0


def least(steps: int, slots: int) -> int:
    """Returns the steps ahead that it takes to reverse some: ``r l - beta(s + 1, r - 1)``, as Griewank & Walther (2000) prove."""
    repeats = next(r for r in range(steps + 1) if steps <= beta(slots, r))
    return repeats * steps - beta(slots + 1, repeats - 1)


def differentiated(steps: int, x: np.ndarray) -> tuple[Any, Counter[str]]:
    """Returns the gradient of the sum of a loop's result, and how often its step was taken ahead and how often gone back through."""
    taken: Counter[str] = Counter()

    def going(constants: Sequence[Any], carry: Sequence[Any]) -> Any:
        return carry[0] < constants[0]

    def counting(what: str) -> checkpointed.Step:
        def step(constants: Sequence[Any], carry: Sequence[Any]) -> Sequence[Any]:
            jax.debug.callback(lambda: taken.update([what]))
            return [carry[0] + 1, jnp.sin(carry[1]) + carry[1]]

        return step

    def loss(x: Any, steps: Any) -> Any:
        return jnp.sum(checkpointed.while_loop(going, counting("ahead"), counting("back"), [steps], [jnp.int64(0), x])[1])

    gradient = jax.jit(jax.grad(loss))(x, np.int64(steps))
    jax.effects_barrier()
    return gradient, taken


@pytest.mark.parametrize("steps", [1, 2, 8, 9, 10, 45, 46, 100])
def test_steps_are_repeated_as_often_as_the_best_schedule_does(steps: int) -> None:
    gradient, taken = differentiated(steps, X)
    # Once for the value, and what the way back takes again.
    assert taken == {"ahead": steps + least(steps, LEAST_SLOTS), "back": steps}
    state, slope = X, np.ones(3)
    for _ in range(steps):
        state, slope = np.sin(state) + state, slope * (np.cos(state) + 1)
    np.testing.assert_allclose(gradient, slope, rtol=1e-10)


def test_a_loop_that_never_starts_takes_no_step() -> None:
    gradient, taken = differentiated(0, X)
    assert (gradient.tolist(), taken) == ([1.0, 1.0, 1.0], {})
