"""What units, recipes and boxes of arrays are, without computing anything."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from jacloom_graph.errors import Fault
from jacloom_graph.types import Type
from jacloom_worker.blocks import box
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.unit import Recipe, Source, Step, Unit, stored

X = Type("float64", (3,))


@pytest.mark.parametrize("shape", [(), (5,), (1,), (2, 3), (3, 1, 4), (2, 3, 4)])
def test_a_box_has_just_the_entries_that_fill_it(shape: tuple[int, ...]) -> None:
    """Every range of entries is the box that it says, or no box of the array at all."""
    entries = np.arange(math.prod(shape)).reshape(shape)
    sides = [[(low, high) for low in range(extent) for high in range(low + 1, extent + 1)] for extent in shape]
    boxes = {tuple(np.ravel(entries[tuple(slice(*side) for side in chosen)]).tolist()) for chosen in itertools.product(*sides)}
    for first in range(entries.size):
        for count in range(1, entries.size - first + 1):
            wanted = tuple(range(first, first + count))
            if wanted in boxes:
                assert tuple(np.ravel(entries[box(shape, first, count)]).tolist()) == wanted
            else:
                with pytest.raises(Fault, match=f"entries {first} to {first + count - 1} .* no box"):
                    box(shape, first, count)


def test_a_recipe_for_several_points_at_once() -> None:
    sources = (Source("points/0", X, True), Source("shared/1", X, False), Source("seeds/0", X, True))
    product = Step(Kernel("f", Kind.JVP, (0,), (0,), (1,)), 0, (0, 1))
    value = Step(Kernel("f", Kind.VALUE, values=(0,)), 0, (2,))
    recipe = Recipe(sources, (), (product, value))
    assert (recipe.function, recipe.leaves, recipe.points) == ("f", 2, 0)
    several = recipe.at_once(4)
    assert (several.leaves, several.points) == (2, 4)
    assert [step.kernel.varying for step in several.steps] == [(0, 2), (0,)], "values have no seeds"
    tiles = Recipe(sources[:2], (), (Step(Kernel("f", Kind.FORWARD, (0, 1), (0,), width=2), 6, ()),)).at_once(1)
    assert tiles.steps[0].kernel == Kernel("f", Kind.FORWARD, (0, 1), (0,), width=6, points=1, varying=(0,))


def test_a_recipe_of_what_is_zero_everywhere() -> None:
    nothing = Recipe((Source("points", X, True),), (), ()).at_once(3)
    assert (nothing.function, nothing.leaves, nothing.points) == ("", 1, 0)


def test_units_say_what_they_are() -> None:
    assert [str(unit) for unit in (Unit(0, 7, 1), Unit(0, 7, 3), Unit(0, 7, 1, 10, 5))] == ["point 7", "points 7 to 9", "point 7, seeds 10 to 14"]


def test_types_in_a_store() -> None:
    assert stored(Type("bfloat16", (2,))) == (np.dtype("float32"), (2,))
    assert stored(Type("key<rbg>", (2,))) == (np.dtype("uint32"), (2, 4))
    assert stored(Type("complex64", (2, 3))) == (np.dtype("complex64"), (2, 3))
