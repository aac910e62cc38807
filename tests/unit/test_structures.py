"""Structures are asked for once, kept while there is room, and stored once for workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from jacloom_graph.errors import Fault, Reason
from jacloom_server.structures import Search, Structures
from jacloom_server.work import Assignment
from jacloom_worker.launch import Operand
from jacloom_worker.pattern import colouring
from jacloom_worker.pattern.layout import arrange
from jacloom_worker.protocol import Dense, Kernel, Kind, Load, Prices, Structure, Task, Weighed

FUNCTION: Any = SimpleNamespace(load=lambda: Load(b""), name="functions/f")


def structure(m: int, n: int) -> Structure:
    found = csr_array(np.eye(m, n, dtype=bool))
    colours = colouring.by_columns(found)
    return arrange(found, colours, (Weighed("coloured forward", colours.forward, 0, exact=True),))


def search(number: int) -> Search:
    return Search(Kernel(f"{number}", Kind.FORWARD, (0,), (0,)), Prices(1.0, 2.0), 100)


class Asked:
    """Stands where workers are asked, and counts how often: what they would find is not what is tested here."""

    def __init__(self, *answers: Structure | Dense | Fault) -> None:
        self.answers = list(answers)
        self.count = 0
        self.given: list[Sequence[Operand]] = []
        """The patterns that came with the searches."""
        self.held = asyncio.Event()
        self.held.set()

    def structure(self, task: Task, prices: Prices, most: int, given: Sequence[Operand], lease: float) -> None:
        self.given.append(given)

    async def ask(self, assignment: Assignment) -> Structure | Dense:
        assert assignment.label == "the sparsity pattern"
        self.count += 1
        assignment.send(self, 1.0, False)
        answer = self.answers.pop(0)
        await self.held.wait()
        if isinstance(answer, Fault):
            raise answer
        return answer


def nbytes(found: Structure) -> int:
    (part,) = found.parts
    arrays = (found.pointers, found.indices, found.sources, *2 * (part.colours, part.lines, part.along, part.bounds))
    return sum(array.nbytes for array in arrays)


async def test_calls_at_the_same_time_ask_once() -> None:
    made, pool = Structures(), Asked(structure(3, 4))
    pool.held.clear()
    calls = [asyncio.create_task(made.find(pool, FUNCTION, search(0))) for _ in range(3)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    calls[0].cancel()
    await asyncio.sleep(0)
    pool.held.set()
    first, second = await calls[1], await calls[2]
    assert first is second is await made.find(pool, FUNCTION, search(0))  # type: ignore[arg-type]
    assert pool.count == 1


async def test_prices_that_hardly_differ_ask_for_nothing_and_others_for_colours_alone() -> None:
    first, second = structure(3, 4), structure(4, 3)
    made, pool = Structures(), Asked(first, second)
    asked = search(0)
    near, far, other = (replace(asked, prices=Prices(1.0, price)) for price in (2.4, 9.0, 8.0))
    assert await made.find(pool, FUNCTION, asked) is await made.find(pool, FUNCTION, near) is first  # type: ignore[arg-type]
    assert (pool.count, pool.given) == (1, [()])
    assert await made.find(pool, FUNCTION, far) is await made.find(pool, FUNCTION, other) is second  # type: ignore[arg-type]
    pointers, indices = pool.given[1]
    assert (pointers.data, indices.data) == (first.pointers.tobytes(), first.indices.tobytes())
    assert await made.find(pool, FUNCTION, near) is first  # type: ignore[arg-type]
    assert pool.count == 2


async def test_what_is_dense_is_remembered_and_a_fault_is_not() -> None:
    made, pool = Structures(), Asked(Dense("full"), Fault(Reason.NO_WORKERS, "none"), structure(3, 4))
    for _ in range(2):
        assert await made.find(pool, FUNCTION, search(0)) == Dense("full")  # type: ignore[arg-type]
    with pytest.raises(Fault):
        await made.find(pool, FUNCTION, search(1))  # type: ignore[arg-type]
    assert isinstance(await made.find(pool, FUNCTION, search(1)), Structure)  # type: ignore[arg-type]
    assert pool.count == 3


async def test_what_was_not_used_for_longest_makes_room() -> None:
    found = structure(30, 40)
    made, pool = Structures(2 * nbytes(found)), Asked(*(structure(30, 40) for _ in range(5)))

    async def find(number: int) -> int:
        await made.find(pool, FUNCTION, search(number))  # type: ignore[arg-type]
        return pool.count

    assert [await find(0), await find(1), await find(0), await find(2)] == [1, 2, 2, 3]
    assert [await find(0), await find(2)] == [3, 3]
    assert await find(1) == 4, "the one that had to go"


async def test_the_newest_stays_though_it_was_asked_for_first() -> None:
    found = structure(30, 40)
    made, pool = Structures(nbytes(found)), Asked(found, structure(30, 41))
    pool.held.clear()
    slow = asyncio.create_task(made.find(pool, FUNCTION, search(0)))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    held, pool.held = pool.held, asyncio.Event()
    pool.held.set()
    await made.find(pool, FUNCTION, search(1))  # type: ignore[arg-type]
    held.set()
    await slow
    await made.find(pool, FUNCTION, search(0))  # type: ignore[arg-type]
    assert pool.count == 2


async def test_one_that_is_too_large_is_kept_until_the_next() -> None:
    made, pool = Structures(1), Asked(structure(3, 4), structure(4, 3))
    first = await made.find(pool, FUNCTION, search(0))  # type: ignore[arg-type]
    assert await made.find(pool, FUNCTION, search(0)) is first  # type: ignore[arg-type]
    await made.find(pool, FUNCTION, search(1))  # type: ignore[arg-type]
    assert len(made._found) == 1


async def test_operands_are_made_once_and_go_with_their_structure() -> None:
    made, pool = Structures(1), Asked(structure(3, 4), structure(4, 3))
    found = await made.find(pool, FUNCTION, search(0))  # type: ignore[arg-type]
    assert isinstance(found, Structure)
    (operands,) = made.operands(found)
    assert [(operand.type.dtype, operand.type.shape) for operand in operands] == [
        ("int32", (4,)),
        ("int32", (3,)),
        ("int32", (3,)),
        ("int64", (2,)),
    ]
    assert [np.frombuffer(operand.data, operand.type.dtype).tolist() for operand in operands][1:] == [[0, 1, 2], [0, 1, 2], [0, 3]]
    assert made.operands(structure(3, 4))[0] is operands
    await made.find(pool, FUNCTION, search(1))  # type: ignore[arg-type]
    assert made.operands(found)[0] is not operands


async def test_a_structure_without_passes_has_no_operands() -> None:
    nothing = csr_array((3, 4), dtype=bool)
    empty = arrange(nothing, colouring.by_columns(nothing), (Weighed("coloured forward", 0, 0, exact=True),))
    assert Structures().operands(empty) == ()


@pytest.mark.parametrize("reason", [Reason.INTERNAL, Reason.POISONED, Reason.TOO_SLOW])
async def test_a_search_that_fails_costs_the_pattern_and_not_the_derivative(reason: Reason) -> None:
    made, pool = Structures(), Asked(Fault(reason, "the rule of sort is wrong"))
    for _ in range(2):
        found = await made.find(pool, FUNCTION, search(0))
        assert isinstance(found, Dense)
        assert "the rule of sort is wrong" in found.reason
    assert pool.count == 1, "and it is not repeated"


@pytest.mark.parametrize(("reason", "needed"), [(Reason.INTERNAL, True), (Reason.NO_WORKERS, False), (Reason.MODE_UNAVAILABLE, False)])
async def test_a_failure_is_the_calls_where_the_pattern_is_needed_or_the_reason_another(reason: Reason, needed: bool) -> None:
    made, pool = Structures(), Asked(Fault(reason, "no"), structure(3, 4))
    asked = replace(search(0), needed=needed)
    with pytest.raises(Fault, match="no"):
        await made.find(pool, FUNCTION, asked)
    assert isinstance(await made.find(pool, FUNCTION, asked), Structure), "and the next call asks again"
