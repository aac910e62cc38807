"""The errands that wait, call by call: each call's in order, and the calls in turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from jacloom_server.work import Errand, Lane


class Turns:
    """Lanes with something in their queue, in the order of their turns. A call with many errands does not keep others waiting."""

    def __init__(self) -> None:
        self._lanes: deque[Lane] = deque()

    def add(self, errand: Errand) -> None:
        """Puts an errand at the end of its lane's queue; a lane that had none has its turn after all others."""
        self._present(errand.lane)
        errand.lane.queue.append(errand)

    def put_back(self, errand: Errand) -> None:
        """Puts an errand to the front of its lane's queue."""
        self._present(errand.lane)
        errand.lane.queue.appendleft(errand)

    def firsts(self) -> Iterator[Errand]:
        """Yields the first errand of each lane."""
        return (lane.queue[0] for lane in self._lanes)

    def hand_out(self, place: Callable[[Errand], bool]) -> None:
        """Offers first errands, one lane after the other, until none that is left finds a place.

        Args:
            place: Sends an errand to where there is room for it; False if there is none.
        """
        refused = 0
        while refused < len(self._lanes):
            lane = self._lanes[0]
            if not place(lane.queue[0]):
                self._lanes.rotate(-1)
                refused += 1
                continue
            refused = 0
            self._lanes.popleft()
            lane.queue.popleft()
            if lane.queue:
                self._lanes.append(lane)

    def take_out(self, unwanted: Callable[[Errand], bool]) -> list[Errand]:
        """Returns the errands that are unwanted, in order, which no longer wait then."""
        taken = [errand for lane in self._lanes for errand in lane.queue if unwanted(errand)]
        for errand in taken:
            errand.lane.queue.remove(errand)
        self._lanes = deque(lane for lane in self._lanes if lane.queue)
        return taken

    def _present(self, lane: Lane) -> None:
        if not lane.queue:
            self._lanes.append(lane)
