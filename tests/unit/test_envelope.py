"""What travels between the server and its workers, without Ray."""

from __future__ import annotations

import numpy as np
import pytest

from jacloom_graph.tensor import nbytes
from jacloom_graph.types import Type
from jacloom_worker.envelope import Operand, pack_result, pack_task, unpack_result, unpack_task
from jacloom_worker.protocol import Kernel, Kind, Load, Task
from jacloom_worker.unit import Chunk, Order, Pace, Recipe, Sink, Site, Source, Step, Unit, Written

VALUES = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


@pytest.mark.parametrize("stored", [False, True])
def test_rows_of_an_operand_are_those_of_its_array(stored: bool) -> None:
    data = bytes(16) + VALUES.tobytes()
    whole = Operand(Type("float32", (4, 3, 2)), np.frombuffer(data, np.uint8) if stored else data, 16)
    rows = whole.rows(1, 2)
    assert rows.type == Type("float32", (2, 3, 2))
    # What is stored stays where it is; of what travels along, only the rows do.
    assert rows.data is whole.data if stored else len(rows.data) == nbytes(rows.type)
    task = Task(Kernel("f", Kind.JVP, width=2), count=2)
    _, _, (array,) = unpack_task(pack_task(task, 1.0, [rows]), [rows.data])
    np.testing.assert_array_equal(array, VALUES[1:3])


def test_orders_of_a_job_and_their_answers() -> None:
    x = Type("float64", (3,))
    step = Step(Kernel("f", Kind.FORWARD, (0,), (0,), width=3, points=2, varying=(0,)), 3, (0,))
    recipe = Recipe((Source("points", x, True),), (Sink("jacobian", Type("float64", (2, 3)), (4, 2, 3)),), (step,))
    order = Order(recipe, Unit(2, 8, 4, skip=(9,)), Site("jobs/1", "/store", "/aside"), Load(b"not sent like this"))
    entries = Operand(x, VALUES.tobytes()[:24])
    got, lease, (array,) = unpack_task(pack_task(order, 2.5, [entries]), [entries.data])
    assert got == Order(recipe, order.unit, order.site)
    assert (lease, array.shape) == (2.5, (3,))
    for answer in (Pace(4, 0.25), Written((Chunk("jacobian/c/2/0/0", 388, 7),), np.array([True, False, True, True]), 1.0, 2.0, 3.0)):
        packed = pack_result(answer, [])
        assert isinstance(packed, bytes)
        result, _ = unpack_result(packed)
        assert repr(result) == repr(answer)
