"""Where to put checkpoints when a sequence of steps is reversed with few of them: binomial checkpointing.

Griewank & Walther, "Algorithm 799: revolve", ACM Transactions on Mathematical Software 26 (2000) 19-45. With ``s`` slots and every step
repeated at most ``r`` times, ``beta(s, r) = binomial(s + r, s)`` steps can be reversed, and no schedule does better.
"""

from __future__ import annotations

from functools import cache
from math import comb
from typing import Any

import jax.numpy as jnp
import numpy as np

LEAST_SLOTS = 8
"""Slots that the schedule needs: with these, any 32-bit number of steps repeats each at most ``_MOST_REPEATS`` times."""
_MOST_REPEATS = 64
_SATURATED = (1 << 31) - 1


@cache
def _table(slots: int) -> np.ndarray:
    """Returns ``beta(s, r)`` for ``s`` up to ``slots`` and ``r`` from -2 on, ``(slots + 1, ..)`` int32, saturated; 0 where ``r`` is negative."""
    rows = [[0, 0, *(min(comb(s + r, s), _SATURATED) for r in range(_MOST_REPEATS + 1))] for s in range(slots + 1)]
    return np.array(rows, np.int32)


def split(length: Any, free: Any, slots: int) -> Any:
    """Returns how far to advance from a checkpoint before placing the next.

    Args:
        length: Steps from the checkpoint to the end of what is to be reversed, an integer, traced or not.
        free: Slots that may be used, that of the checkpoint itself among them; traced or not, between 1 and ``slots``.
        slots: Slots in all.

    Returns:
        An integer from 1 to ``length``. ``length`` itself means that there is no place for another checkpoint, or no need.
    """
    table = jnp.asarray(_table(slots))
    reach = table[free]
    repeats = jnp.argmax(reach >= length)  # counts from r = -2
    # Any point that leaves neither part too long is best in the worst case; the earliest of those that are best in the sum as well.
    after = table[free - 1][repeats]
    before = reach[jnp.maximum(repeats - 2, 0)]
    chosen = jnp.maximum(jnp.maximum(before, length - after), 1)
    return jnp.where((free > 1) & (length > 1), chosen, length)
