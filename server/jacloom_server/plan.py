"""How a derivative is computed, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from jacloom_graph.errors import Place
from jacloom_graph.limits import MOST_WIDTH
from jacloom_worker.protocol import Structure

WIDTHS: Final = tuple(sorted({1, *(2**power for power in range(1, 13)), *(3 * 2**power for power in range(11))}))
"""Widths that are chosen: few, so that kernels are compiled once, and at most 1.5 apart, so that little of the last tile is padding."""


class Mode(Enum):
    """Which way derivatives are taken."""

    FORWARD = "forward"
    """By columns: one JVP for each entry of the wrt leaves, or for each colour of them."""
    REVERSE = "reverse"
    """By rows: one VJP for each entry of the outputs, or for each colour of them."""


@dataclass(frozen=True, slots=True)
class Considered:
    """A strategy that was weighed."""

    strategy: str
    """As ``Plan.strategy``; of a second derivative both modes."""
    passes: int | None
    """None where they were not counted."""
    price: float | None
    """Price of one pass relative to one evaluation of the function; None where it is not available, or an evaluation costs nothing."""
    verdict: str
    place: Place | None = None
    """Where in the graph it is refused."""
    seconds: float | None = None
    """Predicted time of all passes of a first derivative; None where it is not available."""


@dataclass(frozen=True, slots=True)
class Leg:
    """The passes of one mode."""

    mode: Mode | None
    """None of a single pass and of a batch, which are of the kind that was asked for."""
    passes: int
    tile: int = 0
    """Seeds per tile."""
    tiles: int = 0
    seconds: float = 0.0
    """Predicted computing time summed over workers; 0 where it is not known."""
    sweep: float = 0.0
    """The part of it that every tile takes again, however many seeds it has."""
    widest: int = MOST_WIDTH
    """The largest tile whose answer fits the window of tiles, and that leaves as much for each of the other workers."""

    def resized(self, width: int) -> Leg:
        """Returns the same passes in tiles of another width, as far as they still fit the window."""
        most = min(width, self.widest, fitting(self.passes))
        # As many tiles as that makes, in the narrowest width that does: no seeds are computed for padding alone.
        return self.cut(min(most, fitting(math.ceil(self.passes / max(1, math.ceil(self.passes / most))))))

    def cut(self, width: int) -> Leg:
        """Returns the same passes in tiles of exactly that width."""
        tiles = math.ceil(self.passes / width)
        return replace(self, tile=width, tiles=tiles, seconds=self.seconds + (tiles - self.tiles) * self.sweep)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a derivative is computed."""

    strategy: str
    """``"forward"``, ``"reverse"``, the same coloured, ``"bicoloured"``, ``"star-coloured"``, ``"single pass"``, ``"batch"`` or ``"empty"``."""
    nbytes: int
    """Size of the answer."""
    legs: tuple[Leg, ...] = ()
    """Two of a bicoloured Jacobian, else at most one."""
    workers: int = 0
    """How many can be at work at once."""
    considered: tuple[Considered, ...] = ()
    inner: Mode | None = None
    """Mode of the first derivative within a second."""
    structure: Structure | None = None
    """The sparsity whose colours the seeds are, one part for each leg; None where each seed is one column or row."""

    @property
    def passes(self) -> int:
        """JVPs or VJPs in all."""
        return sum(leg.passes for leg in self.legs)

    @property
    def forward(self) -> int:
        """How many of them are known to be JVPs."""
        return sum(leg.passes for leg in self.legs if leg.mode is Mode.FORWARD)

    @property
    def mode(self) -> Mode | None:
        """The mode of all passes; None if there are none, or both."""
        return self.legs[0].mode if len(self.legs) == 1 else None

    @property
    def tile(self) -> int:
        """Seeds per tile, at most; 0 where there are no tiles."""
        return max((leg.tile for leg in self.legs), default=0)

    @property
    def tiles(self) -> int:
        """Calls to workers."""
        return sum(leg.tiles for leg in self.legs)

    @property
    def seconds(self) -> float:
        """Predicted computing time summed over workers; 0 where it is not known."""
        return sum(leg.seconds for leg in self.legs)


def single(nbytes: int, passes: int = 1, mode: Mode | None = None) -> Plan:
    """Returns the plan of what is computed at once: one pass, or several by columns for a gradient; an evaluation counts none."""
    return Plan("single pass", nbytes, (Leg(mode, passes),), workers=1)


def empty(nbytes: int = 0, structure: Structure | None = None) -> Plan:
    """Returns the plan of a derivative that has no entries, or none that differ from zero."""
    return Plan("empty", nbytes, structure=structure)


def fitting(width: int) -> int:
    """Returns the smallest width to choose that holds ``width`` seeds, or the largest there is."""
    return next((candidate for candidate in WIDTHS if candidate >= width), MOST_WIDTH)


def below(width: int) -> int:
    """Returns the largest width to choose that is not above ``width``."""
    widest: int = max(candidate for candidate in WIDTHS if candidate <= max(1, width))
    return widest
