"""What is written down of a job once it is planned, so that all its units are computed alike, whenever that is and whoever has restarted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from jacloom_graph.answer import Part
from jacloom_graph.types import Type
from jacloom_server.jobs.division import Division
from jacloom_server.plan import Plan
from jacloom_worker.protocol import Inner, Structure, Weighed
from jacloom_worker.protocol import Part as Passes
from jacloom_worker.unit import Recipe

_ARRAYS: Final = ("pointers", "indices", "sources")
_PASSES: Final = ("colours", "lines", "along", "bounds")


@dataclass(frozen=True, slots=True)
class Result:
    """An array of the results."""

    path: str
    part: Part
    type: Type
    """With the axis of the points, where it has one."""
    output: int = 0
    input: int = 0
    input2: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """A planned job."""

    recipe: Recipe
    division: Division
    plan: Plan
    """Without its structure, which has a file of its own."""
    results: tuple[Result, ...]
    seconds: float
    """That a unit is expected to take; 0 where it is not known."""
    versions: dict[str, str]
    """Of what computes it: JAX, and the device in words."""
    sparse: bool = False
    """Whether a sparse result was asked for."""

    def encoded(self) -> bytes:
        """Returns the record as JSON."""
        return msgspec.json.encode(self)


def decoded(data: bytes) -> Record:
    """Returns a record from its JSON.

    Raises:
        msgspec.ValidationError: It is of another version of this server.
    """
    return msgspec.json.decode(data, type=Record)


def save_structure(structure: Structure, path: Path) -> None:
    """Writes the structure that a sparse job's entries and colours are of."""
    found = {name: getattr(structure, name) for name in _ARRAYS}
    for at, part in enumerate(structure.parts):
        found |= {f"{name}{at}": getattr(part, name) for name in _PASSES}
    about = [*map(str, structure.shape), structure.digest, structure.strategy, *(part.mode for part in structure.parts)]
    with path.open("wb") as file:
        np.savez(file, about=np.array(about), **found)


def load_structure(path: Path) -> Structure:
    """Returns the structure that ``save_structure`` wrote."""
    with np.load(path) as found:
        rows, columns, digest, strategy, *modes = map(str, found["about"])
        parts = tuple(Passes(_inner(mode), *(found[f"{name}{at}"] for name in _PASSES)) for at, mode in enumerate(modes))
        pointers, indices, sources = (found[name] for name in _ARRAYS)
    return Structure((int(rows), int(columns)), pointers, indices, sources, parts, digest, strategy, _weighed(strategy, parts), 0.0)


def _inner(mode: str) -> Inner:
    return "reverse" if mode == "reverse" else "forward"


def _weighed(strategy: str, parts: Sequence[Passes]) -> tuple[Weighed, ...]:
    count = {mode: sum(part.passes for part in parts if part.mode == mode) for mode in ("forward", "reverse")}
    return (Weighed(strategy, count["forward"], count["reverse"], exact=True),)
