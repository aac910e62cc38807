"""The arrays of an answer, and whether blocks cover them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jacloom_graph import answer
from jacloom_graph.answer import Derivative, Rectangle, Selection, covered_once
from jacloom_graph.types import Type

F64, F32 = "float64", "float32"
CHOSEN = Selection(
    wrt=(4, 1),
    outputs=(2, 0),
    values=(1,),
    wrt_types=(Type(F64, (2, 3)), Type(F32)),
    output_types=(Type(F32, (4,)), Type(F64, (1, 2))),
    value_types=(Type("int32", (2,)),),
)


def test_arrays_of_each_derivative() -> None:
    def shown(derivative: Derivative) -> list[tuple[str, str, int, int, int]]:
        return [(array.part.name, str(array.type), array.output, array.input, array.input2) for array in answer.arrays(derivative, CHOSEN)]

    value = ("VALUE", "int32[2]", 1, 0, 0)
    assert shown(Derivative.EVALUATE) == [value]
    assert shown(Derivative.JVP) == [("TANGENT", "float32[4]", 2, 0, 0), ("TANGENT", "float64[1,2]", 0, 0, 0), value]
    assert shown(Derivative.VJP) == [("COTANGENT", "float64[2,3]", 0, 0, 0), ("COTANGENT", "float32[]", 0, 1, 0), value]
    assert shown(Derivative.JACOBIAN) == [
        value,
        ("JACOBIAN", "float64[4,2,3]", 2, 0, 0),
        ("JACOBIAN", "float32[4]", 2, 1, 0),
        ("JACOBIAN", "float64[1,2,2,3]", 0, 0, 0),
        ("JACOBIAN", "float64[1,2]", 0, 1, 0),
    ]
    second = answer.arrays(Derivative.HESSIAN, CHOSEN)
    assert len(second) == 1 + 2 * 2 * 2
    assert (str(second[2].type), second[2].rows, second[2].columns) == ("float64[4,2,3]", 24, 1)
    assert (str(second[3].type), second[3].input, second[3].input2) == ("float64[4,2,3]", 1, 0)


def halves(rectangle: Rectangle, draw: st.DrawFn) -> list[Rectangle]:
    """Returns a rectangle, cut in two again and again."""
    row, rows, column, columns = rectangle.row, rectangle.rows, rectangle.column, rectangle.columns
    if rows > 1 and draw(st.booleans()):
        at = draw(st.integers(1, rows - 1))
        parts = [Rectangle(row, at, column, columns), Rectangle(row + at, rows - at, column, columns)]
    elif columns > 1 and draw(st.booleans()):
        at = draw(st.integers(1, columns - 1))
        parts = [Rectangle(row, rows, column, at), Rectangle(row, rows, column + at, columns - at)]
    else:
        return [rectangle]
    return [piece for part in parts for piece in halves(part, draw)]


@given(st.data())
def test_what_covers_a_matrix_once(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 7))
    pieces = data.draw(st.permutations(halves(Rectangle(0, rows, 0, columns), data.draw)))
    assert covered_once(rows, columns, pieces)
    # One elsewhere: by brute force, every other place of every piece either covers again or leaves a gap.
    number = data.draw(st.integers(0, len(pieces) - 1))
    moved = pieces[number]
    row, column = data.draw(st.integers(0, rows - moved.rows)), data.draw(st.integers(0, columns - moved.columns))
    changed = [*pieces[:number], Rectangle(row, moved.rows, column, moved.columns), *pieces[number + 1 :]]
    counts = np.zeros((rows, columns), int)
    for one in changed:
        counts[one.row : one.row + one.rows, one.column : one.column + one.columns] += 1
    assert covered_once(rows, columns, changed) == (counts == 1).all()
    assert not covered_once(rows, columns, [*pieces, moved])
    assert not covered_once(rows, columns, pieces[1:])


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_an_empty_matrix_is_covered_by_nothing(shape: tuple[int, int]) -> None:
    assert covered_once(*shape, [])
