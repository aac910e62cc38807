"""Which worker processes each machine gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jacloom_graph.limits import Limits
from jacloom_graph.types import OPSET
from jacloom_server.config import Config
from jacloom_server.seats import layout
from jacloom_worker.launch import Node, Role, Seat, refusal
from jacloom_worker.protocol import PROTOCOL, Hello

LAPTOP = Node("a" * 8, 4, 0, 8 << 30)
SERVER = Node("b" * 8, 16, 2, 64 << 30)


def roles(*nodes: Node, **settings: object) -> list[str]:
    return [seat.role.value for seat in layout(nodes, Config(**settings), pinned=False)]


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([LAPTOP], {}, ["clerk", *["narrow"] * 4, "wide"]),
        ([LAPTOP], {"workers": 1, "wide": False}, ["clerk", "narrow"]),
        ([LAPTOP], {"workers": 0}, ["clerk", "wide"]),
        ([SERVER], {}, ["clerk", "gpu", "gpu", "wide"]),
        ([SERVER], {"gpus": 1, "workers": 2}, ["clerk", "gpu", "narrow", "narrow", "wide"]),
        ([], {}, ["clerk"]),
    ],
)
def test_roles_in_order_of_start(nodes: list[Node], settings: dict[str, object], expected: list[str]) -> None:
    assert roles(*nodes, **settings) == expected


def test_seats_of_a_cluster_stay_on_their_machine() -> None:
    seats = layout([LAPTOP, SERVER], Config(), pinned=True)
    assert seats[0].node == "", "the clerk may be anywhere"
    assert {seat.node for seat in seats if seat.role is Role.NARROW} == {LAPTOP.id}
    assert {seat.node for seat in seats if seat.role is Role.GPU} == {SERVER.id}
    assert len(set(seats)) == len(seats)


def test_memory_is_shared_out() -> None:
    seats = layout([LAPTOP], Config(), pinned=False)
    granted = sum(seat.memory or 0 for seat in seats)
    assert granted == LAPTOP.memory
    alone = layout([LAPTOP], Config(workers=0, memory=3 << 30), pinned=False)
    assert alone[-1].memory == 3 << 30


def test_a_machine_that_counts_no_memory_sets_no_bound() -> None:
    silent = Node("c" * 8, 4, 0, 0)
    assert [seat.memory for seat in layout([silent], Config(workers=3), pinned=False)] == [None] * 5
    assert [seat.memory for seat in layout([silent], Config(workers=3, memory=6 << 20), pinned=False)] == [None, *[1 << 20] * 3, 3 << 20]
    assert [seat.memory for seat in layout([silent], Config(workers=3, memory=1), pinned=False)] == [None, 1, 1, 1, 1], (
        "a small grant is none the less one"
    )


def test_limits_on_graphs_reach_every_worker() -> None:
    limits = Limits(nodes=7)
    assert {seat.limits for seat in layout([LAPTOP], Config(graph_limits=limits), pinned=False)} == {limits}


def test_a_process_without_the_gpu_of_its_seat_is_refused() -> None:
    hello = Hello(PROTOCOL, OPSET, "0.10.2", "node", 1, "cpu", "cpu, 2 threads")
    assert "--gpus 0" in str(refusal(hello, Seat(Role.GPU, 0)))
    assert refusal(hello, Seat(Role.NARROW, 0)) is None
    assert refusal(replace(hello, platform="gpu"), Seat(Role.GPU, 0)) is None
    assert "protocol" in str(refusal(replace(hello, protocol=PROTOCOL + 1), Seat(Role.NARROW, 0)))
    assert "op table" in str(refusal(replace(hello, opset=OPSET + 1), Seat(Role.NARROW, 0)))
