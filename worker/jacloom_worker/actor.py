"""The Ray actor that computes: a shell around one ``Engine``. Importable without JAX, because the server imports the class to start it elsewhere."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jacloom_graph.errors import Fault
from jacloom_graph.limits import Limits
from jacloom_graph.types import OPSET
from jacloom_worker.envelope import Result, pack_result, unpack_task
from jacloom_worker.leisure import Leisure
from jacloom_worker.notes import Notes
from jacloom_worker.protocol import PROTOCOL, Hello, Load, Prices
from jacloom_worker.watchdog import Watchdog

if TYPE_CHECKING:
    from jacloom_worker.engine import Engine


class Process:
    """What workers and clerks have in common: a configured JAX, an engine, a watchdog, and a word about themselves."""

    def __init__(self, threads: int | None, gpu: bool, memory: int | None, limits: Limits) -> None:
        """Prepares this process; takes seconds, because it imports JAX.

        Args:
            threads: Size of XLA's thread pool; None for one thread per core.
            gpu: Compute on the GPU that Ray assigned to this process.
            memory: Bytes that computations may allocate; None for no bound.
            limits: Bounds on graphs.
        """
        # XLA reads NPROC when it is loaded, and nothing else bounds its CPU threads.
        if threads is not None:
            os.environ["NPROC"] = str(threads)
        else:
            os.environ.pop("NPROC", None)
        from jacloom_worker import devices
        from jacloom_worker import memory as memory_
        from jacloom_worker.engine import Engine

        devices.configure("gpu" if gpu else "cpu")
        self._device = devices.device()
        if memory is not None and not gpu:
            memory_.limit(memory)
        memory_.collect_rarely()
        self.engine: Engine = Engine(limits, memory)
        self.watchdog = Watchdog()
        self.notes = Notes()
        logging.getLogger().addHandler(self.notes)

    def hello(self) -> Hello:
        """Returns what this process is and speaks."""
        import jax
        import ray

        return Hello(
            protocol=PROTOCOL,
            opset=OPSET,
            jax=jax.__version__,
            node=ray.get_runtime_context().get_node_id(),
            pid=os.getpid(),
            platform=self._device.platform,
            device=self._device.name,
        )


class Worker:
    """Computes tasks, one after the other."""

    def __init__(self, threads: int | None, gpu: bool, memory: int | None, limits: Limits) -> None:
        """See ``Process``."""
        self._process = Process(threads, gpu, memory, limits)
        self._leisure = Leisure(self._process.engine.tidy)

    def hello(self) -> Hello:
        """See ``Process.hello``."""
        return self._process.hello()

    def run(self, packed: bytes, load: Load | None, *buffers: Any) -> Any:
        """Computes one task.

        Args:
            packed: The task, from ``envelope.pack_task``.
            load: The function, where this worker may not hold it.
            *buffers: Elements of the task's arrays.

        Returns:
            ``envelope.pack_result`` of the answer. Domain errors are values; an exception is a defect.
        """
        return self._answer(packed, load, buffers, self._process.engine.run)

    def diagnose(self, packed: bytes, load: Load, *buffers: Any) -> Any:
        """Returns the ``Diagnosis`` of a function at a point, or the fault that it has, packed. Arguments as for ``run``."""
        return self._answer(packed, load, buffers, self._process.engine.diagnose)

    def structure(self, packed: bytes, load: Load, prices: Prices, most: int, *buffers: Any) -> Any:
        """Returns the ``Structure`` of a derivative, or ``Dense``, or the fault that it has, packed. ``buffers``: of a given pattern."""
        return self._answer(packed, load, buffers, lambda task, *given: self._process.engine.structure(task, prices, most, *given))

    def _answer(self, packed: bytes, load: Load | None, buffers: Sequence[Any], compute: Callable[..., Result]) -> Any:
        process = self._process
        try:
            task, lease, arrays = unpack_task(packed, buffers)
        except Fault as fault:
            return pack_result(fault, process.notes.take())
        with process.watchdog.within(lease), self._leisure.interrupted():
            # Fetched on the clock: an object that is lost with its machine would keep this process waiting.
            answer = compute(replace(task, load=fetched(load) if load is not None else None), *arrays)
        return pack_result(answer, process.notes.take())


def fetched(load: Load) -> Load:
    """Returns a function with its bytes at hand. Constants stay in shared memory; the views keep them there."""
    import ray

    def bring(value: Any) -> Any:
        if isinstance(value, ray.ObjectRef):
            value = ray.get(value)
        return value if isinstance(value, bytes) else memoryview(value).cast("B")

    return replace(load, graph=bytes(bring(load.graph)), constants={name: bring(value) for name, value in load.constants.items()})
