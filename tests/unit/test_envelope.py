"""What travels between the server and its workers, without Ray."""

from __future__ import annotations

import numpy as np
import pytest

from jacloom_graph.tensor import nbytes
from jacloom_graph.types import Type
from jacloom_worker.envelope import Operand, pack_task, unpack_task
from jacloom_worker.protocol import Kernel, Kind, Task

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
