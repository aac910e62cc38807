"""Starting worker processes on a Ray cluster, and talking with them. Loads Ray, never JAX."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jacloom_graph.limits import DEFAULT, Limits
from jacloom_graph.types import OPSET
from jacloom_worker import envelope
from jacloom_worker.actor import Worker
from jacloom_worker.clerk import Clerk
from jacloom_worker.envelope import INLINE_BYTES, Note, Operand, Result
from jacloom_worker.protocol import PROTOCOL, Hello, Load, Prices, Task
from jacloom_worker.unit import Order, Recipe, Site, Unit

__all__ = ["INLINE_BYTES", "Handle", "Node", "Note", "Operand", "Result", "Role", "Seat", "here", "nodes", "open_result", "refusal", "start"]


class Role(Enum):
    """What a worker process is for."""

    CLERK = "clerk"
    """Questions about functions."""
    NARROW = "narrow"
    """One thread; tiles."""
    WIDE = "wide"
    """All threads of its node; single passes."""
    GPU = "gpu"
    """One GPU; everything."""


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the Ray cluster."""

    id: str
    cpus: int
    gpus: int
    memory: int
    """Bytes that Ray counts as available to tasks."""


@dataclass(frozen=True, slots=True)
class Seat:
    """A place for one worker process. If the process dies, another takes the seat."""

    role: Role
    index: int
    """Tells seats of one role on one node apart."""
    node: str = ""
    """Ray's id of the node it must run on; empty for any."""
    memory: int | None = None
    """Bytes that it may allocate; None for no bound."""
    limits: Limits = DEFAULT
    """Bounds on the graphs that it accepts."""

    def __str__(self) -> str:
        return f"{self.role.value} worker {self.index}" + (f" on node {self.node[:8]}" if self.node else "")


class Handle:
    """A worker process that was started: what it is asked, and how it is ended.

    Calls return at once. Their futures end, in a thread of Ray's, with what ``open_result`` opens, or with an exception of Ray's. A call cannot
    be taken back: after ``ray.cancel`` of one that still waits, the process may wait half a minute for it before it goes on to the next.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def hello(self) -> Future[Hello]:
        """Returns what the process says of itself, as soon as it is up."""
        return _future(self._actor.hello.remote())

    def run(self, task: Task, operands: Sequence[Operand], lease: float) -> Future[Any]:
        """Sends a task and its arrays to a worker."""
        packed = envelope.pack_task(task, lease, operands)
        return _future(self._actor.run.remote(packed, task.load, *(operand.data for operand in operands)))

    def diagnose(self, task: Task, operands: Sequence[Operand], lease: float) -> Future[Any]:
        """Asks a worker what is wrong with a function at a point; the task has its ``load``."""
        packed = envelope.pack_task(task, lease, operands)
        return _future(self._actor.diagnose.remote(packed, task.load, *(operand.data for operand in operands)))

    def structure(self, task: Task, prices: Prices, most: int, given: Sequence[Operand], lease: float) -> Future[Any]:
        """Asks a worker for the pattern of a derivative and how to colour it; the task has its ``load``."""
        packed = envelope.pack_task(task, lease, given)
        return _future(self._actor.structure.remote(packed, task.load, prices, most, *(operand.data for operand in given)))

    def write(self, recipe: Recipe, unit: Unit, site: Site, operands: Sequence[Operand], load: Load | None, lease: float) -> Future[Any]:
        """Has a worker compute a unit of a job and write it aside."""
        packed = envelope.pack_task(Order(recipe, unit, site), lease, operands)
        return _future(self._actor.write.remote(packed, load, *(operand.data for operand in operands)))

    def pace(self, recipe: Recipe, unit: Unit, site: Site, operands: Sequence[Operand], load: Load | None, lease: float) -> Future[Any]:
        """Asks a worker how many points of a job are best computed at once, to be tried on those of the unit."""
        packed = envelope.pack_task(Order(recipe, unit, site), lease, operands)
        return _future(self._actor.pace.remote(packed, load, *(operand.data for operand in operands)))

    def describe(self, load: Load, lease: float) -> Future[Any]:
        """Asks a clerk for the description of a graph."""
        return _future(self._actor.describe.remote(load, lease))

    def validate(self, load: Load, lease: float) -> Future[Any]:
        """Asks a clerk for the types of a graph's values."""
        return _future(self._actor.validate.remote(load, lease))

    def survey(self, load: Load, lease: float, wrt: tuple[int, ...], outputs: tuple[int, ...], holomorphic: bool, second: bool) -> Future[Any]:
        """Asks a clerk which derivatives a function has, and their price."""
        return _future(self._actor.survey.remote(load, lease, wrt, outputs, holomorphic, second))

    def derivatives(self, load: Load, lease: float) -> Future[Any]:
        """Asks a clerk in which modes a function can be differentiated."""
        return _future(self._actor.derivatives.remote(load, lease))

    def kill(self) -> None:
        """Ends the process, whatever it is doing. The futures of its calls end with an exception."""
        ray.kill(self._actor, no_restart=True)


def _future(ref: Any) -> Future[Any]:
    future: Future[Any] = ref.future()
    return future


def start(seat: Seat) -> Handle:
    """Starts the process for a seat. Returns at once; ``Handle.hello`` tells when it is up."""
    options: dict[str, Any] = {
        # Attempts are counted by the pool: Ray would retry what kills workers for ever.
        "max_restarts": 0,
        "max_task_retries": 0,
        "num_cpus": 1 if seat.role is Role.NARROW else 0,
        "num_gpus": 1 if seat.role is Role.GPU else 0,
    }
    if seat.node:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(seat.node, soft=False)
    threads = 1 if seat.role in (Role.NARROW, Role.CLERK) else None
    actor = ray.remote(Clerk if seat.role is Role.CLERK else Worker).options(**options)
    return Handle(actor.remote(threads, seat.role is Role.GPU, seat.memory, seat.limits))


def open_result(packed: Any) -> tuple[Result, tuple[Note, ...]]:
    """Returns the answer and the log notes in what a call's future ended with."""
    return envelope.unpack_result(packed)


def refusal(hello: Hello, seat: Seat) -> str | None:
    """Returns why this server cannot work with the process on a seat, or None if it can."""
    if seat.role is Role.GPU and hello.platform != "gpu":
        return "Ray has given it a GPU, and JAX finds none there; install jax[cuda13], or run the server with --gpus 0"
    if hello.protocol != PROTOCOL:
        return f"it speaks protocol {hello.protocol} and this server {PROTOCOL}; install the same release of jacloom on every machine"
    if hello.opset != OPSET:
        return f"it has op table {hello.opset} and this server {OPSET}; install the same release of jacloom on every machine"
    return None


def here() -> str:
    """Returns Ray's id of the machine that this process runs on."""
    node: str = ray.get_runtime_context().get_node_id()
    return node


def nodes() -> list[Node]:
    """Returns the living machines of the cluster that this process has joined. Blocks for a moment."""
    found = []
    for node in ray.nodes():
        if node["Alive"]:
            resources = node["Resources"]
            found.append(Node(node["NodeID"], int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), int(resources.get("memory", 0))))
    return found
