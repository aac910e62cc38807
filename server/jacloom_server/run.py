"""One call, from the request to the last message."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import numpy as np
import ray

from jacloom_graph.answer import Array, Derivative, Part, Selection, Sizes, arrays, sparse_arrays, structure_arrays, total_bytes
from jacloom_graph.errors import Fault
from jacloom_server import planning, points, strategy, work
from jacloom_server.blocks import whole
from jacloom_server.call import SINGLE, Call, Sparsity, examined, is_large, operands, select
from jacloom_server.function import Function
from jacloom_server.packing import Packing
from jacloom_server.plan import Mode, Plan, single
from jacloom_server.planning import Service
from jacloom_server.reply import Block, Header, Reply, Summary
from jacloom_server.strategy import Problem
from jacloom_server.tiling import BLOCK_BYTES
from jacloom_server.weave import Request, Weaver
from jacloom_server.work import Desk
from jacloom_worker.launch import Operand
from jacloom_worker.protocol import Diagnosis, Done, Kernel, Kind, Structure, Task

_FLUSH_SECONDS: Final = 0.2
"""Blocks wait this long for others to share their message; then the reader gets what there is, and hears how far the work has come."""


async def replies(service: Service, call: Call) -> AsyncGenerator[Reply]:
    """Yields the messages that answer a call, header first, summary last. Closing the iterator cancels what is under way.

    Raises:
        Fault: What is wrong with the call, its function or its computation.
    """
    started = time.perf_counter()
    function = await _function(service, call)
    chosen = select(call, function.description)
    sent = operands(call, function.description, chosen, service.blobs)
    kind = _single if call.derivative in SINGLE and not call.batch else _tiled
    # Closed at once when this is: what is under way is cancelled then, and not when the generator is collected.
    async with aclosing(kind(service, call, function, chosen, sent, started)) as answers:
        async for reply in answers:
            yield reply


async def explain(service: Service, call: Call) -> Plan:
    """Returns the plan for a Jacobian or Hessian without computing it; arguments are not looked at.

    Raises:
        Fault: As ``replies``.
    """
    function = await _function(service, call)
    chosen = select(call, function.description)
    return await planning.plan(service, call, function, chosen)


async def structure(service: Service, call: Call) -> AsyncGenerator[Reply]:
    """Yields the pattern of a Jacobian or Hessian with its colours, header first, summary last; arguments are not looked at, and no pass is computed.

    Raises:
        Fault: As ``replies``.
    """
    started = time.perf_counter()
    function = await _function(service, call)
    # A pattern is found as for a sparse result, whether it is of use for a dense one or not.
    call = replace(call, sparsity=Sparsity.SPARSE, values=())
    plan = await planning.plan(service, call, function, select(call, function.description))
    found = plan.structure
    assert found is not None
    arrays = structure_arrays(_sizes(found)) if call.structure != found.digest else ()
    packing = Packing(Header(function.name, plan, arrays, _sizes(found)))
    for block in _blocks(arrays, found):
        if packing.add(block):
            yield packing.message()
    yield packing.message(summary=_closed(Summary(0, 0, 0, 0, {}, 0), started))


async def diagnose(service: Service, call: Call) -> Diagnosis:
    """Returns what is wrong with a function at a point. Cancelling it cancels what is under way.

    Raises:
        Fault: As ``replies``.
    """
    function = await _function(service, call)
    chosen = examined(call, function.description)
    sent = operands(call, function.description, chosen, service.blobs)
    # Of which kind the kernel is does not matter: the worker makes those that it needs.
    task = Task(Kernel(function.id, Kind.VALUE, chosen.wrt, chosen.outputs))
    diagnosis = await service.pool.ask(work.diagnose(task, sent, function.load))
    assert isinstance(diagnosis, Diagnosis)
    return diagnosis


async def _function(service: Service, call: Call) -> Function:
    return await service.functions.register(call.graph) if call.graph else await service.functions.find(call.function)


async def _single(
    service: Service, call: Call, function: Function, chosen: Selection, sent: Sequence[Operand], started: float
) -> AsyncGenerator[Reply]:
    """Yields the answer of a single pass: one message if it is small."""
    mode: Mode | None = None
    found = arrays(call.derivative, chosen)
    nbytes = total_bytes(found)
    plan = single(nbytes, passes=int(call.derivative is not Derivative.EVALUATE))
    if call.derivative is Derivative.GRADIENT and function.description.loops:
        problem = Problem(chosen.wrt_types, chosen.output_types, nbytes)
        survey = await function.survey(service.pool, chosen.wrt, chosen.outputs, call.holomorphic)
        if problem.n and strategy.gradient(problem, survey) is Mode.FORWARD:
            mode, plan = Mode.FORWARD, single(nbytes, problem.n, Mode.FORWARD)
    kernel = replace(planning.kernel_for(call, function, chosen, SINGLE[call.derivative], mode), values=chosen.values)
    task = Task(kernel, point=await points.name(function.id, call), linearize=call.linearize)
    header = Header(function.name, plan, tuple(found))
    planned = time.perf_counter()
    with service.pool.lane() as lane:
        done = await service.pool.submit(lane, work.compute(Desk.PASSES, task, sent, function.load, call.derivative.value))
        if isinstance(done, Fault):
            raise done
        assert isinstance(done, Done)
        seconds = {"plan": planned - started, "compile": done.compile_seconds, "compute": done.seconds}
        summary = Summary(plan.passes, 1, lane.retries, 1, seconds, 0)
        blocks = (block for number, (array, values) in enumerate(zip(found, done.arrays, strict=True)) for block in whole(number, array, values))
        if nbytes <= BLOCK_BYTES:
            yield Reply(header, list(blocks), None, _closed(summary, started))
            return
        yield Reply(header)
        for block in blocks:
            yield Reply(blocks=[block])
        yield Reply(summary=_closed(summary, started))


async def _tiled(
    service: Service, call: Call, function: Function, chosen: Selection, sent: Sequence[Operand], started: float
) -> AsyncGenerator[Reply]:
    """Yields the answer of a call that takes many passes, tile by tile; one message if it is small and soon done."""
    # Every tile needs the arguments: those that are not small are stored once.
    shared = [Operand(operand.type, ray.put(operand.data)) if is_large(operand) else operand for operand in sent]
    count = len(sent) - len(call.seeds)
    plan = await planning.settled(service, call, function, chosen, shared[:count])
    expected, sizes = _expected(call, chosen, plan)
    packing = Packing(Header(function.name, plan, expected, sizes))
    parts = service.structures.operands(plan.structure) if plan.structure is not None else ()
    point = await points.name(function.id, call)
    request = Request(call, function, chosen, plan, expected, tuple(shared[:count]), tuple(shared[count:]), parts, point)
    with service.pool.lane() as lane:
        weaver = Weaver(service.pool, lane, request, started)
        for block in _blocks(expected, plan.structure) if plan.structure is not None else ():
            if packing.add(block):
                yield packing.message()
        while weaver.busy:
            for block in await weaver.arrived(packing.since + _FLUSH_SECONDS - time.perf_counter()):
                if packing.add(block):
                    yield packing.message()
            # Only now: the reader has taken this tile's blocks, so there is room for another. A slow reader slows the work, and never fills memory.
            weaver.fill()
            if time.perf_counter() - packing.since >= _FLUSH_SECONDS:
                yield packing.message(weaver.progress())
        yield packing.message(summary=_closed(weaver.summary(), started))


def _expected(call: Call, chosen: Selection, plan: Plan) -> tuple[tuple[Array, ...], Sizes | None]:
    """Returns the arrays of an answer, and the size of the matrix where it is sparse."""
    found = plan.structure
    if found is None:
        return arrays(call.derivative, chosen, call.batch), None
    sizes = _sizes(found)
    return sparse_arrays(call.derivative, chosen, sizes, structured=call.structure != found.digest), sizes


def _sizes(structure: Structure) -> Sizes:
    return Sizes(*structure.shape, len(structure.indices), structure.entries, structure.passes)


def _blocks(expected: Sequence[Array], structure: Structure) -> Iterator[Block]:
    """Yields the blocks of a structure, as far as it is among the arrays of an answer."""
    bounds = [np.zeros(1, np.int64), *(part.bounds[1:] for part in structure.parts)]
    firsts = np.cumsum([0, 0, *(len(part.lines) for part in structure.parts)])
    parts = {
        Part.POINTERS: structure.pointers,
        Part.INDICES: structure.indices,
        Part.SOURCES: structure.sources,
        Part.BOUNDS: np.concatenate([bound + first for bound, first in zip(bounds, firsts, strict=False)]),
    }
    for number, array in enumerate(expected):
        if array.part in parts:
            yield from whole(number, array, parts[array.part])


def _closed(summary: Summary, started: float) -> Summary:
    return replace(summary, seconds=summary.seconds | {"total": time.perf_counter() - started})
