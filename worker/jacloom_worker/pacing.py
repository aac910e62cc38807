"""How many points of a job are best computed at once, found out by trying."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.limits import MOST_WIDTH
from jacloom_graph.types import Type
from jacloom_worker.calling import Caller
from jacloom_worker.engine import Engine
from jacloom_worker.unit import Pace, Recipe, stored

SECONDS: Final = 2.0
"""Of trying in all, without compiling."""
COMPILE_SECONDS: Final = 60.0
"""Of compiling, after which no more are tried."""
RUNS: Final = 3
"""Of each number of points; the fastest counts."""
FASTER: Final = 0.95
"""A point that takes no less than this part of the time is no faster."""
PATIENCE: Final = 2
"""So many numbers in a row that make it no faster are enough."""
BYTES: Final = 256 << 20
"""Of results at once, unless the worker's memory says less."""


def pace(
    engine: Engine, caller: Callable[[], Caller], recipe: Recipe, points: int, arguments: Callable[[int], list[np.ndarray]], memory_limit: int | None
) -> Pace:
    """Returns how many points are best computed at once, of 1, 2, 4 and so on; 0 where not even one point fits into one kernel with all its seeds.

    Args:
        engine: Holds the kernels.
        caller: Makes one for each trial.
        recipe: For one point after the other, tile by tile.
        points: That there are.
        arguments: Of so many points from the first on, as ``sources.Reader.read`` has them.
        memory_limit: Bytes that the worker may use; None for no bound. An eighth of it is for results, half of it for a kernel.

    Raises:
        Fault: That of the first trial.
        NotHeld: As ``Caller.results``.
    """
    trials = _Trials(engine, caller, recipe, memory_limit)
    most = min(points, trials.most)
    if most < 1:
        return trials.tile_by_tile(arguments(1))
    best: Pace | None = None
    fruitless, count = 0, 1
    while count <= most:
        try:
            seconds = trials.together(count, arguments(count))
        except Fault as fault:
            if best is not None:
                break  # more do not fit
            if fault.reason is Reason.OUT_OF_MEMORY and trials.tiled:
                return trials.tile_by_tile(arguments(1))
            raise
        if best is None and trials.tiled and not trials.fits(count):
            return trials.tile_by_tile(arguments(1))
        if best is None or seconds < FASTER * best.seconds:
            best, fruitless = Pace(count, seconds), 0
        else:
            fruitless += 1
        if fruitless == PATIENCE or not trials.room_for(2 * count, seconds):
            break
        count *= 2
    assert best is not None
    return best


class _Trials:
    """Tries, and adds up what that takes."""

    def __init__(self, engine: Engine, caller: Callable[[], Caller], recipe: Recipe, memory_limit: int | None) -> None:
        self._engine, self._caller, self._recipe = engine, caller, recipe
        self._kernel_bytes = None if memory_limit is None else memory_limit // 2
        self._spent = self._compiled = 0.0
        self._largest = 0
        """Bytes that a kernel of one point takes."""
        seeds = max((max(1, step.passes) for step in recipe.steps), default=1)
        results = sum(_nbytes(sink.type) for sink in recipe.sinks)
        room = BYTES if memory_limit is None else min(BYTES, memory_limit // 8)
        self.most = min(MOST_WIDTH // seeds, room // max(1, results))
        """Points that may be computed at once."""
        self.tiled = any(step.passes > step.kernel.width for step in recipe.steps)
        """Whether there is more than one tile."""
        if not self.tiled:
            self.most = max(1, self.most)  # one by one is the same, then

    def together(self, points: int, arguments: Sequence[np.ndarray]) -> float:
        """Returns the seconds that each of several points takes. Arguments of what varies have the points along a first axis."""
        recipe = self._recipe.at_once(points)
        seconds = self._least(partial(_exhaust, recipe, arguments))
        sizes = [self._engine.kernel_bytes(step.kernel) or 0 for step in recipe.steps]
        self._largest = max(sizes, default=0) // points
        return seconds / points

    def tile_by_tile(self, arguments: Sequence[np.ndarray]) -> Pace:
        """Returns the pace of one point after the other, by the first tile of each step."""
        one = [array[0] if source.varies else array for source, array in zip(self._recipe.sources, arguments, strict=True)]
        seconds = 0.0
        for position, step in enumerate(self._recipe.steps):
            tiles = math.ceil(step.passes / step.kernel.width) if step.passes else 1
            count = min(step.kernel.width, step.passes)
            seconds += tiles * self._least(partial(self._tile, position, one, count))
        return Pace(0, seconds)

    def _tile(self, position: int, arguments: Sequence[np.ndarray], count: int, caller: Caller) -> None:
        caller.tile(self._recipe, position, arguments, 0, count)

    def room_for(self, points: int, seconds: float) -> bool:
        """Returns whether there are time and memory for trying more points, given how long each took."""
        return self.fits(points) and self._spent + points * seconds < SECONDS and self._compiled < COMPILE_SECONDS

    def fits(self, points: int) -> bool:
        """Returns whether a kernel of so many points has room, judging by that tried last."""
        return self._kernel_bytes is None or points * self._largest <= self._kernel_bytes

    def _least(self, run: Callable[[Caller], None]) -> float:
        least = math.inf
        for _ in range(RUNS):
            caller = self._caller()
            run(caller)
            least = min(least, caller.seconds)
            self._spent += caller.seconds
            self._compiled += caller.compile_seconds
            if self._spent + least > SECONDS:
                break
        return least


def _exhaust(recipe: Recipe, arguments: Sequence[np.ndarray], caller: Caller) -> None:
    for _ in caller.results(recipe, arguments):
        pass


def _nbytes(type_: Type) -> int:
    dtype, shape = stored(type_)
    return dtype.itemsize * math.prod(shape)
