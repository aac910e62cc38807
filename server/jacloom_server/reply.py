"""The messages of an answer, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jacloom_graph.answer import Array, Sizes
from jacloom_server.plan import Plan


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of an array."""

    array: int
    row: int
    rows: int
    column: int
    columns: int
    data: bytes | memoryview
    """Elements row by row, as on the wire; a view of shared memory where they lie so already."""


@dataclass(frozen=True, slots=True)
class Header:
    """Opens an answer."""

    function: str
    plan: Plan
    arrays: tuple[Array, ...]
    sizes: Sizes | None = None
    """Of the matrix, where it comes as the entries of ``plan.structure``."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a call has come."""

    tiles_done: int
    tiles: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Closes an answer that is whole. Fields as in the message."""

    passes: int
    tiles: int
    retries: int
    workers: int
    seconds: dict[str, float]
    tile: int
    repairs: int = 0
    doubtful: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of the answer."""

    header: Header | None = None
    blocks: Sequence[Block] = ()
    progress: Progress | None = None
    summary: Summary | None = None
