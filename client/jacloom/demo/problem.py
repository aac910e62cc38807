"""What every demo problem says about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Problem:
    """A function, a point, and the derivative that is asked for there."""

    name: str
    """A word or two, for the table."""
    about: str
    """One line for people: what is differentiated with respect to what."""
    function: Callable[..., Any]
    """Traceable by JAX."""
    args: tuple[Any, ...]
    """The point: float64 arrays."""
    argnums: int | tuple[int, ...] = 0
    derivative: Literal["jacobian", "gradient"] = "jacobian"
    mode: Literal["auto", "forward", "reverse"] = "auto"
    """What the service is asked for."""
    expect: Literal["forward", "reverse", "coloured forward", "coloured reverse", "bicoloured", "single pass"] = "forward"
    """The strategy that the service should end up with."""
