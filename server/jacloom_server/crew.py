"""The processes on the pool's seats: started a few at a time, greeted, and replaced when they are gone."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from jacloom_server.slot import Slot, State
from jacloom_worker import launch
from jacloom_worker.launch import Role, Seat
from jacloom_worker.protocol import Hello

_LOG = logging.getLogger(__name__)

_START_SECONDS: Final = 120.0
"""Seconds until a process must have said hello: it imports JAX, perhaps on a busy machine."""
_BREATH: Final = 1.5
"""Seconds between a process's hello and the start of the next: the first call is waiting for the first processes, and would share their cores."""
_REFUSED_PAUSE: Final = 30.0
"""Seconds between tries of a seat whose process did not fit this server."""


class Crew:
    """Slots with their processes. Knows nothing of errands. Lives on one event loop; nothing here is thread-safe.

    Attributes:
        slots: The seats with their processes, in the order in which they were added.
        refusal: Why the last process that was refused does not fit this server; empty if none was.
    """

    def __init__(self, abreast: int, changed: Callable[[], None]) -> None:
        """Makes a crew without seats.

        Args:
            abreast: Processes that start at the same time. Each keeps a core busy for some seconds.
            changed: Called whenever a process has become ready or was lost.
        """
        self.slots: list[Slot] = []
        self.refusal = ""
        self._loop = asyncio.get_running_loop()
        self._abreast = abreast
        self._changed = changed
        self._waiting: deque[Slot] = deque()
        """Slots whose turn to start a process has not come."""

    def add(self, seats: Iterable[Seat]) -> None:
        """Starts processes on those of some seats that are new, in order."""
        present = {slot.seat for slot in self.slots}
        for seat in seats:
            if seat not in present:
                slot = Slot(seat)
                self.slots.append(slot)
                self._waiting.append(slot)
        self._start_next()

    def retire(self, slot: Slot) -> None:
        """Takes a seat away: its process ends, and no other follows."""
        slot.retired = True
        self.slots.remove(slot)
        self._end(slot)

    def dismiss(self, slot: Slot, why: str) -> None:
        """Ends a slot's process, if it has not ended by itself, and has another started after a pause."""
        known = slot.state is State.READY
        self._end(slot)
        pause = slot.pause()
        _LOG.warning("%s is lost: %s; another is started in %.1f s", slot.seat, why, pause)
        slot.timer = self._loop.call_later(pause, self._start, slot)
        slot.failures += 1
        if known:
            self._changed()
        self._start_next()

    def close(self) -> None:
        """Ends all processes for good."""
        for slot in list(self.slots):
            self.retire(slot)

    def _start_next(self) -> None:
        """Starts processes on slots that wait for their turn, as many as may start at the same time."""
        starting = sum(slot.state is State.STARTING for slot in self.slots)
        while self._waiting and starting < self._abreast:
            self._start(self._waiting.popleft())
            starting += 1

    def _start(self, slot: Slot) -> None:
        if slot.retired:
            return
        slot.state = State.STARTING
        slot.functions.clear()
        slot.suspect = False
        try:
            slot.handle = handle = launch.start(slot.seat)
            greeting = handle.hello()
        except Exception as error:
            _LOG.error("%s could not be started", slot.seat, exc_info=error)
            self.dismiss(slot, "it could not be started")
            return
        slot.timer = self._loop.call_later(_START_SECONDS, self._overslept, slot, handle)
        on_loop(self._loop, greeting, lambda future: self._greeted(slot, handle, future))

    def _overslept(self, slot: Slot, handle: launch.Handle) -> None:
        if slot.handle is handle and slot.state is State.STARTING:
            self.dismiss(slot, f"it did not start within {_START_SECONDS:.0f} s")

    def _greeted(self, slot: Slot, handle: launch.Handle, future: Future[Hello]) -> None:
        if slot.handle is not handle or slot.state is not State.STARTING:
            return
        error = future.exception()
        if error is not None:
            _LOG.debug("%s failed to start", slot.seat, exc_info=error)
            # An exception in the constructor repeats itself: its text is the only way to learn why nothing works.
            self.dismiss(slot, f"it failed to start: {_brief(error)}")
            return
        hello = future.result()
        refusal = launch.refusal(hello, slot.seat)
        if refusal is not None:
            self.refusal = refusal
            _LOG.error("%s (process %d) is refused: %s", slot.seat, hello.pid, refusal)
            self._end(slot)
            slot.state = State.REFUSED
            slot.timer = self._loop.call_later(_REFUSED_PAUSE, self._start, slot)
            self._start_next()
            return
        if slot.timer is not None:
            slot.timer.cancel()
        slot.hello = hello
        slot.state = State.READY
        _LOG.info("%s is ready: process %d, %s, JAX %s", slot.seat, hello.pid, hello.device, hello.jax)
        self._changed()
        self._loop.call_later(_BREATH, self._start_next)

    def _end(self, slot: Slot) -> None:
        """Ends a slot's process, and forgets it."""
        slot.state = State.DOWN
        slot.hello = None
        if slot.timer is not None:
            slot.timer.cancel()
        if slot.handle is not None:
            try:
                slot.handle.kill()
            except Exception as error:
                _LOG.debug("ending %s failed", slot.seat, exc_info=error)
            slot.handle = None

    def ready(self, *roles: Role) -> int:
        """Returns how many processes of some roles are ready; of any, without roles."""
        return sum(slot.state is State.READY and (not roles or slot.seat.role in roles) for slot in self.slots)


def on_loop(loop: asyncio.AbstractEventLoop, future: Future[Any], then: Callable[[Future[Any]], None]) -> None:
    """Calls back on an event loop when a future of Ray's ends, which it does in a thread of Ray's."""

    def handover(done: Future[Any]) -> None:
        # The loop may be closed: then the server has ended, and with it whoever waited.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(then, done)

    future.add_done_callback(handover)


def _brief(error: BaseException) -> str:
    """Returns the last line of an exception's text: Ray puts the remote traceback before it."""
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__
