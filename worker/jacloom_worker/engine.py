"""The engine: holds functions and compiled kernels, runs tasks, answers questions about graphs. Knows nothing of Ray.

Nothing here raises: a failure comes back as a ``Fault``, because an answer crosses processes and an exception would not be one.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import jax
import numpy as np

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.identity import graph_id
from jacloom_graph.limits import DEFAULT, Limits
from jacloom_worker import (
    compiling,
    compressed,
    diagnosing,
    differentiability,
    functions,
    kernels,
    linearized,
    requirements,
    second_order,
    structuring,
    surveying,
    validation,
    weighting,
)
from jacloom_worker.bounded import Bounded
from jacloom_worker.compiling import Compiled
from jacloom_worker.compressed import Repair
from jacloom_worker.faults import explain
from jacloom_worker.functions import Blueprint
from jacloom_worker.kernels import Subject
from jacloom_worker.linearized import Linearizer, Product
from jacloom_worker.protocol import (
    Answer,
    Dense,
    DerivativeReport,
    Description,
    Diagnosis,
    Done,
    Kernel,
    Kind,
    Load,
    Missing,
    Part,
    Prices,
    Structure,
    Survey,
    Task,
    Validation,
)

_LOG = logging.getLogger(__name__)

_FUNCTIONS, _FUNCTION_BYTES = 128, 4 << 30
_KERNELS = 512
_BLUEPRINTS, _BLUEPRINT_BYTES = 128, 128 << 20
_POINTS, _POINT_BYTES = 64, 2 << 30
IDLE_SECONDS: Final = 600.0
"""How long something of a point is kept that nobody asks for: as long as the server by default keeps the point itself."""


class Engine:
    """Runs tasks one at a time. Not thread-safe: one thread computes, and everything that it keeps is bounded.

    Call ``devices.configure`` before the first task.
    """

    def __init__(self, limits: Limits = DEFAULT, memory_limit: int | None = None) -> None:
        """Makes an engine that holds nothing.

        Args:
            limits: Bounds on graphs.
            memory_limit: Bytes that one kernel may need; None to let it try.
        """
        self._limits = limits
        self._memory_limit = memory_limit
        self._most_bytes = functions.MOST_BYTES if memory_limit is None else memory_limit
        self._kernels: Bounded[tuple[Kernel, bool], Compiled | Product] = Bounded(_KERNELS)
        """Programs by kernel, and whether they were asked for as products at a point that stays."""
        self._linearizer = Linearizer(memory_limit)
        self._subjects: Bounded[str, Subject] = Bounded(_FUNCTIONS, _FUNCTION_BYTES, dropped=self._forget)
        self._blueprints: Bounded[bytes, Blueprint] = Bounded(_BLUEPRINTS, _BLUEPRINT_BYTES)
        self._points: Bounded[str, list[jax.Array]] = Bounded(_POINTS, _POINT_BYTES)

    def run(self, task: Task, *arrays: np.ndarray) -> Answer:
        """Computes a task.

        Args:
            task: What to compute.
            *arrays: One per input leaf, then the seeds, of exactly the leaves' dtypes and shapes; keys as their raw data. Read-only views will
                do, and they are not looked at after the answer.

        Returns:
            ``Done`` with arrays that nothing else writes to; ``Missing`` if the function is neither held nor in the task; else the fault.
        """
        try:
            return self._run(task, arrays)
        except Exception as error:
            return explain(error)

    def tidy(self) -> None:
        """Drops what is kept of points that have not been asked for in a while. Who asks again has it computed once more."""
        self._points.discard_idle(IDLE_SECONDS)
        self._linearizer.discard_idle(IDLE_SECONDS)

    def diagnose(self, task: Task, *arrays: np.ndarray) -> Diagnosis | Missing | Fault:
        """Returns what is not finite in a function's value and derivatives, and where that begins; see ``diagnosing.diagnose``.

        Args:
            task: With its ``load``, which is read again for looking into the function. Of the kernel its function, ``wrt`` and ``outputs`` matter.
            *arrays: One per input leaf, as for ``run``.
        """
        try:
            load, subject = task.load, self._subject(task)
            if load is None or subject is None:
                return Missing()
            return diagnosing.diagnose(self.run, subject, lambda: functions.program(load, self._limits, self._most_bytes), task, arrays)
        except Exception as error:
            return explain(error)

    def structure(self, task: Task, prices: Prices, most: int, *given: np.ndarray) -> Structure | Dense | Missing | Fault:
        """Returns the sparsity pattern of a derivative and how it is coloured; see ``structuring.structure``. Nothing is compiled or computed.

        Args:
            task: With its ``load``. Its kernel is the tile kernel of the derivative.
            prices: Of one pass in either mode.
            most: How many entries are too many.
            *given: Row pointers and column indices of a pattern to use instead.
        """
        try:
            subject = self._subject(task)
            return Missing() if subject is None else structuring.structure(*weighting.weighted(subject, task.kernel), prices, most, given)
        except Exception as error:
            return explain(error)

    def describe(self, load: Load) -> Description | Fault:
        """Returns what a graph is, or what is wrong with it. Only ``load.graph`` is looked at: constants may be missing."""
        try:
            blueprint = self._blueprint(load)
            graph, census = blueprint.graph, blueprint.census
            return Description(
                id=graph_id(graph),
                inputs=blueprint.subject.inputs,
                outputs=blueprint.subject.outputs,
                in_tree=graph.in_tree,
                out_tree=graph.out_tree,
                nodes=census.nodes,
                functions=census.functions,
                expanded_nodes=census.expanded_nodes,
                blobs=blueprint.blobs,
                loops=blueprint.loops,
            )
        except Exception as error:
            return explain(error)

    def validate(self, load: Load) -> Validation | Fault:
        """Returns the types of all values of a graph, or what is wrong with it. Constants may be missing."""
        try:
            return validation.validate(self._blueprint(load).graph, self._most_bytes)
        except Exception as error:
            return explain(error)

    def survey(self, load: Load, wrt: tuple[int, ...], outputs: tuple[int, ...], holomorphic: bool = False, second: bool = False) -> Survey | Fault:
        """Returns which derivatives a function has with respect to some leaves, and what one pass costs. Nothing is compiled or computed.

        Args:
            load: The function; only ``load.graph`` is looked at.
            wrt: Input leaves that are differentiated.
            outputs: Output leaves that are differentiated.
            holomorphic: As ``Kernel.holomorphic``.
            second: Whether second derivatives are looked at, where it is in doubt that there are any.
        """
        try:
            return surveying.survey(self._blueprint(load).subject, wrt, outputs, holomorphic, second)
        except Exception as error:
            return explain(error)

    def derivatives(self, load: Load) -> DerivativeReport | Fault:
        """Returns in which modes a function can be differentiated with respect to each of its leaves. Nothing is compiled or computed.

        Args:
            load: The function; only ``load.graph`` is looked at.
        """
        try:
            return differentiability.derivatives(self._blueprint(load).subject)
        except Exception as error:
            return explain(error)

    def _run(self, task: Task, arrays: Sequence[np.ndarray]) -> Answer:
        kernel, compile_seconds = task.kernel, 0.0
        compiled = self._kernels.get((kernel, task.linearize))
        subject = self._subject(task)  # counts as used, or its kernels would go with it
        if subject is None:
            return Missing()
        if compiled is None:
            started = time.perf_counter()
            compiled = self._compiled(subject, task)
            compile_seconds = time.perf_counter() - started
            self._kernels.put((kernel, task.linearize), compiled)
        try:
            return self._computed(task, compiled, arrays, compile_seconds)
        except Exception as error:
            if isinstance(compiled, Compiled) or explain(error).reason is not Reason.OUT_OF_MEMORY:
                raise
        # What is kept may be what there was no room beside.
        self._linearizer.clear()
        started = time.perf_counter()
        plain = self._plain(subject, kernel)
        self._kernels.put((kernel, True), plain)
        return self._computed(task, plain, arrays, compile_seconds + time.perf_counter() - started)

    def _computed(self, task: Task, compiled: Compiled | Product, arrays: Sequence[np.ndarray], compile_seconds: float) -> Done:
        """Returns the answer to a task by its kernel.

        Raises:
            Fault: OUT_OF_MEMORY if the kernel needs more than there is; and what is wrong with the arrays. What XLA raises passes through.
        """
        self._check_memory(compiled)
        kernel, part = task.kernel, None
        if kernel.coloured:
            part = _part(task, arrays[compiled.leaves :])
            arrays = [*arrays[: compiled.leaves], part.colours]
        if kernel.batched:
            arrays = [*arrays[: compiled.leaves], *(_padded(task, seeds) for seeds in arrays[compiled.leaves :])]
        _check_arguments(compiled, task, arrays)
        arguments = self._placed(task, compiled, arrays)
        started = time.perf_counter()
        run = partial(self._results, task, compiled)
        results = run(arguments)
        if part is None:
            return Done(_trimmed(task, results), time.perf_counter() - started, compile_seconds)
        found, repair = _entries(run, task, part, arguments, results)
        return Done((found,), time.perf_counter() - started, compile_seconds, repair.passes, repair.doubtful)

    def _compiled(self, subject: Subject, task: Task) -> Compiled | Product:
        """Returns a task's kernel, compiled; as a product from what is kept of the point, where that is wanted and pays.

        Raises:
            Fault: Whatever is in the way of it.
        """
        differentiated, within = weighting.weighted(subject, task.kernel)
        requirements.check(within, differentiated.inputs, differentiated.outputs)
        if task.linearize and task.kernel.kind in linearized.KINDS:
            try:
                product = self._linearizer.product(subject, task.kernel)
            except Exception as error:  # where there is no such product, the kernel below says so
                _LOG.info("products of %s are computed from the start each time: %s", task.kernel.function, explain(error))
            else:
                if product is not None:
                    return product
        return self._plain(subject, task.kernel)

    def _plain(self, subject: Subject, kernel: Kernel) -> Compiled | Product:
        compiled = self._kernels.get((kernel, False))
        if compiled is None:
            compiled = _compiled(subject, kernel)
            self._kernels.put((kernel, False), compiled)
        return compiled

    def _results(self, task: Task, compiled: Compiled | Product, arguments: Sequence[Any]) -> list[np.ndarray]:
        return _ready(compiled(arguments) if isinstance(compiled, Compiled) else self._linearizer.run(compiled, task.point, arguments))

    def _subject(self, task: Task) -> Subject | None:
        """Returns the task's function, or None if it is neither held nor in the task."""
        subject = self._subjects.get(task.kernel.function)
        if subject is None and task.load is not None:
            subject, nbytes = functions.load(task.load, self._limits, self._most_bytes)
            self._subjects.put(task.kernel.function, subject, nbytes)
        return subject

    def _forget(self, function: str, _: Subject) -> None:
        self._linearizer.forget(function)
        for key in self._kernels:
            if key[0].function == function:
                self._kernels.discard(key)

    def _blueprint(self, load: Load) -> Blueprint:
        digest = hashlib.sha256(load.graph).digest()
        blueprint = self._blueprints.get(digest)
        if blueprint is None:
            blueprint = functions.draft(load, self._limits, self._most_bytes)
            self._blueprints.put(digest, blueprint, len(load.graph))
        return blueprint

    def _placed(self, task: Task, compiled: Compiled | Product, arrays: Sequence[np.ndarray]) -> Sequence[Any]:
        """Returns a task's arguments, those at a named point on the device."""
        arguments: list[Any] = list(arrays)
        if task.kernel.kind in requirements.TILES:
            arguments.append(np.int64(task.start))
        if task.point and jax.default_backend() != "cpu":
            # On a CPU the arrays already lie in the device's memory, and a copy would only double it.
            point = self._points.get(task.point)
            if point is None:
                shared = arrays if task.kernel.coloured else arrays[: compiled.leaves]  # the colours, too, of which no tile has others
                point = [jax.device_put(array) for array in shared]
                self._points.put(task.point, point, sum(array.nbytes for array in point))
            arguments[: len(point)] = point
        return arguments

    def _check_memory(self, compiled: Compiled | Product) -> None:
        if self._memory_limit is not None and compiled.nbytes > self._memory_limit:
            need = f"the kernel needs {compiled.nbytes:,} bytes and the worker may use {self._memory_limit:,}"
            raise Fault(Reason.OUT_OF_MEMORY, f"{need}; use smaller tiles, or workers with more memory")
        if isinstance(compiled, Compiled):
            self._linearizer.make_room(compiled.nbytes)


def _compiled(subject: Subject, kernel: Kernel) -> Compiled:
    """Returns a function's kernel, compiled.

    Raises:
        Fault: Whatever is in the way of it.
    """
    try:
        return compiling.compile(kernels.computation(*weighting.weighted(subject, kernel)))
    except Exception as error:
        if kernel.kind in second_order.KINDS:
            raise second_order.advised(subject, kernel, explain(error)) from error
        raise


def _ready(results: Sequence[jax.Array]) -> list[np.ndarray]:
    # Wait first: NumPy asking for a buffer whose computation has failed aborts the process, where waiting raises.
    return [np.asarray(result) for result in jax.block_until_ready(results)]


def _part(task: Task, arrays: Sequence[np.ndarray]) -> Part:
    """Returns the part of a structure that a coloured task's last arrays are.

    Raises:
        Fault: ARGUMENT_MISMATCH if they are not.
    """
    if len(arrays) != 4:
        text = f"a coloured tile comes with four arrays that describe its part of the structure, got {len(arrays)}"
        raise Fault(Reason.ARGUMENT_MISMATCH, text, field="args")
    part = Part("reverse" if task.kernel.kind is Kind.REVERSE else "forward", *arrays)
    if not 0 <= task.start <= task.start + task.count <= part.passes:
        text = f"there are {part.passes} passes, and the tile has {task.count} from {task.start}"
        raise Fault(Reason.INVALID_OPTION, text, field="seeds")
    return part


def _entries(
    run: Callable[[Sequence[Any]], list[np.ndarray]], task: Task, part: Part, arguments: Sequence[Any], results: list[np.ndarray]
) -> tuple[np.ndarray, Repair]:
    """Returns the entries that a coloured tile yields, those that its colours spoil computed once more without, and what that took."""
    found = compressed.entries(results, part, task.start, task.count)
    *point, _, _ = arguments
    return found, compressed.repair(found, part, task.start, task.kernel.width, lambda colours: run([*point, colours, np.int64(0)]))


def _check_arguments(compiled: Compiled | Product, task: Task, arrays: Sequence[np.ndarray]) -> None:
    tile = task.kernel.kind in requirements.TILES
    expected = compiled.arguments[:-1] if tile else compiled.arguments
    if len(arrays) != len(expected):
        seeds = len(expected) - compiled.leaves
        text = f"the function takes {compiled.leaves} input leaves, and this call {seeds} seeds besides; got {len(arrays)} arrays in all"
        raise Fault(Reason.ARGUMENT_MISMATCH, text, field="args")
    for index, (array, (dtype, shape)) in enumerate(zip(arrays, expected, strict=True)):
        if array.dtype != dtype or array.shape != shape:
            where = f"args[{index}]" if index < compiled.leaves else f"seeds[{index - compiled.leaves}]"
            text = f"{where} must be {dtype} of shape {shape}, got {array.dtype} of shape {array.shape}; nothing is cast, convert it first"
            raise Fault(Reason.ARGUMENT_MISMATCH, text, field=where)
    if (tile or task.kernel.batched) and not (0 <= task.count <= task.kernel.width and task.start >= 0):
        text = f"a tile has 0 to {task.kernel.width} seeds from a start of at least 0, got {task.count} from {task.start}"
        raise Fault(Reason.INVALID_OPTION, text, field="seeds")


def _padded(task: Task, seeds: np.ndarray) -> np.ndarray:
    """Returns seeds, shape ``(count, ...)``, with zeros for the rest of the kernel's width."""
    if seeds.shape[:1] != (task.count,) or task.count >= task.kernel.width:
        return seeds  # of the right size, or refused soon
    return np.concatenate([seeds, np.zeros((task.kernel.width - task.count, *seeds.shape[1:]), seeds.dtype)])


def _trimmed(task: Task, results: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Returns a tile's blocks, or a batch's products, without the padding of its last seeds."""
    kernel, kind, count = task.kernel, task.kernel.kind, task.count
    if not (kind in requirements.TILES or kernel.batched) or count == kernel.width:
        return tuple(results)
    if kernel.batched:
        values = len(results) - len(kernel.values)
        return (*(product[:count] for product in results[:values]), *results[values:])
    if kind is Kind.REVERSE:
        return tuple(block[:count] for block in results)
    return tuple(np.ascontiguousarray(block[:, :count]) for block in results)
