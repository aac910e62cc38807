"""The pool: errands from many calls to many processes, on credit; what is lost is run again elsewhere, what is cancelled stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

from ray import exceptions as ray_errors

from jacloom_graph.errors import Fault, Reason
from jacloom_server.crew import Crew, on_loop
from jacloom_server.slot import PROMPT, Run, Slot, State, choose, reserve
from jacloom_server.status import to_fault
from jacloom_server.turns import Turns
from jacloom_server.work import Assignment, Desk, Errand, Lane
from jacloom_worker import launch
from jacloom_worker.launch import Result, Role, Seat
from jacloom_worker.protocol import Hello, Missing

_LOG = logging.getLogger(__name__)

_CANCEL_GRACE: Final = 2.0
"""Seconds that a cancelled computation may go on before its process, with all that it has compiled, is ended."""
_MOST_OUTAGES: Final = 10
"""Times that an errand's outcome may be lost on the way before the call is told that there are no workers."""
_SUSPECT_SECONDS: Final = 30.0
"""Seconds in which a process that could not be reached must be heard of again, or another takes its seat."""
_AT_ONCE: Final = 0.1
"""Seconds: a process that is found dead sooner than this after it was sent something had been dead before."""
_LEASE_MARGIN: Final = 5.0
"""Seconds beyond a lease after which the process counts as lost; its own watchdog should have ended it by then."""
_TICK: Final = 1.0


class Pool:
    """Worker processes on seats, and the errands for them. Lives on one event loop; nothing here is thread-safe."""

    def __init__(self, *, lease: float, attempts: int, patience: float, abreast: int, changed: Callable[[], None] = lambda: None) -> None:
        """Makes a pool without seats.

        Args:
            lease: Seconds that one errand may take.
            attempts: Processes that one errand may end before it is given up.
            patience: Seconds that errands wait while no process can take them.
            abreast: Processes that start at the same time. Each keeps a core busy for some seconds.
            changed: Called whenever a process becomes ready or is lost.
        """
        self._loop = asyncio.get_running_loop()
        self._lease = lease
        self._attempts = attempts
        self._patience = patience
        self._changed = changed
        self._crew = Crew(abreast, self._crew_changed)
        self._turns = Turns()
        self._closed = False
        self._ticker = self._loop.call_later(_TICK, self._tick)
        self._recheck: asyncio.TimerHandle | None = None

    def seat(self, seats: Iterable[Seat]) -> None:
        """Makes these the pool's seats: starts processes on new ones, in order, and ends those on seats that are no longer there."""
        wanted = list(seats)
        for slot in [slot for slot in self._crew.slots if slot.seat not in wanted]:
            runs = self._taken(slot)
            self._crew.retire(slot)
            self._rerun(runs)
        self._crew.add(wanted)
        self._pump()

    def ready(self, *roles: Role) -> int:
        """Returns how many processes of some roles are ready; of any, without roles."""
        return self._crew.ready(*roles)

    def workers_for_tiles(self) -> int:
        """Returns how many processes tiles are spread over, those that are about to start included."""
        tilers = sum(slot.seat.role in (Role.NARROW, Role.GPU) for slot in self._crew.slots)
        return tilers or sum(slot.seat.role is Role.WIDE for slot in self._crew.slots)

    def memory_for_tiles(self) -> int | None:
        """Returns how many bytes each process may use that tiles are spread over; None where there is no bound for any of them."""
        bounds = [
            slot.seat.memory for slot in self._crew.slots if slot.seat.role in (Role.NARROW, Role.GPU, Role.WIDE) and slot.seat.memory is not None
        ]
        return min(bounds, default=None)

    def processes(self) -> list[Hello]:
        """Returns what each ready process said of itself."""
        return [slot.hello for slot in self._crew.slots if slot.state is State.READY and slot.hello is not None]

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
        self._turns.add(errand)
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
        """Ends all processes. Errands that are left end with DRAINING."""
        self._closed = True
        self._ticker.cancel()
        if self._recheck is not None:
            self._recheck.cancel()
        for slot in self._crew.slots:
            for run in self._taken(slot):
                self._settle(run, _draining())
        self._crew.close()
        for errand in self._turns.take_out(lambda _: True):
            errand.settle(_draining())

    def _crew_changed(self) -> None:
        self._changed()
        self._pump()

    def _lose(self, slot: Slot, why: str, *, blame: bool = True, fault: Fault | None = None) -> None:
        """Ends a slot's process and has its errands run elsewhere.

        Args:
            slot: The slot.
            why: What happened, for the log.
            blame: The errand that was being computed counts as the cause.
            fault: What that errand ends with, if it shall not be tried again.
        """
        first, *others = [*self._taken(slot), None]
        self._crew.dismiss(slot, why)
        if first is not None:
            first.errand.deaths += blame
            if fault is not None:
                self._settle(first, fault)
        self._rerun([run for run in (first, *others) if run is not None])
        self._pump()

    def _taken(self, slot: Slot) -> list[Run]:
        """Takes all runs out of a slot and returns those that are still to be answered, the one being computed first."""
        runs = list(slot.runs)
        slot.runs.clear()
        for run in runs:
            if run.timer is not None:
                run.timer.cancel()
        return runs

    def _rerun(self, runs: Sequence[Run]) -> None:
        """Puts errands whose outcome is lost back to the front of their queues, in order."""
        for run in reversed(runs):
            if not run.settled:
                self._again(run)

    def _again(self, run: Run) -> None:
        """Puts an errand whose outcome is lost back to the front of its queue, or gives it up."""
        errand = run.errand
        run.settled = True
        if run.timer is not None:
            run.timer.cancel()
        if errand.lane.closed:
            return
        if errand.deaths >= (errand.assignment.attempts or self._attempts):
            ended = "its worker" if errand.deaths == 1 else f"{errand.deaths} workers one after the other"
            message = (
                f"{errand.assignment.label} ended {ended}, so this part of the work is not tried again; "
                "it may need more memory than a worker has, or meet a defect of the compiler"
            )
            errand.settle(Fault(Reason.POISONED, message))
        elif errand.outages >= _MOST_OUTAGES:
            errand.settle(Fault(Reason.NO_WORKERS, "the workers cannot be reached reliably; try again in a while"))
        else:
            errand.lane.retries += 1
            errand.since = self._loop.time()
            self._turns.put_back(errand)

    def _pump(self) -> None:
        """Sends out whatever can be sent."""
        self._turns.hand_out(self._place)
        if self._recheck is None and any(errand.assignment.desk is Desk.PASSES for errand in self._turns.firsts()):
            # Another role may help out once the right process has been busy for long; nothing else would wake us then.
            self._recheck = self._loop.call_later(PROMPT, self._check_again)

    def _place(self, errand: Errand) -> bool:
        """Sends an errand to the process that had best do it now; False if it had better wait."""
        now = self._loop.time()
        slot = choose(errand, self._crew.slots, now)
        if slot is None:
            reserve(errand, self._crew.slots, self._loop.time())
            return False
        self._send(errand, slot, now)
        return True

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
        errand.lane.served = now
        if len(slot.runs) == 1:
            self._watch(run)
        on_loop(self._loop, sent, lambda future: self._landed(run, future))

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
            # The reply is lost and the process perhaps not; whether it computed is unknown. Errands may be computed twice, so that does not matter.
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
        elif run.slot.runs and self._loop.time() - run.slot.runs[0].began < _AT_ONCE:
            # Nobody tells us of a process that ends while it has nothing to do.
            for each in run.slot.runs:
                each.errand.outages += 1
            self._lose(run.slot, "its process had ended", blame=False)
        else:
            self._lose(run.slot, f"its process ended while it was at {run.slot.runs[0].errand.assignment.label if run.slot.runs else 'nothing'}")

    def _too_slow(self, run: Run) -> Fault:
        return Fault(Reason.TOO_SLOW, f"{run.errand.assignment.label} took longer than {run.lease:.0f} s, compiling included; use smaller tiles")

    def _probe(self, slot: Slot) -> None:
        """Finds out whether a process that could not be reached is still there."""
        handle = slot.handle
        if handle is None or slot.state is not State.READY:
            return
        if slot.suspect:
            return
        slot.suspect = True
        asked = handle.hello()
        timer = self._loop.call_later(
            _SUSPECT_SECONDS, lambda: self._lose(slot, "it cannot be reached", blame=False) if slot.handle is handle and slot.suspect else None
        )

        def heard(future: Future[Hello]) -> None:
            if slot.handle is not handle:
                timer.cancel()
            elif future.exception() is None:
                timer.cancel()
                slot.suspect = False
                self._pump()
            elif isinstance(future.exception(), ray_errors.ActorDiedError):
                timer.cancel()
                self._lose(slot, "its process ended", blame=False)
            # Else it still cannot be reached, and the timer decides.

        on_loop(self._loop, asked, heard)

    def _close_lane(self, lane: Lane) -> None:
        """Drops what waits, and lets what is being computed go on for a moment; what comes after it in the same process likewise, once begun."""
        lane.closed = True
        for errand in self._turns.take_out(lambda errand: errand.lane is lane):
            errand.future.cancel()
        for slot in self._crew.slots:
            for run in slot.runs:
                if run.errand.lane is lane:
                    run.errand.future.cancel()
            if slot.runs and slot.runs[0].errand.lane is lane:
                self._watch(slot.runs[0])

    def _tick(self) -> None:
        """Gives up on errands that nobody has been there for."""
        self._ticker = self._loop.call_later(_TICK, self._tick)
        for desk in Desk:
            able = [slot for slot in self._crew.slots if slot.serves(desk)]
            if not any(slot.state is State.READY for slot in able):
                self._give_up(desk, refused=bool(able) and all(slot.state is State.REFUSED for slot in able))

    def _give_up(self, desk: Desk, *, refused: bool) -> None:
        """Gives up on errands of a kind: all where processes were refused, else those that have waited for long."""
        latest = self._loop.time() - self._patience
        for errand in self._turns.take_out(lambda errand: errand.assignment.desk is desk and (refused or errand.since < latest)):
            errand.settle(Fault(Reason.NO_WORKERS, self._nobody(refused)))

    def _nobody(self, refused: bool) -> str:
        if refused:
            return f"the workers do not fit this server: {self._crew.refusal}"
        return f"no worker has been available for {self._patience:.0f} s; the service's log says why they do not start. Try again in a while"


def _draining() -> Fault:
    return Fault(Reason.DRAINING, "the service is shutting down; try again in a while")
