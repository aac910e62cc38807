"""Messages on their way from the thread that makes them to the one in which gRPC takes them."""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Final

_MOST: Final = 2
"""Messages that wait: one is being sent while the next is made."""


class Feed:
    """An iterator for gRPC over messages that another thread hands in.

    What makes the messages is the user's: run in gRPC's thread, its errors would be printed and lost, and Ctrl-C would not reach it.
    """

    def __init__(self) -> None:
        self._change = Condition()
        self._waiting: deque[bytes] = deque()
        self._complete = False
        self._over = False

    def put(self, message: bytes) -> bool:
        """Hands in a message once there is room; returns False if the call is over and nothing more is taken."""
        with self._change:
            self._change.wait_for(lambda: self._over or len(self._waiting) < _MOST)
            self._waiting.append(message)
            self._change.notify_all()
            return not self._over

    def complete(self) -> None:
        """Says that all messages have been handed in."""
        with self._change:
            self._complete = True
            self._change.notify_all()

    def stop(self) -> None:
        """Says that the call is over, however it ended: nobody waits any more."""
        with self._change:
            self._over = True
            self._change.notify_all()

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> bytes:
        with self._change:
            self._change.wait_for(lambda: self._over or self._complete or bool(self._waiting))
            if self._over or not self._waiting:
                raise StopIteration
            message = self._waiting.popleft()
            self._change.notify_all()
            return message
