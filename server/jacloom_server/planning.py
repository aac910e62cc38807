"""From a call to its plan: asks the clerk for prices, a worker for the pattern, and weighs what comes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import ray

from jacloom_graph.answer import Derivative, Selection, arrays, entries_dtype, matrix_shape, total_bytes
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import itemsize, nbytes
from jacloom_server import colours, strategy
from jacloom_server.blobs import Blobs
from jacloom_server.call import SINGLE, Call, Sparsity, pattern_operands
from jacloom_server.function import Function
from jacloom_server.functions import Functions
from jacloom_server.plan import Leg, Mode, Plan, empty, single
from jacloom_server.pool import Pool
from jacloom_server.probing import Contest, platform_of
from jacloom_server.strategy import Problem
from jacloom_server.structures import Search, Structures
from jacloom_worker.launch import Operand
from jacloom_worker.protocol import Dense, Inner, Kernel, Kind, Prices, Structure, Survey


@dataclass(frozen=True, slots=True)
class Service:
    """What calls need."""

    pool: Pool
    functions: Functions
    blobs: Blobs
    structures: Structures


def kernel_of(call: Call, function: Function, chosen: Selection, plan: Plan, leg: Leg) -> Kernel:
    """Returns the kernel of the tiles of some passes of a plan, with its width left open."""
    if call.batch:
        return kernel_for(call, function, chosen, SINGLE[call.derivative])
    coloured = plan.structure is not None
    if call.derivative is Derivative.HESSIAN:
        return replace(kernel_for(call, function, chosen, Kind.HESSIAN, plan.inner), coloured=coloured)
    return replace(kernel_for(call, function, chosen, Kind.REVERSE if leg.mode is Mode.REVERSE else Kind.FORWARD), coloured=coloured)


def kernel_for(call: Call, function: Function, chosen: Selection, kind: Kind, first: Mode | None = None) -> Kernel:
    """Returns the kernel of a kind that computes what a call is about, with its width left open.

    Args:
        call: The call.
        function: Its function.
        chosen: The leaves that it is about.
        kind: What the kernel computes.
        first: The mode of the first derivative within a second, or of a gradient.
    """
    inner: Inner = "forward" if first is Mode.FORWARD else "reverse"
    return Kernel(function.id, kind, chosen.wrt, chosen.named, holomorphic=call.holomorphic, inner=inner, weighted=bool(chosen.summed))


async def plan(service: Service, call: Call, function: Function, chosen: Selection) -> Plan:
    """Returns how a Jacobian, a Hessian or a batch of products is computed.

    Raises:
        Fault: MODE_UNAVAILABLE if it has none; INVALID_OPTION for a sparsity that it cannot have; and what keeps workers from answering.
    """
    required = call.sparsity is Sparsity.SPARSE
    if call.sparsity is not Sparsity.AUTO or call.pattern is not None:
        _check_sparsity(call, chosen)
    size = total_bytes(arrays(call.derivative, chosen, call.batch))
    problem = Problem(chosen.wrt_types, chosen.output_types, size)
    if call.batch:
        survey = await function.survey(service.pool, chosen.wrt, chosen.named, call.holomorphic)
        return strategy.batch(problem, survey, call.derivative, call.batch, workers=service.pool.workers_for_tiles(), tile=call.tile)
    if not problem.n or not problem.m:
        found = await _structure(service, call, function, chosen, Prices(1.0, 1.0)) if required else None
        return empty(0 if required else size, found if isinstance(found, Structure) else None)
    survey = await function.survey(service.pool, chosen.wrt, chosen.named, call.holomorphic, second=call.derivative is Derivative.HESSIAN)
    survey = _contest(service, call, function, chosen, problem, survey).corrected()
    if call.derivative is Derivative.JACOBIAN and call.mode is None:
        survey = strategy.within(survey, service.pool.memory_for_tiles())
    made = await _weighed(service, call, function, chosen, problem, survey)
    if call.tile:
        return made
    workers = service.pool.workers_for_tiles()
    legs = [leg.resized(function.tuner(kernel_of(call, function, chosen, made, leg), platform_of(service.pool), leg).best) for leg in made.legs]
    return replace(made, legs=tuple(legs), workers=min(workers, sum(leg.tiles for leg in legs)))


async def gradient(service: Service, call: Call, function: Function, chosen: Selection) -> tuple[Plan, Mode | None]:
    """Returns how a gradient is computed, and its mode: None for the usual one, reverse.

    Raises:
        Fault: As ``plan``.
    """
    nbytes = total_bytes(arrays(call.derivative, chosen))
    if function.description.loops:
        problem = Problem(chosen.wrt_types, chosen.output_types, nbytes)
        survey = await function.survey(service.pool, chosen.wrt, chosen.outputs, call.holomorphic)
        if problem.n and strategy.gradient(problem, survey) is Mode.FORWARD:
            return single(nbytes, problem.n, Mode.FORWARD), Mode.FORWARD
    return single(nbytes), None


async def settled(service: Service, call: Call, function: Function, chosen: Selection, point: Sequence[Operand]) -> Plan:
    """Returns how a derivative at a point is computed, after some measurements where they pay.

    Raises:
        Fault: As ``plan``.
    """
    made = await plan(service, call, function, chosen)
    if call.derivative is not Derivative.JACOBIAN or call.mode is not None or call.tile or len(made.legs) != 1:
        return made
    survey = await function.survey(service.pool, chosen.wrt, chosen.named, call.holomorphic)
    problem = Problem(chosen.wrt_types, chosen.output_types, made.nbytes)
    parts = () if made.structure is None else service.structures.operands(made.structure)[0]
    kernel = kernel_of(call, function, chosen, made, made.legs[0])
    contest = _contest(service, call, function, chosen, problem, survey)
    return await plan(service, call, function, chosen) if await contest.measured(made, kernel, point, parts) else made


def _contest(service: Service, call: Call, function: Function, chosen: Selection, problem: Problem, survey: Survey) -> Contest:
    if call.derivative is Derivative.HESSIAN:
        kernels = {mode: kernel_for(call, function, chosen, Kind.HESSIAN, mode) for mode in Mode}
        costs = strategy.second(problem, survey)
    else:
        kernels = {mode: kernel_for(call, function, chosen, Kind(mode.value)) for mode in Mode}
        costs = strategy.by_mode(survey)
    return Contest(service.pool, function, kernels, costs, problem, survey)


async def _weighed(service: Service, call: Call, function: Function, chosen: Selection, problem: Problem, survey: Survey) -> Plan:
    workers, tile, required = service.pool.workers_for_tiles(), call.tile, call.sparsity is Sparsity.SPARSE
    second = call.derivative is Derivative.HESSIAN
    if second:
        dense = strategy.hessian(problem, survey, workers=workers, tile=tile)
    else:
        dense = strategy.jacobian(problem, survey, workers=workers, mode=call.mode, tile=tile)
    scalar = not second or problem.m == 1
    if call.sparsity is Sparsity.DENSE or not scalar:
        return dense
    if not (required or call.pattern is not None or colours.worthwhile(dense)):
        return colours.without_colours(dense, "not considered: the passes are too few, or too short, for a pattern to save much")
    prices = Prices(1.0, None) if second else colours.prices(survey, call.mode)
    found = await _structure(service, call, function, chosen, prices, dense.inner)
    size = found.entries * itemsize(entries_dtype(chosen)) if isinstance(found, Structure) else 0
    if second:
        return colours.hessian(dense, found, size, workers=workers, tile=tile, required=required)
    asked = call.mode is not None
    return colours.jacobian(dense, problem, survey, found, size, workers=workers, tile=tile, required=required, asked=asked)


async def _structure(
    service: Service, call: Call, function: Function, chosen: Selection, prices: Prices, inner: Mode | None = None
) -> Structure | Dense:
    """Returns the pattern of a derivative.

    Raises:
        Fault: TOO_LARGE where it is needed, and has too many entries.
    """
    required = call.sparsity is Sparsity.SPARSE
    kind = Kind.HESSIAN if call.derivative is Derivative.HESSIAN else Kind.FORWARD
    kernel = kernel_for(call, function, chosen, kind, inner)
    rows, columns = matrix_shape(call.derivative, chosen)
    given = () if call.pattern is None else pattern_operands(call.pattern, rows, service.blobs)
    needed = required or call.pattern is not None
    most = colours.most_entries(rows, columns, required=required)
    search = Search(kernel, prices, most, _digest(given), needed)
    found = await service.structures.find(service.pool, function, search, given)
    if required and isinstance(found, Dense):
        full = 2 * most >= rows * columns
        text = f"{found.reason}{', half of the matrix or more' if full else ''}; ask for {'a dense result, ' if full else ''}products or fewer leaves"
        raise Fault(Reason.TOO_LARGE, f"no sparse result: {text}", field="options.sparsity")
    return found


def _digest(given: Sequence[Operand]) -> str:
    """Returns the name of a pattern: the hash of its content, or nothing where none is given."""
    found = hashlib.sha256()
    for operand in given:
        data = operand.data if isinstance(operand.data, bytes) else ray.get(operand.data)
        found.update(str(operand.type).encode())
        found.update(memoryview(data).cast("B")[operand.offset : operand.offset + nbytes(operand.type)])
    return found.hexdigest() if given else ""


def _check_sparsity(call: Call, chosen: Selection) -> None:
    """Checks that a derivative can have the sparsity that is asked for."""
    if call.pattern is not None and call.sparsity is Sparsity.DENSE:
        raise Fault(Reason.INVALID_OPTION, "a pattern comes with the request, and DENSE says not to use it; leave one of them out", field="pattern")
    outputs = sum(type_.size for type_ in chosen.output_types)
    if call.derivative is Derivative.HESSIAN and (call.sparsity is Sparsity.SPARSE or call.pattern is not None) and outputs != 1:
        advice = "choose one output, give weights of the outputs, or leave sparsity out"
        text = f"a sparse Hessian is that of one scalar output, got outputs of {outputs} entries; {advice}"
        raise Fault(Reason.INVALID_OPTION, text, field="options.sparsity" if call.pattern is None else "pattern")
