"""The Ray actor that answers questions about functions without running them, so that the server never parses a graph and never imports JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jacloom_graph.limits import Limits
from jacloom_worker.actor import Process, fetched
from jacloom_worker.envelope import Result, pack_result
from jacloom_worker.protocol import Hello, Load


class Clerk:
    """Parses, checks, identifies, infers and prices."""

    def __init__(self, threads: int | None, gpu: bool, memory: int | None, limits: Limits) -> None:
        """See ``Process``."""
        self._process = Process(threads, gpu, memory, limits)

    def hello(self) -> Hello:
        """See ``Process.hello``."""
        return self._process.hello()

    def describe(self, load: Load, lease: float) -> Any:
        """Returns the ``Description`` of a graph, or the fault that it has, packed."""
        return self._answer(load, lease, self._process.engine.describe)

    def validate(self, load: Load, lease: float) -> Any:
        """Returns the ``Validation`` of a graph, or the fault that it has, packed."""
        return self._answer(load, lease, self._process.engine.validate)

    def survey(self, load: Load, lease: float, wrt: tuple[int, ...], outputs: tuple[int, ...], holomorphic: bool, second: bool) -> Any:
        """Returns the ``Survey`` of a function with respect to some leaves, or the fault that it has, packed."""
        return self._answer(load, lease, lambda here: self._process.engine.survey(here, wrt, outputs, holomorphic, second))

    def derivatives(self, load: Load, lease: float) -> Any:
        """Returns the ``DerivativeReport`` of a function, or the fault that it has, packed."""
        return self._answer(load, lease, self._process.engine.derivatives)

    def _answer(self, load: Load, lease: float, question: Callable[[Load], Result]) -> Any:
        with self._process.watchdog.within(lease):
            try:
                result = question(fetched(load))
            except Exception as error:
                from jacloom_worker.faults import explain

                result = explain(error)
        return pack_result(result, self._process.notes.take())
