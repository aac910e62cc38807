"""From the plan of a derivative to what the units of a job compute and where they write it. Plain functions on plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jacloom_graph.answer import Array, Derivative, Part, Selection, arrays, entries_dtype
from jacloom_graph.types import Type
from jacloom_server.call import SINGLE, Call
from jacloom_server.function import Function
from jacloom_server.jobs import naming
from jacloom_server.jobs.division import Division, slabs
from jacloom_server.plan import Mode, Plan
from jacloom_server.planning import kernel_for, kernel_of
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.unit import Recipe, Sink, Source, Step


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job computes."""

    call: Call
    """Its arguments and seeds have no elements, as far as points have their own."""
    function: Function
    chosen: Selection
    leaves: tuple[int, ...]
    """The input leaves that each point has of its own."""
    points: int

    def sources(self) -> tuple[Source, ...]:
        """Returns where the arguments lie, one per input leaf, then one per seed."""
        inputs = self.function.description.inputs
        own = dict(zip(self.leaves, naming.relative(self._names, self.leaves), strict=True))
        found = [
            Source("/".join(filter(None, ("points", own[leaf]))) if leaf in own else f"shared/{leaf}", type_, leaf in own)
            for leaf, type_ in enumerate(inputs)
        ]
        match self.call.derivative:
            case Derivative.JVP:
                types, names = self.chosen.wrt_types, self.input_names
            case Derivative.VJP:
                types, names = self.chosen.output_types, tuple(self.output_names[leaf] for leaf in self.chosen.outputs)
            case _:
                return tuple(found)
        seeds = (Source("/".join(filter(None, ("seeds", name))), type_, varies=True) for name, type_ in zip(names, types, strict=True))
        return (*found, *seeds)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of all output leaves."""
        return naming.leaf_names(self.function.description.out_tree)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the wrt leaves."""
        return naming.relative(self._names, self.chosen.wrt)

    @property
    def _names(self) -> tuple[str, ...]:
        return naming.leaf_names(self.function.description.in_tree)


def results(wanted: Wanted, plan: Plan) -> tuple[tuple[Array, str], ...]:
    """Returns the arrays that points have results in, for one point, with their paths: those of tiles last, of single passes first."""
    found: Sequence[Array]
    if plan.structure is None:
        found = arrays(wanted.call.derivative, wanted.chosen)
    else:
        entries = Type(entries_dtype(wanted.chosen), (len(plan.structure.indices),))
        found = (*arrays(Derivative.EVALUATE, wanted.chosen), Array(Part.ENTRIES, entries, 1, entries.size))
    paths = naming.array_paths(found, wanted.output_names, wanted.input_names)
    named = ((array, naming.ENTRIES if array.part is Part.ENTRIES else path) for array, path in zip(found, paths, strict=True))
    return tuple(named)


def recipe(wanted: Wanted, plan: Plan, *, together: int, count: int, seeds: int = 0, inner: Mode | None = None) -> tuple[Recipe, Division]:
    """Returns what each unit does, and the units.

    Args:
        wanted: What the job computes.
        plan: How, at one point.
        together: Points that are computed at once; 0 for one point after the other, tile by tile.
        count: Points of a unit.
        seeds: Seeds of a unit, where it is some of one point's; 0 for all.
        inner: Mode of a gradient.
    """
    division, chunks = _cut(wanted, plan, count, seeds)
    found = results(wanted, plan)
    sinks = tuple(Sink(path, array.type, (count, *chunks(array))) for array, path in found)
    values = tuple(at for at, (array, _) in enumerate(found) if array.part is Part.VALUE)
    others = tuple(at for at in range(len(found)) if at not in values)

    def step(kernel: Kernel, passes: int, into: tuple[int, ...], seeds_of: int = 0) -> Step:
        inputs = len(wanted.function.description.inputs)
        varying = (*wanted.leaves, *range(inputs, inputs + seeds_of)) if together else ()
        return Step(replace(kernel, points=together, varying=varying), passes, into)

    call, function, chosen = wanted.call, wanted.function, wanted.chosen
    if call.derivative in SINGLE:
        kernel = replace(kernel_for(call, function, chosen, SINGLE[call.derivative], inner), values=chosen.values)
        into = tuple(range(len(found)))
        return Recipe(wanted.sources(), sinks, (step(kernel, 0, into, len(wanted.sources()) - len(function.description.inputs)),)), division
    steps = []
    for leg in plan.legs:
        kernel = replace(kernel_of(call, function, chosen, plan, leg), width=leg.passes if together else leg.tile)
        steps.append(step(kernel, leg.passes, () if kernel.coloured else others))
    if values:
        steps.append(step(Kernel(function.id, Kind.VALUE, values=chosen.values), 0, values))
    return Recipe(wanted.sources(), sinks, tuple(steps), None if plan.structure is None else others[0]), division


def _cut(wanted: Wanted, plan: Plan, count: int, seeds: int) -> tuple[Division, _Chunks]:
    """Returns the units, and the chunks of each array along the axes of one point."""
    if not seeds:
        return Division(wanted.points, count), _Chunks(None, [])
    reverse = plan.mode is Mode.REVERSE and wanted.call.derivative is Derivative.JACOBIAN
    leaves = wanted.chosen.output_types if reverse else wanted.chosen.wrt_types
    chunks, ranges = slabs([leaf.shape for leaf in leaves], seeds)
    return Division(wanted.points, 1, ranges), _Chunks(wanted.chosen, chunks, reverse)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """The chunks of arrays along the axes of one point: whole, but for the leaf whose entries the seeds number."""

    chosen: Selection | None
    leaves: list[tuple[int, ...]]
    """The chunk of each such leaf."""
    reverse: bool = False

    def __call__(self, array: Array) -> tuple[int, ...]:
        whole = tuple(max(1, extent) for extent in array.type.shape)
        if self.chosen is None or array.part not in (Part.JACOBIAN, Part.HESSIAN):
            return whole
        if self.reverse:
            chunk = self.leaves[self.chosen.outputs.index(array.output)]
            return (*chunk, *whole[len(chunk) :])
        chunk = self.leaves[array.input if array.part is Part.JACOBIAN else array.input2]
        return (*whole[: len(whole) - len(chunk)], *chunk)
