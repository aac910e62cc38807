"""Tidying up between tasks, and never during one."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest

from jacloom_worker.leisure import Leisure


def test_rounds_come_between_tasks_and_not_during_one() -> None:
    rounds: list[float] = []
    leisure = Leisure(lambda: rounds.append(time.monotonic()), period=0.01)

    def another() -> None:
        seen, deadline = len(rounds), time.monotonic() + 30
        while len(rounds) == seen:
            assert time.monotonic() < deadline, "no round came"
            time.sleep(0.005)

    another()
    with leisure.interrupted():
        before = len(rounds)
        time.sleep(0.1)
        assert len(rounds) == before
    another()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process of its own, with a worker's settings")
def test_a_worker_without_tasks_drops_what_it_kept_of_points() -> None:
    script = """
        import time
        from unit.handmade import arrays
        from unit.test_linearized import POINTS, SCAN, kept, product, seed
        from jacloom_graph.limits import DEFAULT
        from jacloom_graph.types import Type
        from jacloom_worker import actor, engine, leisure
        from jacloom_worker.envelope import Operand, pack_task, unpack_result
        from jacloom_worker.protocol import Kind

        actor.Leisure = lambda tidy: leisure.Leisure(tidy, period=0.05)
        engine.IDLE_SECONDS = 2.0
        worker, task = actor.Worker(None, False, None, DEFAULT), product(SCAN, Kind.JVP, "a")
        given = [POINTS[0], seed(Kind.JVP)]
        packed = pack_task(task, 60.0, [Operand(Type(array.dtype.name, array.shape), b"") for array in given])

        def computed():
            answer, _ = unpack_result(worker.run(packed, task.load, *(array.tobytes() for array in given)))
            return arrays(answer)[0].tobytes(), len(kept(worker._process.engine))

        first = computed()
        while len(kept(worker._process.engine)):
            time.sleep(0.05)
        print(first[1], computed() == first)
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["1", "True"], done.stderr
