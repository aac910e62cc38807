"""The pool with real Ray and real workers, in this process: placing, cancelling, losing, refusing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integration import graphs
from unit.batch import Batch

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Graph, Type
from jacloom_server import work
from jacloom_server.cluster import Cluster
from jacloom_server.pool import Pool
from jacloom_server.work import Desk, Lane
from jacloom_worker import launch
from jacloom_worker.launch import Operand, Role, Seat
from jacloom_worker.protocol import Description, Done, Kernel, Kind, Load, Survey, Task
from jacloom_worker.unit import Pace, Recipe, Site, Unit, Written

CLERK, NARROW, SECOND, WIDE = Seat(Role.CLERK, 0), Seat(Role.NARROW, 0), Seat(Role.NARROW, 1), Seat(Role.WIDE, 0)


async def seated(pool: Pool, *seats: Seat) -> None:
    pool.seat(seats)
    async with asyncio.timeout(60):
        while pool.ready() < len(seats):
            await asyncio.sleep(0.05)


def tile(graph: Graph, n: int, start: int = 0, width: int = 2, function: str = "f" * 64, desk: Desk = Desk.TILES) -> work.Assignment:
    task = Task(Kernel(function, Kind.FORWARD, (0,), (0,), (), width), start=start, count=width)
    operand = Operand(Type("float64", (n,)), np.linspace(0, 1, n).tobytes())
    return work.compute(desk, task, [operand], lambda: Load(graphs.serialized(graph)), f"seeds {start} to {start + width - 1}")


LONG = graphs.decay(4, 100_000_000)
"""Half a minute of work a tile."""


async def until_computing(lane: Lane) -> None:
    while not lane.seats:
        await asyncio.sleep(0.02)
    await asyncio.sleep(1.0)


async def test_clerk_and_workers_answer(pool: Pool) -> None:
    await seated(pool, CLERK, NARROW)
    graph = graphs.serialized(graphs.sine(3))
    described = await pool.ask(work.describe(Load(graph)))
    assert isinstance(described, Description)
    assert described.outputs == (Type("float64", (3,)),)
    surveyed = await pool.ask(work.survey(Load(graph), (0,), (0,), False, False))
    assert isinstance(surveyed, Survey)
    done = await pool.ask(tile(graphs.sine(3), 3, function=described.id))
    assert isinstance(done, Done)
    np.testing.assert_allclose(done.arrays[0], np.diag(np.cos([0, 0.5, 1]))[:, :2])
    assert done.compile_seconds > 0
    with pytest.raises(Fault) as caught:
        await pool.ask(work.describe(Load(b"no graph")))
    assert caught.value.reason is Reason.INVALID_GRAPH


async def test_single_passes_go_to_the_wide_worker_and_tiles_to_the_narrow(pool: Pool) -> None:
    await seated(pool, NARROW, WIDE)
    with pool.lane() as lane:
        await pool.submit(lane, tile(graphs.sine(3), 3))
        assert lane.seats == {"narrow worker 0"}
    with pool.lane() as lane:
        await pool.submit(lane, tile(graphs.sine(3), 3, desk=Desk.PASSES))
        assert lane.seats == {"wide worker 0"}


async def test_a_single_pass_does_not_wait_behind_a_long_one(pool: Pool) -> None:
    await seated(pool, NARROW, WIDE)
    with pool.lane() as long, pool.lane() as short:
        pool.submit(long, tile(LONG, 4, desk=Desk.PASSES))
        await until_computing(long)
        started = time.monotonic()
        assert isinstance(await pool.submit(short, tile(graphs.sine(3), 3, desk=Desk.PASSES, function="a" * 64)), Done)
        assert time.monotonic() - started < 5
        assert short.seats == {"narrow worker 0"}


async def test_calls_take_turns(pool: Pool) -> None:
    await seated(pool, NARROW)
    await pool.ask(tile(graphs.sine(40), 40))
    order: list[str] = []
    with pool.lane() as many, pool.lane() as few:
        futures = [pool.submit(many, tile(graphs.sine(40), 40, start)) for start in range(0, 40, 2)]
        futures += [pool.submit(few, tile(graphs.sine(40), 40, start)) for start in range(0, 4, 2)]
        for index, future in enumerate(futures):
            future.add_done_callback(lambda _, name="many" if index < 20 else "few": order.append(name))
        await asyncio.gather(*futures)
    # Two of the first call's tiles are on their way when the second comes.
    assert order.index("few") <= 4
    assert [name for name in order if name == "few"] == ["few", "few"]
    assert order[8:] == ["many"] * 14


async def test_a_cancelled_call_frees_its_worker(pool: Pool) -> None:
    await seated(pool, NARROW)
    (hello,) = pool.processes()
    with pool.lane() as lane:
        futures = [pool.submit(lane, tile(LONG, 4, start)) for start in (0, 2, 0, 2)]
        await until_computing(lane)
    assert all(future.cancelled() for future in futures)
    started = time.monotonic()
    done = await pool.ask(tile(graphs.sine(3), 3, function="b" * 64))
    assert isinstance(done, Done)
    # The computation is given two seconds, then its process goes and another takes the seat.
    assert 1.0 < time.monotonic() - started < 20
    assert [process.pid for process in pool.processes()] != [hello.pid]


async def test_cancelling_short_work_costs_no_worker(pool: Pool) -> None:
    await seated(pool, NARROW)
    (hello,) = pool.processes()
    await pool.ask(tile(graphs.sine(40), 40))
    with pool.lane() as lane:
        for start in range(0, 40, 2):
            pool.submit(lane, tile(graphs.sine(40), 40, start))
    await pool.ask(tile(graphs.sine(40), 40))
    await asyncio.sleep(2.5)
    assert [process.pid for process in pool.processes()] == [hello.pid]


async def test_a_worker_that_is_killed_is_replaced_and_its_work_run_again(pool: Pool) -> None:
    await seated(pool, NARROW)
    (hello,) = pool.processes()
    slow = graphs.decay(4, 10_000_000)
    with pool.lane() as lane:
        futures = [pool.submit(lane, tile(slow, 4, start)) for start in (0, 2)]
        await until_computing(lane)
        os.kill(hello.pid, signal.SIGKILL)
        answers = await asyncio.gather(*futures)
        assert all(isinstance(answer, Done) for answer in answers)
        assert lane.retries >= 1
    assert [process.pid for process in pool.processes()] != [hello.pid]


async def test_work_that_ends_every_worker_is_given_up_alone(pool: Pool) -> None:
    await seated(pool, NARROW, SECOND)
    killed: list[int] = []
    with pool.lane() as lane, pool.lane() as other:
        poisoned = pool.submit(lane, tile(LONG, 4, 2))

        async def kill() -> None:
            while not poisoned.done():
                for process in pool.processes():
                    if process.pid not in killed and working(process.pid):
                        killed.append(process.pid)
                        os.kill(process.pid, signal.SIGKILL)
                await asyncio.sleep(0.1)

        async with asyncio.timeout(90):
            await kill()
        fault = poisoned.result()
        assert isinstance(fault, Fault)
        assert (fault.reason, len(killed)) == (Reason.POISONED, 3)
        assert "seeds 2 to 3" in fault.message
        assert isinstance(await pool.submit(other, tile(graphs.sine(3), 3, function="c" * 64)), Done)


def working(pid: int) -> bool:
    """Returns whether a process computes; one that waits for work uses next to no time."""
    import psutil

    process = psutil.Process(pid)
    before = sum(process.cpu_times()[:2])
    time.sleep(0.3)
    return sum(process.cpu_times()[:2]) - before > 0.15


async def test_a_computation_past_its_lease_ends(cluster: Cluster) -> None:
    pool = Pool(lease=2.0, attempts=3, patience=20.0, abreast=4)
    try:
        await seated(pool, NARROW)
        with pytest.raises(Fault) as caught:
            await pool.ask(tile(LONG, 4))
        assert caught.value.reason is Reason.TOO_SLOW
        assert "took longer than 2 s" in caught.value.message
        assert isinstance(await pool.ask(tile(graphs.sine(3), 3)), Done)
    finally:
        pool.close()


async def test_a_function_travels_once_and_again_when_it_was_dropped(pool: Pool) -> None:
    await seated(pool, NARROW)
    loads = []

    def load() -> Load:
        loads.append(1)
        return Load(graphs.serialized(graphs.sine(3)))

    def value(function: str) -> work.Assignment:
        operand = Operand(Type("float64", (3,)), np.zeros(3).tobytes())
        return work.compute(Desk.TILES, Task(Kernel(function, Kind.VALUE, values=(0,))), [operand], load, "the value")

    await pool.ask(value("d" * 64))
    await pool.ask(value("d" * 64))
    assert len(loads) == 1
    # As if the process had held it and then made room.
    pool._crew.slots[0].functions.add("e" * 64)
    assert isinstance(await pool.ask(value("e" * 64)), Done)
    assert len(loads) == 2


async def test_nobody_there(cluster: Cluster) -> None:
    pool = Pool(lease=60.0, attempts=3, patience=1.0, abreast=4)
    try:
        with pytest.raises(Fault) as caught:
            await pool.ask(tile(graphs.sine(3), 3))
        assert caught.value.reason is Reason.NO_WORKERS
    finally:
        pool.close()
    with pytest.raises(Fault) as caught:
        await pool.ask(tile(graphs.sine(3), 3))
    assert caught.value.reason is Reason.DRAINING


async def test_a_worker_of_another_release_is_refused(pool: Pool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(launch, "PROTOCOL", launch.PROTOCOL + 1)
    pool.seat([NARROW])
    with pytest.raises(Fault) as caught:
        await pool.ask(tile(graphs.sine(3), 3))
    assert caught.value.reason is Reason.NO_WORKERS
    assert "install the same release" in caught.value.message
    assert "is refused" in caplog.text


async def test_seats_come_and_go(pool: Pool) -> None:
    await seated(pool, NARROW)
    (first,) = pool.processes()
    pool.seat([SECOND])
    async with asyncio.timeout(60):
        while not pool.ready():
            await asyncio.sleep(0.05)
    (second,) = pool.processes()
    assert second.pid != first.pid
    assert isinstance(await pool.ask(tile(graphs.sine(3), 3)), Done)


async def test_workers_that_ended_while_they_had_nothing_to_do_are_nobodys_fault(pool: Pool) -> None:
    await seated(pool, NARROW, SECOND, WIDE)
    for process in pool.processes():
        os.kill(process.pid, signal.SIGKILL)
    assert isinstance(await pool.ask(tile(graphs.sine(3), 3, function="9" * 64)), Done)


async def test_a_worker_that_cannot_be_reached_is_passed_over_and_replaced(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jacloom_server.pool._SUSPECT_SECONDS", 1.0)
    await seated(pool, NARROW, SECOND)
    slot = pool._crew.slots[0]
    before = slot.hello
    assert before is not None
    pool._probe(slot)
    assert slot.suspect
    assert isinstance(await pool.ask(tile(graphs.sine(3), 3, function="8" * 64)), Done)
    async with asyncio.timeout(30):
        while slot.suspect:
            await asyncio.sleep(0.05)
    assert slot.hello is before, "it answered, so it stays"
    os.kill(before.pid, signal.SIGSTOP)
    try:
        pool._probe(slot)
        async with asyncio.timeout(60):
            while slot.hello is before or slot.hello is None:
                await asyncio.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(before.pid, signal.SIGKILL)
    assert not slot.suspect
    assert isinstance(await pool.ask(tile(graphs.sine(3), 3, function="7" * 64)), Done)


@pytest.fixture
def batch(worker_jax: None, tmp_path: Path) -> Batch:
    """A job whose points take as many steps as they say."""

    def f(x: jax.Array, steps: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, steps, lambda _, y: y + 1e-6 * jnp.sin(y), x)

    return Batch(tmp_path, f, {0: np.arange(12.0).reshape(4, 3), 1: np.array([10, 20, 300_000_000, 40])}, {})


class Attempts:
    """Makes sites, each with a folder of its own, and remembers them."""

    def __init__(self, batch: Batch) -> None:
        self.batch, self.sites = batch, list[Site]()

    def __call__(self) -> Site:
        self.sites.append(self.batch.site())
        return self.sites[-1]


def values(batch: Batch) -> Recipe:
    return batch.single(batch.kernel(Kind.VALUE, (), (), values=(0,)), 1, batch.outputs)


def unit(batch: Batch, recipe: Recipe, point: int, attempts: Attempts | None = None) -> work.Assignment:
    return work.write(recipe, Unit(point, point, 1), attempts or Attempts(batch), [], lambda: batch.load)


async def test_units_are_written_and_paces_measured(pool: Pool, batch: Batch) -> None:
    await seated(pool, NARROW)
    columns = batch.tiles(batch.kernel(Kind.FORWARD, (0,), (0,), width=2), 2)
    measured = await pool.ask(work.pace(columns, Unit(0, 0, 2), batch.site(), [], lambda: batch.load))
    assert isinstance(measured, Pace)
    assert measured.points in (1, 2)
    attempts = Attempts(batch)
    done = await pool.ask(work.write(columns.at_once(2), Unit(0, 0, 2), attempts, [], lambda: batch.load))
    assert isinstance(done, Written)
    (site,) = attempts.sites
    (chunk,) = done.chunks
    data = (Path(site.aside) / chunk.path).read_bytes()
    assert chunk.matches(data)
    expected = [np.diag((1 + 1e-6 * np.cos(x)) ** steps) for x, steps in zip(np.arange(6.0).reshape(2, 3), (10, 20), strict=True)]
    np.testing.assert_allclose(np.frombuffer(data[:-4]).reshape(2, 3, 3), expected, atol=1e-9)


async def test_a_call_waits_for_one_unit_at_most(pool: Pool, batch: Batch) -> None:
    await seated(pool, NARROW)
    await pool.ask(tile(graphs.sine(3), 3))
    recipe, order = values(batch), list[str]()
    with pool.lane() as job, pool.lane() as call:
        slow = pool.submit(call, tile(graphs.decay(4, 20_000_000), 4, function="9" * 64))
        await until_computing(call)
        assert not slow.done()
        futures = {"unit 0": pool.submit(job, unit(batch, recipe, 0)), "unit 1": pool.submit(job, unit(batch, recipe, 1))}
        futures |= {"tile 0": pool.submit(call, tile(graphs.sine(3), 3)), "tile 1": pool.submit(call, tile(graphs.sine(3), 3))}
        for name, future in futures.items():
            future.add_done_callback(lambda _, name=name: order.append(name))
        await asyncio.gather(slow, *futures.values())
        assert all(isinstance(future.result(), Written if "unit" in name else Done) for name, future in futures.items())
    # Whose turn it is when the process is free is as it may be; but it is never given both units before the tiles.
    assert order in (["tile 0", "tile 1", "unit 0", "unit 1"], ["unit 0", "tile 0", "tile 1", "unit 1"])


async def test_a_unit_that_ends_its_worker_is_the_jobs_business(pool: Pool, batch: Batch) -> None:
    await seated(pool, NARROW)
    (hello,) = pool.processes()
    recipe, attempts = values(batch), Attempts(batch)
    with pool.lane() as lane:
        future = pool.submit(lane, unit(batch, recipe, 2, attempts))
        await until_computing(lane)
        os.kill(hello.pid, signal.SIGKILL)
        async with asyncio.timeout(30):
            fault = await future
    assert isinstance(fault, Fault)
    assert (fault.reason, len(attempts.sites)) == (Reason.POISONED, 1)
    assert fault.message.startswith("point 2 ended its worker, ")


async def test_each_time_that_a_unit_is_sent_is_another_attempt(pool: Pool, batch: Batch) -> None:
    await seated(pool, NARROW)
    # As if the process had held the function and then made room.
    pool._crew.slots[0].functions.add(batch.function)
    attempts = Attempts(batch)
    assert isinstance(await pool.ask(unit(batch, values(batch), 0, attempts)), Written)
    assert len({site.aside for site in attempts.sites}) == 2
    assert [Path(site.aside).exists() for site in attempts.sites] == [False, True]
