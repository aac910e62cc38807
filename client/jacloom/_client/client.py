"""The client that users have, put together from its groups of methods."""

from __future__ import annotations

from types import TracebackType

from jacloom._client.jobs import Jobs
from jacloom._client.products import Products
from jacloom._client.questions import Questions
from jacloom._client.registration import Registration
from jacloom._client.transforms import Transforms
from jacloom._session import Session


class Client(Transforms, Products, Questions, Jobs, Registration):
    """Derivatives from a service. Made by ``jl.connect``; safe to share between threads, not between forked processes.

    In all methods, ``f`` is a callable that JAX can trace, a ``jl.Function``, a ``jl.RemoteFunction``, or a function's id. Arguments are pytrees of
    arrays and numbers; Python bools, ints and strings that are not differentiated are fixed while tracing. Results have the function's tree, with
    leaves that are NumPy arrays of their own, writable. Every method takes ``timeout`` in seconds (default: no limit), after which the work is
    cancelled and ``jl.DeadlineExceeded`` raised; those that compute take ``on_progress``, which is called with ``jl.Progress`` and replaces the bar
    that long calls show on a terminal. All errors derive from ``jl.JacloomError``.
    """

    def __init__(self, session: Session) -> None:
        """Wraps a session; use ``jl.connect`` instead."""
        self._session = session

    def close(self) -> None:
        """Ends the connection, calls under way included; the last client of a local service stops it. Closing twice does nothing."""
        self._session.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
