"""A function at a point that many calls are about: bound once, its large arguments uploaded once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jacloom import _leaves, _upload
from jacloom._binding import Binding
from jacloom._connection import Connection
from jacloom._deadline import Deadline
from jacloom._errors import ClientStateError
from jacloom_graph.framing import Pieces
from jacloom_graph.types import Type


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """Arguments as the service has them."""

    tensors: Sequence[Pieces]
    """Serialized ``Tensor`` messages: small arguments whole, large ones by the name of their blob."""
    weights: Sequence[Pieces] = ()
    """The same of the weights."""
    leased: Sequence[str] = ()
    """Names of the blobs, kept by the service for as long as they are used now and then."""


class Point:
    """A function's arguments as they are now, for many calls. Safe to share between threads."""

    def __init__(self, f: Any, binding: Binding, leaves: Sequence[Any], weights: Sequence[np.ndarray], types: Sequence[Type]) -> None:
        """Copies the arguments: what the caller does to an array later must not move the point.

        Args:
            f: The function, as the user gave it.
            binding: How arguments become its inputs.
            leaves: The leaves of the arguments.
            weights: Of the outputs, where their weighted sum is what the calls are about; else none.
            types: Types of the weights.

        Raises:
            ArgumentError: if one is a shape without elements.
        """
        self.f = f
        self.binding = binding
        self.leaves = [leaf.copy() if type(leaf) is np.ndarray else leaf for leaf in leaves]
        self._arrays = [leaf if type(leaf) is np.ndarray else np.array(_leaves.to_array(leaf)) for leaf in binding.inputs(self.leaves)]
        self._weights = [array.copy() for array in weights]
        self._types = (*binding.signature.inputs, *types)
        self._sent: Sent | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments by position, and those by name."""
        whole = self.binding.arguments.unflatten(self.leaves)
        return whole if self.binding.keywords else (whole, {})

    @property
    def leased(self) -> Sequence[str]:
        """Names of the blobs that the service holds for this point now. Takes no lock: a finalizer may ask."""
        sent = self._sent
        return () if sent is None else sent.leased

    def sent(self, connection: Connection, deadline: Deadline) -> Sent:
        """Returns the arguments as the service has them, uploaded now if they are not there. Other threads wait for that.

        Raises:
            ClientStateError: if the point was released.
            JacloomError: what keeps the service from taking them.
        """
        with self._lock:
            if self._closed:
                raise ClientStateError("this operator is closed; make a new one with client.linear_operator(...)")
            if self._sent is None:
                tensors, leased = _upload.tensors(connection, [*self._arrays, *self._weights], self._types, deadline)
                count = len(self._arrays)
                self._sent = Sent(tensors[:count], tensors[count:], leased)
            return self._sent

    def lost(self, connection: Connection, sent: Sent) -> None:
        """Notes that the service misses a blob, perhaps one of these: the next call uploads them anew, unless another thread has done so."""
        with self._lock:
            if self._sent is not sent:
                return
            self._sent = None
        _upload.release(connection, sent.leased)

    def release(self, connection: Connection) -> None:
        """Lets the service drop the arguments. Calls after this are refused."""
        with self._lock:
            self._closed, sent, self._sent = True, self._sent, None
        if sent is not None:
            _upload.release(connection, sent.leased)
