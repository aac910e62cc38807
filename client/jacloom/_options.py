"""Options that calls share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from jacloom._errors import OptionError
from jacloom._outline import outline
from jacloom._progress import Progress
from jacloom_graph.limits import MOST_WIDTH

Mode = Literal["auto", "forward", "reverse"]
"""Which derivative passes compute a Jacobian; ``"auto"`` leaves it to the service."""

Tile = int | Literal["auto"]
"""Seeds per tile; ``"auto"`` leaves it to the service."""

OnProgress = Callable[[Progress], None]
"""Called with the state of a call as it goes on, in the thread that made the call."""


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How one call is made; nothing here changes its result."""

    timeout: float | None = None
    """Seconds until the call is given up and cancelled on the cluster; None for no limit."""
    on_progress: OnProgress | None = None
    """Receives progress in place of the bar on the terminal."""
    verify: bool = False
    """Whether a derivative is compared with further passes before it is returned. A pattern that the user gives is in any case."""


def check_flags(call: str, hint: str = "", **flags: object) -> None:
    """Raises OptionError unless the flags are bools.

    Args:
        call: The user's call.
        hint: What to do, where something else than a bool may have been meant for another place.
        **flags: The flags by name.
    """
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise OptionError(f"`{call[:-1]}, {name}=...)`: {name} must be True or False, got {outline(flag)}.{hint and f' {hint}'}")


def check_mode(call: str, mode: object) -> None:
    """Raises OptionError unless ``mode`` is one of ``Mode``."""
    if not isinstance(mode, str) or mode not in get_args(Mode):
        raise OptionError(f"`{call}`: mode must be 'auto', 'forward' or 'reverse', got {outline(mode)}.")


def check_tile(call: str, tile: object) -> None:
    """Raises OptionError unless ``tile`` is one of ``Tile`` and within the service's limits."""
    if isinstance(tile, bool) or not ((isinstance(tile, int) and 1 <= tile <= MOST_WIDTH) or (isinstance(tile, str) and tile == "auto")):
        raise OptionError(f"`{call}`: tile must be 'auto' or a number of seeds from 1 to {MOST_WIDTH}, got {outline(tile)}.")


def check_seed(call: str, seed: object) -> None:
    """Raises OptionError unless ``seed`` can be that of random numbers."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise OptionError(f"`{call}`: seed must be an integer that is not negative, got {outline(seed)}.")
