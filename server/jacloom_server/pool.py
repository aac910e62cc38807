"""The pool: errands from many calls to many processes, on credit; what is lost is run again elsewhere, what is cancelled stops."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, Final

from ray import exceptions as ray_errors

from jacloom_graph.errors import Fault, Reason
from jacloom_server.slot import PROMPT, Run, Slot, State, choose
from jacloom_server.status import to_fault
from jacloom_server.work import Assignment, Desk, Errand, Lane
from jacloom_worker import launch
from jacloom_worker.launch import Result, Role, Seat
from jacloom_worker.protocol import Hello, Missing

_LOG = logging.getLogger(__name__)

_CANCEL_GRACE: Final = 2.0
"""Seconds that a cancelled computation may go on before its process, with all that it has compiled, is ended."""
_START_SECONDS: Final = 120.0
"""Seconds until a process must have said hello: it imports JAX, perhaps on a busy machine."""
_BREATH: Final = 1.5
"""Seconds between a process's hello and the start of the next: the first call is waiting for the first processes, and would share their cores."""
_REFUSED_PAUSE: Final = 30.0
"""Seconds between tries of a seat whose process did not fit this server."""
_MOST_OUTAGES: Final = 10
"""Times that an errand's outcome may be lost on the way before the call is told that there are no workers."""
_LEASE_MARGIN: Final = 5.0
"""Seconds beyond a lease after which the process counts as lost; its own watchdog should have ended it by then."""
_TICK: Final = 1.0


class Pool:
    """Worker processes on seats, and the errands for them. Lives on one event loop; nothing here is thread-safe."""

    def __init__(self, *, lease: float, attempts: int, patience: float, abreast: int, changed: Callable[[], None] = lambda: None) -> None:
        """Makes a pool without seats.

        Args:
            abreast: Processes that start at the same time. Each keeps a core busy for some seconds; the first seats are wanted first.
            lease: Seconds that one errand may take.
            attempts: Processes that one errand may end before it is given up.
            patience: Seconds that errands wait while no process can take them.
            changed: Called whenever a process becomes ready or is lost.
        """
        self._loop = asyncio.get_running_loop()
        self._lease = lease
        self._attempts = attempts
        self._patience = patience
        self._changed = changed
        self._abreast = abreast
        self._slots: list[Slot] = []
        self._starting: deque[Slot] = deque()
        """Slots whose turn to start a process has not come."""
        self._lanes: deque[Lane] = deque()
        """Lanes with something in their queue, in the order of their turns."""
        self._refusal = ""
        self._closed = False
        self._ticker = self._loop.call_later(_TICK, self._tick)
        self._recheck: asyncio.TimerHandle | None = None

    def seat(self, seats: Iterable[Seat]) -> None:
        """Makes these the pool's seats: starts processes on new ones, in order, and ends those on seats that are no longer there."""
        wanted = list(seats)
        for slot in [slot for slot in self._slots if slot.seat not in wanted]:
            slot.retired = True
            self._slots.remove(slot)
            self._lose(slot, f"{slot.seat} is no longer wanted", blame=False)
        present = {slot.seat for slot in self._slots}
        for seat in wanted:
            if seat not in present:
                slot = Slot(seat)
                self._slots.append(slot)
                self._starting.append(slot)
        self._launch_next()

    def ready(self, *roles: Role) -> int:
        """Returns how many processes of some roles are ready; of any, without roles."""
        return sum(slot.state is State.READY and (not roles or slot.seat.role in roles) for slot in self._slots)

    def workers_for_tiles(self) -> int:
        """Returns how many processes tiles are spread over, those that are about to start included."""
        tilers = sum(slot.seat.role in (Role.NARROW, Role.GPU) for slot in self._slots)
        return tilers or sum(slot.seat.role is Role.WIDE for slot in self._slots)

    def processes(self) -> list[Hello]:
        """Returns what each ready process said of itself."""
        return [slot.hello for slot in self._slots if slot.state is State.READY and slot.hello is not None]

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """Yields a queue for one call's errands. At the end, however it comes, what is left of them is cancelled."""
        lane = Lane()
        try:
            yield lane
        finally:
            self._close_lane(lane)

    def submit(self, lane: Lane, assignment: Assignment) -> asyncio.Future[Result]:
        """Queues an errand.

        Returns:
            A future that ends with the answer. It is a ``Fault`` where the computation has one, or where the pool gave up: POISONED,
            TOO_SLOW, OUT_OF_MEMORY, NO_WORKERS, DRAINING, INTERNAL.
        """
        errand = Errand(assignment, lane, self._loop.create_future(), self._loop.time())
        if self._closed:
            errand.settle(_draining())
            return errand.future
        if not lane.queue:
            self._lanes.append(lane)
        lane.queue.append(errand)
        self._pump()
        return errand.future

    async def ask(self, assignment: Assignment) -> Result:
        """Returns the answer to a single errand; raises the fault where the answer is one."""
        with self.lane() as lane:
            answer = await self.submit(lane, assignment)
        if isinstance(answer, Fault):
            raise answer
        return answer

    def close(self) -> None:
        """Ends all processes. Jobs that are left end with DRAINING."""
        self._closed = True
        self._ticker.cancel()
        if self._recheck is not None:
            self._recheck.cancel()
        for slot in self._slots:
            slot.retired = True
            for run in slot.runs:
                self._settle(run, _draining())
            slot.runs.clear()
            self._end(slot)
        for lane in self._lanes:
            for errand in lane.queue:
                errand.settle(_draining())
        self._lanes.clear()
        self._slots.clear()

    # Processes: start, greet, lose, replace.

    def _launch_next(self) -> None:
        """Starts processes on slots that wait for their turn, as many as may start at the same time."""
        starting = sum(slot.state is State.STARTING for slot in self._slots)
        while self._starting and starting < self._abreast:
            self._launch(self._starting.popleft())
            starting += 1

    def _launch(self, slot: Slot) -> None:
        if slot.retired or self._closed:
            return
        slot.state = State.STARTING
        slot.functions.clear()
        try:
            slot.handle = handle = launch.start(slot.seat)
            greeting = handle.hello()
        except Exception as error:
            _LOG.error("%s could not be started", slot.seat, exc_info=error)
            self._lose(slot, "it could not be started", blame=False)
            return
        slot.timer = self._loop.call_later(_START_SECONDS, self._overslept, slot, handle)
        self._when_done(greeting, lambda future: self._greeted(slot, handle, future))

    def _overslept(self, slot: Slot, handle: launch.Handle) -> None:
        if slot.handle is handle and slot.state is State.STARTING:
            self._lose(slot, f"it did not start within {_START_SECONDS:.0f} s", blame=False)

    def _greeted(self, slot: Slot, handle: launch.Handle, future: Future[Hello]) -> None:
        if slot.handle is not handle or slot.state is not State.STARTING:
            return
        error = future.exception()
        if error is not None:
            _LOG.debug("%s failed to start", slot.seat, exc_info=error)
            # An exception in the constructor repeats itself: its text is the only way to learn why nothing works.
            self._lose(slot, f"it failed to start: {_brief(error)}", blame=False)
            return
        hello = future.result()
        refusal = launch.refusal(hello)
        if refusal is not None:
            self._refusal = refusal
            _LOG.error("%s (process %d) is refused: %s", slot.seat, hello.pid, refusal)
            self._end(slot)
            slot.state = State.REFUSED
            slot.timer = self._loop.call_later(_REFUSED_PAUSE, self._launch, slot)
            self._launch_next()
            return
        if slot.timer is not None:
            slot.timer.cancel()
        slot.hello = hello
        slot.state = State.READY
        _LOG.info("%s is ready: process %d, %s, JAX %s", slot.seat, hello.pid, hello.device, hello.jax)
        self._changed()
        self._pump()
        self._loop.call_later(_BREATH, self._launch_next)

    def _lose(self, slot: Slot, why: str, *, blame: bool = True, fault: Fault | None = None) -> None:
        """Ends a slot's process, puts its errands back into their queues, and has another process started.

        Args:
            slot: The slot.
            why: What happened, for the log.
            blame: The errand that was being computed counts as the cause.
            fault: What that errand ends with, if it shall not be tried again.
        """
        runs, known = list(slot.runs), slot.state is State.READY
        slot.runs.clear()
        self._end(slot)
        slot.state = State.DOWN
        slot.hello = None
        for position, run in enumerate(runs):
            if run.settled:
                continue
            first = position == 0
            if run.errand.lane.closed:
                self._settle(run, Fault(Reason.INTERNAL, "cancelled"))
            elif first and fault is not None:
                self._settle(run, fault)
            else:
                run.errand.deaths += first and blame
                self._again(run)
        if slot.retired or self._closed:
            return
        _LOG.warning("%s is lost: %s; another is started in %.1f s", slot.seat, why, slot.pause())
        slot.timer = self._loop.call_later(slot.pause(), self._launch, slot)
        slot.failures += 1
        if known:
            self._changed()
        self._pump()
        self._launch_next()

    def _end(self, slot: Slot) -> None:
        """Ends a slot's process and all timers that watch it."""
        for timer in (slot.timer, *(run.timer for run in slot.runs)):
            if timer is not None:
                timer.cancel()
        if slot.handle is not None:
            try:
                slot.handle.kill()
            except Exception as error:
                _LOG.debug("ending %s failed", slot.seat, exc_info=error)
            slot.handle = None

    def _again(self, run: Run) -> None:
        """Puts an errand whose outcome is lost back to the front of its queue, or gives it up."""
        errand = run.errand
        run.settled = True
        if run.timer is not None:
            run.timer.cancel()
        if errand.deaths >= self._attempts:
            message = (
                f"{errand.assignment.label} ended {errand.deaths} workers one after the other, so this part of the work is not tried again; "
                "it may need more memory than a worker has, or meet a defect of the compiler"
            )
            errand.settle(Fault(Reason.POISONED, message))
        elif errand.outages >= _MOST_OUTAGES:
            errand.settle(Fault(Reason.NO_WORKERS, "the workers cannot be reached reliably; try again in a while"))
        else:
            errand.lane.retries += 1
            errand.since = self._loop.time()
            if not errand.lane.queue:
                self._lanes.append(errand.lane)
            errand.lane.queue.appendleft(errand)

    # Jobs: out, back, cancelled.

    def _pump(self) -> None:
        """Sends out whatever can be sent, one errand of each lane in turn."""
        now = self._loop.time()
        idle = 0
        while self._lanes and idle < len(self._lanes):
            lane = self._lanes[0]
            slot = choose(lane.queue[0], self._slots, now)
            if slot is None:
                self._lanes.rotate(-1)
                idle += 1
                continue
            idle = 0
            self._lanes.popleft()
            errand = lane.queue.popleft()
            if lane.queue:
                self._lanes.append(lane)
            self._send(errand, slot, now)
        if self._recheck is None and any(lane.queue[0].assignment.desk is Desk.PASSES for lane in self._lanes):
            # Another role may help out once the right process has been busy for long; nothing else would wake us then.
            self._recheck = self._loop.call_later(PROMPT, self._check_again)

    def _check_again(self) -> None:
        self._recheck = None
        self._pump()

    def _send(self, errand: Errand, slot: Slot, now: float) -> None:
        handle, function = slot.handle, errand.assignment.function
        assert handle is not None
        loading = bool(function) and function not in slot.functions
        try:
            sent = errand.assignment.send(handle, self._lease, loading)
        except Exception as error:
            # Arguments that cannot be sent: a function or blob that is gone, or an object store that is full.
            errand.settle(to_fault(error))
            return
        if function:
            slot.functions.add(function)
        run = Run(errand, slot, now, self._lease, loaded=loading, alone=errand.deaths > 0)
        slot.runs.append(run)
        errand.lane.seats.add(str(slot.seat))
        if len(slot.runs) == 1:
            self._watch(run)
        self._when_done(sent, lambda future: self._landed(run, future))

    def _watch(self, run: Run) -> None:
        """Starts the clock of a run that the process has begun, or begins now; anew, and shorter, if its caller has gone."""
        if run.timer is not None:
            run.timer.cancel()
        run.began = self._loop.time()
        seconds = _CANCEL_GRACE if run.errand.lane.closed else run.lease + _LEASE_MARGIN
        run.timer = self._loop.call_later(seconds, self._overdue, run)

    def _overdue(self, run: Run) -> None:
        if run.settled:
            return
        if run.errand.lane.closed:
            self._lose(run.slot, f"its caller had gone and {run.errand.assignment.label} went on", blame=False)
        else:
            self._lose(run.slot, f"{run.errand.assignment.label} took longer than {run.lease:.0f} s", fault=self._too_slow(run))

    def _landed(self, run: Run, future: Future[Any]) -> None:
        """Takes an answer, or what came instead of one."""
        if run.settled:
            return
        try:
            packed = future.result()
        except ray_errors.ActorUnavailableError:
            # The reply is lost and the process perhaps not; whether it computed is unknown. Jobs may be computed twice, so that does not matter.
            self._remove(run)
            run.errand.outages += 1
            self._again(run)
            self._probe(run.slot)
        except ray_errors.RayTaskError as error:
            self._remove(run)
            self._settle(run, to_fault(error))
        except ray_errors.RayError as error:
            self._died(run, error)
            return
        except Exception as error:
            self._remove(run)
            self._settle(run, to_fault(error))
        else:
            self._answered(run, packed)
        self._pump()

    def _answered(self, run: Run, packed: Any) -> None:
        try:
            result, notes = launch.open_result(packed)
        except Exception as error:
            self._remove(run)
            self._settle(run, to_fault(error))
            return
        for note in notes:
            logging.getLogger(note.logger).log(
                note.level, "%s (process %d): %s", run.slot.seat, run.slot.hello.pid if run.slot.hello else 0, note.text
            )
        run.slot.failures = 0
        self._remove(run)
        if isinstance(result, Missing):
            # The process dropped the function to make room; it gets it again, in front of all else.
            run.slot.functions.discard(run.errand.assignment.function)
            run.settled = True
            if run.loaded:
                run.errand.settle(to_fault(RuntimeError(f"{run.slot.seat} does not take the function {run.errand.assignment.function}")))
            elif not run.errand.lane.closed:
                self._send(run.errand, run.slot, self._loop.time())
            return
        self._settle(run, result)

    def _remove(self, run: Run) -> None:
        """Takes a run out of its slot; the one behind it is the process's business now."""
        slot = run.slot
        if run.timer is not None:
            run.timer.cancel()
        if run in slot.runs:
            first = slot.runs[0] is run
            slot.runs.remove(run)
            if first and slot.runs:
                self._watch(slot.runs[0])

    def _settle(self, run: Run, result: Result) -> None:
        run.settled = True
        if run.timer is not None:
            run.timer.cancel()
        run.errand.settle(result)

    def _died(self, run: Run, error: ray_errors.RayError) -> None:
        _LOG.debug("%s died", run.slot.seat, exc_info=error)
        if run.slot.runs and self._loop.time() - run.slot.runs[0].began >= run.lease:
            # The process's own watchdog was quicker than ours.
            self._lose(run.slot, "a computation took longer than its lease", fault=self._too_slow(run.slot.runs[0]))
        elif isinstance(error, ray_errors.OutOfMemoryError):
            text = "the machine ran out of memory while it worked on this call; use smaller tiles, or workers with more memory"
            self._lose(run.slot, "its machine ran out of memory", fault=Fault(Reason.OUT_OF_MEMORY, text))
        else:
            self._lose(run.slot, f"its process ended while it was at {run.slot.runs[0].errand.assignment.label if run.slot.runs else 'nothing'}")

    def _too_slow(self, run: Run) -> Fault:
        return Fault(Reason.TOO_SLOW, f"{run.errand.assignment.label} took longer than {run.lease:.0f} s, compiling included; use smaller tiles")

    def _probe(self, slot: Slot) -> None:
        """Finds out whether a process that could not be reached is still there."""
        handle = slot.handle
        if handle is None or slot.state is not State.READY:
            return
        asked = handle.hello()
        timer = self._loop.call_later(
            self._lease + _LEASE_MARGIN, lambda: self._lose(slot, "it cannot be reached", blame=False) if slot.handle is handle else None
        )

        def heard(future: Future[Hello]) -> None:
            timer.cancel()
            if slot.handle is handle and isinstance(future.exception(), ray_errors.ActorDiedError):
                self._lose(slot, "its process ended")

        self._when_done(asked, heard)

    def _close_lane(self, lane: Lane) -> None:
        """Drops what waits, and lets what is being computed go on for a moment; what comes after it in the same process likewise, once begun."""
        lane.closed = True
        if lane in self._lanes:
            self._lanes.remove(lane)
        for errand in lane.queue:
            errand.future.cancel()
        lane.queue.clear()
        for slot in self._slots:
            for run in slot.runs:
                if run.errand.lane is lane:
                    run.errand.future.cancel()
            if slot.runs and slot.runs[0].errand.lane is lane:
                self._watch(slot.runs[0])

    # Time.

    def _tick(self) -> None:
        """Gives up on errands that nobody has been there for."""
        self._ticker = self._loop.call_later(_TICK, self._tick)
        now = self._loop.time()
        for desk in Desk:
            able = [slot for slot in self._slots if slot.serves(desk)]
            if any(slot.state is State.READY for slot in able):
                continue
            refused = bool(able) and all(slot.state is State.REFUSED for slot in able)
            for lane in list(self._lanes):
                for errand in [
                    errand for errand in lane.queue if errand.assignment.desk is desk and (refused or now - errand.since > self._patience)
                ]:
                    lane.queue.remove(errand)
                    errand.settle(Fault(Reason.NO_WORKERS, self._nobody(refused)))
                if not lane.queue:
                    self._lanes.remove(lane)

    def _nobody(self, refused: bool) -> str:
        if refused:
            return f"the workers do not fit this server: {self._refusal}"
        return f"no worker has been available for {self._patience:.0f} s; the service's log says why they do not start. Try again in a while"

    def _when_done(self, future: Future[Any], then: Callable[[Future[Any]], None]) -> None:
        """Calls back on the loop when a future of Ray's ends, which it does in a thread of Ray's."""

        def handover(done: Future[Any]) -> None:
            # The loop may be closed: then the server has ended, and with it whoever waited.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(then, done)

        future.add_done_callback(handover)


def _draining() -> Fault:
    return Fault(Reason.DRAINING, "the service is shutting down; try again in a while")


def _brief(error: BaseException) -> str:
    """Returns the last line of an exception's text: Ray puts the remote traceback before it."""
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__
