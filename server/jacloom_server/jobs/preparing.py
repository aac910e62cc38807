"""From what a job wants to the record of how it is computed: mode and colours by the planner, sizes of units by a measurement on a worker."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from jacloom_graph.answer import Array, Derivative, Part, arrays, total_bytes
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_server import planning, work
from jacloom_server.call import Sparsity
from jacloom_server.detached import to_its_end
from jacloom_server.jobs import division, naming, record, store
from jacloom_server.jobs.places import Places
from jacloom_server.jobs.recipe import Wanted, recipe, results
from jacloom_server.jobs.record import Record, Result
from jacloom_server.plan import Mode, Plan, single
from jacloom_server.planning import Service
from jacloom_server.structures import operand
from jacloom_server.work import Assignment
from jacloom_worker.launch import Operand
from jacloom_worker.protocol import Structure
from jacloom_worker.unit import Pace, Site, Unit

_LOG = logging.getLogger(__name__)

_UNMEASURED: Final = frozenset({Reason.TOO_SLOW, Reason.POISONED, Reason.OUT_OF_MEMORY, Reason.INTERNAL})
"""Faults that may be those of single points."""
_STRUCTURE: Final = "structure.npz"
_LONG: Final = 4.0
"""A point whose derivative takes so many times as long as a unit should is spread over several units."""


async def prepare(service: Service, places: Places, job: str, wanted: Wanted, folder: Path) -> Record:
    """Returns how a job is computed, with everything on disk that its units need.

    Args:
        service: Who plans and measures.
        places: Where jobs keep things.
        job: The job's id.
        wanted: What it computes.
        folder: Of its store.

    Raises:
        Fault: The derivative cannot be had, nobody is there to find out, or STORE_UNAVAILABLE.
    """
    plan, inner = await _plan(service, wanted)
    operands = _operands(plan.structure)
    slow, _ = recipe(wanted, plan, together=0, count=1, inner=inner)
    pace = await _pace(service, work.pace(slow, Unit(0, 0, wanted.points), Site(job, str(folder), ""), operands, wanted.function.load), plan)
    workers = max(1, service.pool.workers_for_tiles())
    nbytes = total_bytes([array for array, _ in results(wanted, plan)])
    seeds = _seeds(wanted, plan, pace, nbytes, workers)
    count = 1 if seeds else division.points_a_unit(wanted.points, pace.seconds, nbytes, max(1, pace.points), workers)
    chosen, units = recipe(wanted, plan, together=0 if seeds else min(pace.points, count), count=count, seeds=seeds, inner=inner)
    shared: dict[str, np.ndarray] = {}
    if plan.structure is not None:
        shared = {naming.POINTERS: plan.structure.pointers, naming.INDICES: plan.structure.indices}
    made = Record(
        chosen,
        units,
        replace(plan, structure=None),
        _described(wanted, plan),
        pace.seconds * (seeds / plan.passes if seeds else count),
        {hello.platform: f"JAX {hello.jax}, {hello.device}" for hello in service.pool.processes()},
        wanted.call.sparsity is Sparsity.SPARSE,
    )
    await to_its_end(_write, places.own(job), folder, wanted, made, plan.structure, shared)
    return made


async def check(service: Service, wanted: Wanted) -> None:
    """Plans a Jacobian or a Hessian only to hear whether there is one; where nobody is there to say so, that is left for later.

    Raises:
        Fault: MODE_UNAVAILABLE and whatever else planning finds wrong.
    """
    try:
        await _plan(service, wanted)
    except Fault as fault:
        if fault.reason is not Reason.NO_WORKERS:
            raise


def loaded(places: Places, job: str, data: bytes) -> tuple[Record, tuple[Operand, ...]]:
    """Returns the record of a job that was planned, and what travels beside its units. Blocks."""
    found = record.decoded(data)
    path = places.own(job) / _STRUCTURE
    return found, _operands(record.load_structure(path) if found.recipe.entries is not None else None)


async def _pace(service: Service, question: Assignment, plan: Plan) -> Pace:
    """Returns how many points are computed at once: one, by the estimate of its price, where a point among the first cannot be measured.

    Raises:
        Fault: The derivative cannot be had, or nobody is there to find out.
    """
    try:
        pace = await service.pool.ask(question)
    except Fault as fault:
        if fault.reason not in _UNMEASURED:
            raise
        # It may be that point alone, and fails as a unit then; the others are none the worse for it.
        _LOG.warning("no point of a job could be measured, each is computed alone: %s", fault)
        return Pace(0, max(plan.seconds, division.UNIT_SECONDS))
    assert isinstance(pace, Pace)
    return pace


async def _plan(service: Service, wanted: Wanted) -> tuple[Plan, Mode | None]:
    """Returns how the derivative at one point is computed, and the mode of a gradient."""
    call, chosen = wanted.call, wanted.chosen
    if call.derivative in (Derivative.JACOBIAN, Derivative.HESSIAN):
        return await planning.plan(service, call, wanted.function, chosen), None
    if call.derivative is Derivative.GRADIENT:
        return await planning.gradient(service, call, wanted.function, chosen)
    return single(total_bytes(arrays(call.derivative, chosen)), passes=int(call.derivative is not Derivative.EVALUATE)), None


def _seeds(wanted: Wanted, plan: Plan, pace: Pace, nbytes: int, workers: int) -> int:
    """Returns how many seeds of one point a unit has; 0 where it has all of them, and perhaps of many points."""
    if plan.structure is not None or not plan.passes or wanted.call.derivative not in (Derivative.JACOBIAN, Derivative.HESSIAN):
        return 0
    few = wanted.points < division.UNITS_A_WORKER * workers
    long = pace.seconds > (1 if few else _LONG) * division.UNIT_SECONDS
    if not long and nbytes <= division.CHUNK_BYTES:
        return 0
    timely = plan.passes * division.UNIT_SECONDS / max(pace.seconds, 1e-9)
    fitting = plan.passes * division.CHUNK_BYTES / max(1, nbytes)
    count = max(1, int(min(timely, fitting)))
    tile = max(1, plan.tile)
    count = count // tile * tile if count > tile else count
    return 0 if count >= plan.passes else count


def _described(wanted: Wanted, plan: Plan) -> tuple[Result, ...]:
    def described(array: Array, path: str) -> Result:
        type_ = replace(array.type, shape=(wanted.points, *array.type.shape), weak=False)
        return Result(path, array.part, type_, array.output, array.input, array.input2)

    found = [described(array, path) for array, path in results(wanted, plan)]
    if plan.structure is not None:
        for path, part, values in (
            (naming.POINTERS, Part.POINTERS, plan.structure.pointers),
            (naming.INDICES, Part.INDICES, plan.structure.indices),
        ):
            found.append(Result(path, part, Type(values.dtype.name, values.shape)))
    return tuple(found)


def _operands(structure: Structure | None) -> tuple[Operand, ...]:
    """Returns what travels beside the units of a sparse job, see ``Recipe.entries``."""
    if structure is None:
        return ()
    parts = (array for part in structure.parts for array in (part.colours, part.lines, part.along, part.bounds))
    return tuple(map(operand, (structure.sources, *parts)))


def _write(own: Path, folder: Path, wanted: Wanted, made: Record, structure: Structure | None, shared: dict[str, np.ndarray]) -> None:
    about = {
        "function": wanted.function.name,
        "derivative": wanted.call.derivative.value.lower(),
        "strategy": made.plan.strategy,
        "passes": made.plan.passes,
        "versions": made.versions,
        "arrays": {each.path: {"part": each.part.name.lower(), "dtype": each.type.dtype} for each in made.results},
        "status": {"0": "not done", "1": "done", "2": "done, with a NaN or an Inf", "3": "failed"},
    }
    try:
        own.mkdir(parents=True, exist_ok=True)
        if structure is not None:
            record.save_structure(structure, own / _STRUCTURE)
            store.sync(own)
        store.add_results(folder, wanted.points, made.recipe.sinks, shared, about)
    except OSError as error:
        raise store.unavailable(error) from error
