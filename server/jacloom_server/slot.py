"""One seat of the pool: the process that holds it now, and what that process is working on."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from jacloom_server.work import Desk, Errand
from jacloom_worker.launch import Handle, Role, Seat
from jacloom_worker.protocol import Hello

CREDITS: Final = 2
"""Errands in flight for one process: one being computed, one waiting in its queue, so that it never idles for a round trip."""
PROMPT: Final = 0.25
"""Seconds: a process that has been at an errand for longer is not given a single pass to queue behind it."""
PATIENCE: Final = 1.0
"""Seconds that a job waits for its turn beside calls that keep every process busy: it then gets one, and they have at least as long again."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 10.0


class State(Enum):
    """What became of a seat's process."""

    STARTING = "starting"
    READY = "ready"
    DOWN = "down"
    """None now; another is started after a pause."""
    REFUSED = "refused"
    """It does not fit this server."""


@dataclass(eq=False, slots=True)
class Run:
    """An errand that was sent to a process."""

    errand: Errand
    slot: Slot
    began: float
    """Loop time at which it was sent or, if another was before it, at which that one was done: then its own computation can have begun."""
    lease: float
    loaded: bool
    """The function went along."""
    alone: bool = False
    """Nothing else is sent to the process meanwhile: it ended one before, and must not be confused with its neighbour."""
    settled: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False, slots=True)
class Slot:
    """A seat with its process."""

    seat: Seat
    state: State = State.DOWN
    handle: Handle | None = None
    hello: Hello | None = None
    runs: deque[Run] = field(default_factory=deque)
    """In the order in which the process works on them; the first is being computed."""
    functions: set[str] = field(default_factory=set)
    """Functions that the process was sent."""
    failures: int = 0
    """Processes in a row that ended before they answered anything."""
    timer: asyncio.TimerHandle | None = None
    retired: bool = False
    suspect: bool = False
    """It could not be reached and has not been heard of since: others are asked meanwhile."""
    reserved: Errand | None = None
    """An errand that waits until the process has nothing else to do; meanwhile others go elsewhere."""

    def pause(self) -> float:
        """Returns how long to wait before the next process is started."""
        return min(_FIRST_PAUSE * 2.0**self.failures, _LONGEST_PAUSE)

    def serves(self, desk: Desk) -> bool:
        """Returns whether errands of that kind are this seat's business, or may become so when nobody better is there."""
        return (self.seat.role is Role.CLERK) == (desk is Desk.CLERK)

    def accepts(self, errand: Errand) -> bool:
        """Returns whether an errand can be sent to the process now."""
        if self.state is not State.READY or self.suspect or len(self.runs) >= CREDITS:
            return False
        if self.runs and (errand.deaths or errand.assignment.background):
            return False
        if self.reserved is not None and self.reserved is not errand and not self.reserved.future.done():
            return False
        return not any(run.alone for run in self.runs)

    def prompt(self, now: float) -> bool:
        """Returns whether an errand sent now would be begun soon."""
        return not self.runs or now - self.runs[0].began < PROMPT


def preference(desk: Desk, role: Role) -> int:
    """Returns how well a role suits a kind of errand: 0 best. Roles further down help out when none better is ready, or those are long busy."""
    match desk:
        case Desk.CLERK:
            return 0
        case Desk.TILES:
            return {Role.GPU: 0, Role.NARROW: 0, Role.WIDE: 1, Role.CLERK: 9}[role]
        case Desk.PASSES:
            return {Role.GPU: 0, Role.WIDE: 1, Role.NARROW: 2, Role.CLERK: 9}[role]


def choose(errand: Errand, slots: list[Slot], now: float) -> Slot | None:
    """Returns the slot that an errand should be sent to now, or None if it had better wait.

    Tiles fill every credit of the best ready role. A single pass goes to an idle process of the best role; if those are at something long, to
    an idle one of the next role, whose answer comes sooner even if it must compile first.
    """
    desk = errand.assignment.desk
    ready = [slot for slot in slots if slot.state is State.READY and slot.serves(desk)]
    if not ready:
        return None
    # Work in the background does not make do with another role: it is in no hurry, and its numbers shall be the same to the last bit.
    best = min(preference(desk, slot.seat.role) for slot in (slots if errand.assignment.background else ready) if slot.serves(desk))

    def rank(slot: Slot) -> tuple[int, int, bool, int]:
        return (preference(desk, slot.seat.role), len(slot.runs), errand.assignment.function not in slot.functions, slot.seat.index)

    free = [slot for slot in ready if slot.accepts(errand)]
    if desk is Desk.PASSES:
        free = [slot for slot in free if slot.prompt(now) and (preference(desk, slot.seat.role) == best or not slot.runs)]
        if any(preference(desk, slot.seat.role) == best for slot in ready if slot.prompt(now)):
            # The right process is at something short: worth waiting for, rather than compiling on another.
            free = [slot for slot in free if preference(desk, slot.seat.role) == best]
    else:
        free = [slot for slot in free if preference(desk, slot.seat.role) == best]
    return min(free, key=rank, default=None)


def reserve(errand: Errand, slots: list[Slot], now: float) -> None:
    """Keeps a process free for an errand that must be alone, because it ended one before or has waited long: where many call, none would be idle."""
    waited = errand.assignment.background and now - max(errand.since, errand.lane.served) > PATIENCE
    if not (errand.deaths or waited) or any(slot.reserved is errand for slot in slots):
        return
    able = [slot for slot in slots if slot.state is State.READY and slot.serves(errand.assignment.desk)]
    best = min(able, key=lambda slot: (preference(errand.assignment.desk, slot.seat.role), len(slot.runs)), default=None)
    if best is not None:
        best.reserved = errand
