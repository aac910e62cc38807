"""A small job without a server: a store with points, a recipe, and units that are computed by a real engine and put in place by hand."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from jacloom._trace import trace
from jacloom_graph import answer, identity, wire
from jacloom_graph.tensor import promote
from jacloom_graph.types import Type
from jacloom_worker.engine import Engine
from jacloom_worker.functions import draft
from jacloom_worker.protocol import Kernel, Kind, Load, Prices, Structure, Task
from jacloom_worker.unit import Order, Recipe, Sink, Site, Source, Step, Unit, Written, stored
from jacloom_worker.writing import Writer

JOB = "jobs/0123456789abcdef0123"


class Batch:
    """A function, its points in a store, and the means to compute units of it."""

    def __init__(
        self, folder: Path, f: Callable[..., Any], points: dict[int, np.ndarray], shared: dict[int, np.ndarray], memory: int | None = None
    ) -> None:
        """Makes the store.

        Args:
            folder: Where.
            f: Takes one array per argument; may return any tree of arrays.
            points: Arguments that each point has of its own, by index, along a first axis. Random keys as key arrays.
            shared: The others.
            memory: Bytes that the worker may use.
        """
        self.folder, self.group = folder, zarr.open_group(folder / "results", mode="w")
        self.f, self.count = f, len(next(iter(points.values())))
        given = {**{index: several[0] for index, several in points.items()}, **shared}
        example = [given[index] for index in range(len(given))]
        traced = trace(f, tuple(example), x64=True)
        self.load = Load(wire.to_bytes(traced.graph))
        self.function = identity.graph_id(traced.graph)
        subject = draft(self.load).subject
        self.inputs, self.outputs = subject.inputs, subject.outputs
        self.arguments = [(points | shared)[index] for index in range(len(given))]
        self.own = frozenset(points)
        self.engine = Engine(memory_limit=memory)
        self.writer = Writer(self.engine, memory)
        self.attempts = 0
        self.sources = tuple(
            self._source(f"points/{index}" if index in points else f"shared/{index}", type_, index in points, self.arguments[index])
            for index, type_ in enumerate(self.inputs)
        )

    def _source(self, path: str, type_: Type, varies: bool, elements: Any) -> Source:
        values = np.asarray(jax.random.key_data(elements) if jax.dtypes.issubdtype(elements.dtype, jax.dtypes.prng_key) else elements)
        dtype, shape = stored(type_)
        self._array(path, dtype, (self.count, *shape) if varies else shape)[...] = values.astype(dtype)
        return Source(path, Type(type_.dtype, type_.shape), varies)

    def _array(self, path: str, dtype: np.dtype[Any], shape: tuple[int, ...], chunks: Sequence[int] | None = None) -> Any:
        chunks = tuple(max(1, min(part, extent)) for part, extent in zip(chunks or shape, shape, strict=True))
        fill = math.nan if dtype.kind in "fc" else 0
        return self.group.create_array(path, shape=shape, chunks=chunks, dtype=dtype, compressors=[Crc32cCodec()], fill_value=fill)

    def seeds(self, *seeds: np.ndarray) -> tuple[Source, ...]:
        """Returns the sources of a single pass, whose seeds are these."""
        more = (self._source(f"seeds/{at}", Type(seed.dtype.name, seed.shape[1:]), True, seed) for at, seed in enumerate(seeds))
        return (*self.sources, *more)

    def _sink(self, path: str, type_: Type, count: int, chunk: Sequence[int] | None = None) -> Sink:
        dtype, shape = stored(type_)
        chunk = (count, *(chunk or shape))
        self._array(path, dtype, (self.count, *shape), chunk)
        return Sink(path, type_, tuple(chunk))

    def kernel(self, kind: Kind, wrt: tuple[int, ...], outputs: tuple[int, ...], **options: Any) -> Kernel:
        return Kernel(self.function, kind, wrt, outputs, **options)

    def single(self, kernel: Kernel, count: int, types: Sequence[Type], seeds: Sequence[np.ndarray] = ()) -> Recipe:
        """Returns the recipe of a single pass, whose results, of some types, are called ``result/0`` and so on, in units of ``count`` points."""
        sinks = tuple(self._sink(f"result/{at}", type_, count) for at, type_ in enumerate(types))
        return Recipe(self.seeds(*seeds), sinks, (Step(kernel, 0, tuple(range(len(sinks)))),))

    def tiles(self, kernel: Kernel, count: int, values: tuple[int, ...] = (), chunks: Sequence[Sequence[int]] | None = None) -> Recipe:
        """Returns the recipe of a matrix, whose blocks are called ``matrix/<output>/<leaf>[/<leaf>]``, with some values.

        Args:
            kernel: Of tiles.
            count: Points of a unit.
            values: Outputs whose values are wanted too, called ``value/<output>``.
            chunks: For each leaf, or in reverse for each output, the chunk of its axes. Default: whole.
        """
        wrt, outputs = ([types[index] for index in chosen] for types, chosen in ((self.inputs, kernel.wrt), (self.outputs, kernel.outputs)))
        second, reverse = kernel.kind is Kind.HESSIAN, kernel.kind is Kind.REVERSE
        sinks = []
        for output, of in enumerate(outputs):
            for leaf, by in enumerate(wrt):
                for other, to in enumerate(wrt if second else [None]):
                    types = [of, by, *([to] if to is not None else [])]
                    chunk = [list(type_.shape) for type_ in types]
                    if chunks is not None:
                        chunk[0 if reverse else -1] = list(chunks[output if reverse else other if second else leaf])
                    name = f"matrix/{output}/{leaf}" + (f"/{other}" if second else "")
                    sinks.append(self._sink(name, answer.block(*types), count, [extent for part in chunk for extent in part]))
        steps = [Step(kernel, sum(type_.size for type_ in (outputs if reverse else wrt)), tuple(range(len(sinks))))]
        return self._with_values(Recipe(self.sources, tuple(sinks), tuple(steps)), values, count)

    def _with_values(self, recipe: Recipe, values: tuple[int, ...], count: int) -> Recipe:
        if not values:
            return recipe
        sinks = (*recipe.sinks, *(self._sink(f"value/{leaf}", self.outputs[leaf], count) for leaf in values))
        step = Step(self.kernel(Kind.VALUE, (), (), values=values), 0, tuple(range(len(recipe.sinks), len(sinks))))
        return replace(recipe, sinks=sinks, steps=(*recipe.steps, step))

    def sparse(
        self, kernel: Kernel, count: int, values: tuple[int, ...] = (), prices: Prices | None = None, given: Sequence[np.ndarray] = (), width: int = 2
    ) -> tuple[Recipe, Structure, list[np.ndarray]]:
        """Returns the recipe of a sparse derivative, whose entries are called ``data``, its structure, and the operands of its units."""
        found = self.engine.structure(Task(replace(kernel, width=1), self.load), prices or Prices(1.0, 1.0), 1 << 20, *given)
        assert isinstance(found, Structure), found
        types = [self.inputs[index] for index in kernel.wrt] + [self.outputs[index] for index in kernel.outputs]
        sink = self._sink("data", Type(promote(*(type_.dtype for type_ in types)), (len(found.indices),)), count)
        steps = []
        for part in found.parts:
            kind = Kind.HESSIAN if kernel.kind is Kind.HESSIAN else Kind.REVERSE if part.mode == "reverse" else Kind.FORWARD
            steps.append(Step(replace(kernel, kind=kind, coloured=True, width=min(width, part.passes)), part.passes, ()))
        recipe = self._with_values(Recipe(self.sources, (sink,), tuple(steps), entries=0), values, count)
        arrays = [array for part in found.parts for array in (part.colours, part.lines, part.along, part.bounds)]
        return recipe, found, [found.sources, *arrays]

    def site(self) -> Site:
        """Returns that of a new attempt."""
        self.attempts += 1
        return Site(JOB, str(self.folder / "results"), str(self.folder / f"aside-{self.attempts}"))

    def write(self, recipe: Recipe, unit: Unit, *operands: np.ndarray) -> Any:
        return self.writer.write(self.order(recipe, unit), *operands)

    def order(self, recipe: Recipe, unit: Unit) -> Order:
        return Order(recipe, unit, self.site(), self.load)

    def run(self, recipe: Recipe, units: Sequence[Unit], *operands: np.ndarray) -> list[Written]:
        """Computes units, compares what they say with the files, and puts these in place."""
        done = []
        for unit in units:
            written = self.write(recipe, unit, *operands)
            assert isinstance(written, Written), written
            aside = self.folder / f"aside-{self.attempts}"
            files = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
            assert files == [chunk.path for chunk in written.chunks]
            for chunk in written.chunks:
                assert chunk.matches((aside / chunk.path).read_bytes())
                target = self.folder / "results" / chunk.path
                assert not target.exists(), "two units wrote one file"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(aside / chunk.path, target)
            done.append(written)
        return done

    def units(self, count: int) -> list[Unit]:
        """Returns units of so many points, the last of what is left."""
        firsts = range(0, self.count, count)
        return [Unit(number, first, min(count, self.count - first)) for number, first in enumerate(firsts)]

    def read(self, path: str) -> np.ndarray:
        """Returns an array of the results as anyone reads it."""
        return np.asarray(zarr.open_array(self.folder / "results", path=path, mode="r")[...])

    def at(self, point: int) -> list[Any]:
        """Returns the arguments of a point."""
        return [array[point] if index in self.own else array for index, array in enumerate(self.arguments)]
