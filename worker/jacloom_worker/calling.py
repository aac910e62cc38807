"""Running the kernels of a recipe on a group of points, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from jacloom_graph.errors import Fault
from jacloom_worker import requirements
from jacloom_worker.engine import Engine
from jacloom_worker.protocol import Load, Missing, Task
from jacloom_worker.unit import Recipe, Step


class NotHeld(Exception):
    """The engine does not hold the function, and it was not sent along."""


class Caller:
    """Calls an engine for one unit, or for one measurement, and counts what that takes."""

    def __init__(self, engine: Engine, load: Load | None, operands: Sequence[np.ndarray]) -> None:
        """Makes one.

        Args:
            engine: Computes.
            load: The function, where the engine may not hold it.
            operands: Of a sparse derivative, the structure's ``sources`` and the four arrays of each part; else nothing.
        """
        self._engine = engine
        self._load = load
        self._operands = operands
        self.seconds = 0.0
        """Wall time of calls, without that of compiling."""
        self.compile_seconds = 0.0

    def results(
        self, recipe: Recipe, arguments: Sequence[np.ndarray], seeds: tuple[int, int] | None = None, name: str = ""
    ) -> Iterator[tuple[int, int, tuple[np.ndarray, ...]]]:
        """Yields what each tile of each step gives.

        Args:
            recipe: Whose steps.
            arguments: One array per source; for several points at once, what varies has them along a first axis.
            seeds: The first seed and how many; then the other steps run only if the first is 0. Default: all.
            name: Of the point, where it is one that is computed tile by tile.

        Yields:
            The step's position in the recipe, the first seed of the tile, and arrays as in ``protocol.Done``, always with a first axis for points.

        Raises:
            Fault: That of the first call that has one.
            NotHeld: As it says.
        """
        for position, step in enumerate(recipe.steps):
            for start, count in _tiles(step, seeds):
                yield position, start, self.tile(recipe, position, arguments, start, count, name)

    def tile(self, recipe: Recipe, position: int, arguments: Sequence[np.ndarray], start: int, count: int, name: str = "") -> tuple[np.ndarray, ...]:
        """Returns what one tile of the step at some position gives; arguments, arrays and faults as for ``results``."""
        step = recipe.steps[position]
        given = [*arguments[: recipe.leaves + step.kernel.seeds], *self._part(recipe, position)]
        task = Task(step.kernel, self._load, f"{name}, step {position}" if name else "", start=start, count=count)
        arrays = self._call(task, given)
        return arrays if step.kernel.points else tuple(array[None] for array in arrays)

    def _part(self, recipe: Recipe, position: int) -> Sequence[np.ndarray]:
        """Returns the arrays of the part that a step computes; none if it has no colours."""
        if not recipe.steps[position].kernel.coloured:
            return ()
        at = 1 + 4 * sum(step.kernel.coloured for step in recipe.steps[:position])
        return self._operands[at : at + 4]

    def _call(self, task: Task, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        started = time.perf_counter()
        answer = self._engine.run(task, *arrays)
        if isinstance(answer, Fault):
            raise answer
        if isinstance(answer, Missing):
            raise NotHeld
        self.compile_seconds += answer.compile_seconds
        self.seconds += time.perf_counter() - started - answer.compile_seconds
        return answer.arrays


def _tiles(step: Step, seeds: tuple[int, int] | None) -> Iterator[tuple[int, int]]:
    """Yields the first seed and the number of seeds of each call; one call for what has no tiles."""
    if step.kernel.kind not in requirements.TILES:
        if seeds is None or seeds[0] == 0:
            yield 0, 0
        return
    first, last = (0, step.passes) if seeds is None else (seeds[0], sum(seeds))
    for start in range(first, last, step.kernel.width):
        yield start, min(step.kernel.width, last - start)
