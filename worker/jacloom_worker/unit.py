"""Units of a job: what server and workers say to each other about them. Importable without JAX, without Ray and without Zarr.

A unit is the part of a job that one worker call computes and writes: some points with all their seeds, or one point with some of them. Its results
are whole chunks of the job's arrays, so that no two units ever write to the same file.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from jacloom_graph.tensor import DTYPES, Buffer, storage
from jacloom_graph.types import Type
from jacloom_worker.protocol import Kernel, Load


@dataclass(frozen=True, slots=True)
class Source:
    """An array of the store that an argument is read from."""

    path: str
    """Within the job's group, such as ``"points/x"``. Its dtype is that of ``type``, of bfloat16 the float32 that holds it, of keys that of their
    raw data."""
    type: Type
    """What one point takes."""
    varies: bool
    """Whether each point has its own, along a further first axis; otherwise all points share one."""


@dataclass(frozen=True, slots=True)
class Sink:
    """An array of the store that results are written to."""

    path: str
    """Within the job's group, such as ``"jacobian"``."""
    type: Type
    """What one point gives. The array has a further first axis, of the points."""
    chunk: tuple[int, ...]
    """Shape of its chunks, the axis of the points included."""


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel of a unit, and where its results go. The kernels of all steps have the same ``points``."""

    kernel: Kernel
    """With ``points`` where several are computed at once, and the ``width`` of its tiles."""
    passes: int
    """Seeds of one point in all; 0 for kinds without tiles."""
    sinks: tuple[int, ...]
    """Positions in ``Recipe.sinks``. Of tile kinds [output, leaf], of a HESSIAN [output, leaf, leaf]; else one for each array of ``protocol.Done``.
    Empty for a coloured step: see ``Recipe.entries``."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What all units of a job have in common. It is part of the job's record: a unit that is computed again gives the same bytes."""

    sources: tuple[Source, ...]
    """One per input leaf, then one per seed of single passes."""
    sinks: tuple[Sink, ...]
    steps: tuple[Step, ...]
    entries: int | None = None
    """Position of the sink that has the entries of a sparse derivative's pattern, row by row. All coloured steps fill it, each being a part of the
    structure, in order. Beside a unit then travel, as operands, the structure's ``sources`` and the four arrays of each ``Part``."""

    @property
    def function(self) -> str:
        """The function's id; empty where nothing is computed, because a derivative is zero whatever the point."""
        return self.steps[0].kernel.function if self.steps else ""

    @property
    def points(self) -> int:
        """How many points are computed at once, by all steps alike; 0: one after the other, tile by tile."""
        return self.steps[0].kernel.points if self.steps else 0

    @property
    def leaves(self) -> int:
        """How many of the sources are input leaves; seeds follow."""
        return len(self.sources) - max((step.kernel.seeds for step in self.steps), default=0)

    def at_once(self, points: int) -> Recipe:
        """Returns the same with so many points in each call and all seeds of each, for any recipe that computes one point after the other."""

        def several(step: Step) -> Step:
            varying = tuple(index for index in range(self.leaves + step.kernel.seeds) if self.sources[index].varies)
            return replace(step, kernel=replace(step.kernel, points=points, varying=varying, width=step.passes))

        return replace(self, steps=tuple(map(several, self.steps)))


@dataclass(frozen=True, slots=True)
class Unit:
    """Some points, or some seeds of one point."""

    number: int
    first: int
    """The first point."""
    count: int
    start: int = 0
    """The first seed, where it is some of one point's: the seeds of one leaf, whose chunks they fill."""
    seeds: int = 0
    """How many; 0 for all. The steps that have no tiles belong to the unit whose ``start`` is 0."""
    skip: tuple[int, ...] = ()
    """Points, by their number in the job, that are not computed, because they keep the others from being: their results are as where nothing was
    written."""

    def __str__(self) -> str:
        points = f"point {self.first}" if self.count == 1 else f"points {self.first} to {self.first + self.count - 1}"
        return f"{points}, seeds {self.start} to {self.start + self.seeds - 1}" if self.seeds else points


@dataclass(frozen=True, slots=True)
class Site:
    """Where a unit's arguments come from and its results go."""

    job: str
    """The job's id: what its points share may be kept under it."""
    store: str
    """Folder of its Zarr group."""
    aside: str
    """Folder, to be made, for the chunks of this attempt alone, on the same file system. They are put in place by who counts them."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is asked: to compute a unit and write it, or to find out how many points are best computed at once.

    Beside it travel, as operands, the arrays of a sparse derivative's structure; see ``Recipe.entries``.
    """

    recipe: Recipe
    unit: Unit
    site: Site
    load: Load | None = None
    """The function, where the worker may not hold it yet."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that lies in an attempt's folder, synced."""

    path: str
    """Within that folder, and at last within the group: ``"jacobian/c/3/0/0"``."""
    nbytes: int
    """Of the whole file."""
    checksum: int
    """CRC-32 of the whole file, as ``zlib`` has it. Not the CRC-32C that Zarr ends a chunk with: with that end it is the same for all."""

    @classmethod
    def of(cls, path: str, data: Buffer) -> Self:
        """Returns the chunk whose file has these bytes."""
        return cls(path, memoryview(data).nbytes, zlib.crc32(data))

    def matches(self, data: Buffer) -> bool:
        """Returns whether these bytes, which a file was found to have, are those that were written."""
        return (memoryview(data).nbytes, zlib.crc32(data)) == (self.nbytes, self.checksum)


@dataclass(frozen=True, slots=True)
class Written:
    """A unit's results, not in place yet."""

    chunks: tuple[Chunk, ...]
    finite: np.ndarray
    """Of each of the unit's points whether all its results here are finite: shape ``(count,)``, ``bool``."""
    seconds: float
    """Wall time of computing."""
    compile_seconds: float
    write_seconds: float
    """Wall time of encoding, writing and syncing."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How many points are best computed at once, as measured."""

    points: int
    """0: one at a time, tile by tile."""
    seconds: float
    """Per point, then."""


def stored(type_: Type) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Returns dtype and shape of the array in a store that holds a value of a type: that of its bytes on the wire, but float32 for bfloat16."""
    dtype, shape = storage(type_)
    return (DTYPES["float32"] if type_.dtype == "bfloat16" else dtype), shape
