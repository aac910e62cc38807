"""Products with the derivative at a point that stays: what does not depend on the seeds is computed once, and kept on the device.

The numbers are those of a kernel that computes the function each time, to rounding: only who computes what, and how often, differs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from jacloom_graph.tensor import storage
from jacloom_worker import compiling, kernels
from jacloom_worker.bounded import Bounded
from jacloom_worker.infer import abstract, struct
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.splitting import Split, split
from jacloom_worker.weighting import weighted

KINDS: Final = frozenset({Kind.JVP, Kind.VJP, Kind.HVP})
"""The kinds that there are seeds of."""
ONE_BYTES: Final = 1 << 30
"""What may be kept of one point, unless the worker's memory says less."""
ALL_BYTES: Final = 2 << 30
"""What may be kept in all, likewise."""
_POINTS: Final = 64
_SPLITS: Final = 256


@dataclass(frozen=True, slots=True)
class Point:
    """The first half of a kernel, compiled; kernels that differ in width share it."""

    name: Kernel
    """The kernel of width 0."""
    split: Split
    executable: jax.stages.Compiled
    constants: tuple[Any, ...]
    nbytes: int
    """Device memory of one call."""


@dataclass(frozen=True, slots=True)
class Product:
    """A kernel whose point is kept apart; to the engine like ``compiling.Compiled``."""

    point: Point
    executable: jax.stages.Compiled
    arguments: tuple[tuple[np.dtype, tuple[int, ...]], ...]
    """dtype and shape of each argument, as arrays travel: input leaves, then seeds."""
    leaves: int
    seconds: float
    """Wall time of tracing and compiling, the point's included where that was new."""
    nbytes: int
    """Device memory of one call, be the point known or not, with what is kept of it."""


class Linearizer:
    """Compiles such kernels and keeps what they have computed of their points. Bounded; not thread-safe."""

    def __init__(self, memory_limit: int | None = None) -> None:
        """Makes one that holds nothing.

        Args:
            memory_limit: Bytes that the worker may use; None for no bound. A quarter may be kept of one point, half in all.
        """
        self._memory_limit = memory_limit
        self._most_of_one = ONE_BYTES if memory_limit is None else min(ONE_BYTES, memory_limit // 4)
        self._points: Bounded[Kernel, Point] = Bounded(_SPLITS)
        self._unworthy: Bounded[Kernel, bool] = Bounded(_SPLITS)
        """Kernels of width 0 that nothing is kept for."""
        self._kept: Bounded[tuple[Kernel, str], list[jax.Array]] = Bounded(
            _POINTS, ALL_BYTES if memory_limit is None else min(ALL_BYTES, memory_limit // 2)
        )

    def product(self, subject: Subject, kernel: Kernel) -> Product | None:
        """Returns a kernel of ``KINDS`` in its two halves, compiled; None where that does not pay, or would keep too much.

        Raises:
            Fault: As ``splitting.split``. Whatever else tracing and XLA raise passes through.
        """
        started = time.perf_counter()
        single, (differentiated, within) = replace(kernel, width=0), weighted(subject, kernel)
        if self._unworthy.get(single):
            return None
        point = self._points.get(single)
        if point is None:
            halves = split(differentiated, replace(within, width=0))
            if halves.nbytes > self._most_of_one or not halves.pays:
                self._unworthy.put(single, True)
                return None
            point = _compiled_point(differentiated, single, halves)
            self._points.put(single, point)
        computation = kernels.computation(differentiated, within)
        compiling.require_addressable((*computation.arguments, *computation.results))
        shared = point.split.seeds.in_avals[: len(point.split.forwarded) + len(point.split.kept)]
        seeds = computation.arguments[computation.leaves :]
        traced = jax.jit(point.split.batched(kernel.width)).trace(*map(_struct, shared), *map(struct, seeds))
        compiling.check_results(computation.results[: len(computation.results) - len(kernel.values)], traced.jaxpr.out_avals)
        executable = traced.lower().compile()
        needed = max(point.nbytes, compiling.memory(executable))
        if self._memory_limit is not None and needed > self._memory_limit:
            return None
        arguments = tuple(storage(type_) for type_ in computation.arguments)
        return Product(point, executable, arguments, computation.leaves, time.perf_counter() - started, needed)

    def run(self, product: Product, name: str, arguments: Sequence[Any]) -> list[jax.Array]:
        """Returns products, then values.

        Args:
            product: The kernel.
            name: Of the point. Equal names are equal leaves of the same function; empty: it is not kept.
            arguments: Input leaves, then seeds.
        """
        point, leaves = product.point, arguments[: product.leaves]
        kept = self._kept.get((point.name, name)) if name else None
        self.make_room(product.nbytes if kept is None else product.nbytes - point.split.nbytes)
        if kept is None:
            kept = list(jax.block_until_ready(point.executable(*point.constants, *leaves)))
            if name:
                self._kept.put((point.name, name), kept, point.split.nbytes)
        inputs = [*point.constants, *leaves]
        count = len(point.split.kept)
        given = [inputs[number] for number in point.split.forwarded]
        return [*product.executable(*given, *kept[:count], *arguments[product.leaves :]), *kept[count:]]

    def forget(self, function: str) -> None:
        """Drops all that belongs to a function."""
        for kernel in self._points:
            if kernel.function == function:
                self._points.discard(kernel)
        for key in self._kept:
            if key[0].function == function:
                self._kept.discard(key)

    def clear(self) -> None:
        """Drops all that is kept of points."""
        for key in self._kept:
            self._kept.discard(key)

    def discard_idle(self, seconds: float) -> None:
        """Drops what is kept of points that have not been used for some seconds."""
        self._kept.discard_idle(seconds)

    def make_room(self, nbytes: int) -> None:
        """Drops what was used longest ago, until a computation that needs some bytes finds them beside what is kept."""
        if self._memory_limit is None:
            return
        for key in self._kept:
            if self._kept.nbytes + nbytes <= self._memory_limit:
                return
            self._kept.discard(key)


def _compiled_point(subject: Subject, kernel: Kernel, halves: Split) -> Point:
    traced = jax.jit(jaxpr_as_fun(halves.point)).trace(*abstract(subject.constants), *map(struct, subject.inputs))
    executable = traced.lower().compile()
    return Point(kernel, halves, executable, subject.constants, compiling.memory(executable))


def _struct(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype)  # type: ignore[no-untyped-call, unused-ignore]
