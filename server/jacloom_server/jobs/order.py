"""A job that is asked for, as plain values, and the checks that it makes sense."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import ray

from jacloom_graph.answer import Derivative
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import from_bytes, nbytes
from jacloom_graph.types import Type
from jacloom_server.blobs import Blobs
from jacloom_server.call import Argument, Call, select
from jacloom_server.function import Function
from jacloom_server.jobs.recipe import Wanted
from jacloom_worker.unit import Source

DERIVATIVES: Final = frozenset({Derivative.EVALUATE, Derivative.JVP, Derivative.VJP, Derivative.GRADIENT, Derivative.JACOBIAN, Derivative.HESSIAN})
_MOST_PRIORITY: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is asked for."""

    call: Call
    leaves: tuple[int, ...]
    """The input leaves that each point has of its own."""
    out: str = ""
    display_name: str = ""
    priority: int = 0
    deadline: float | None = None
    """Seconds since the epoch."""
    ttl: float | None = None
    request_id: str = ""
    spec: bytes = b""
    """As it came, the same bytes for the same order."""


def check(order: Order) -> None:
    """Checks what can be checked without the function, and holds whenever it is asked.

    Raises:
        Fault: INVALID_OPTION with the field at fault.
    """
    call = order.call
    if call.graph:
        raise Fault(Reason.INVALID_OPTION, "a job is of a registered function: register the graph, and name it", field="spec.call.graph")
    for name in ("weights", "batch", "tile", "linearize", "structure"):
        if getattr(call, name):
            field = f"spec.call.{'' if name == 'weights' else 'options.'}{name}"
            raise Fault(Reason.INVALID_OPTION, f"jobs take no {name}", field=field)
    if len(order.display_name) > 128:
        raise Fault(Reason.INVALID_OPTION, f"a display name has at most 128 characters, got {len(order.display_name)}", field="spec.display_name")
    if not -_MOST_PRIORITY <= order.priority <= _MOST_PRIORITY:
        text = f"a priority is from -{_MOST_PRIORITY} to {_MOST_PRIORITY}, got {order.priority}"
        raise Fault(Reason.INVALID_OPTION, text, field="spec.priority")
    if len(order.request_id) > 64:
        raise Fault(Reason.INVALID_OPTION, f"a request id has at most 64 characters, got {len(order.request_id)}", field="spec.request_id")
    if order.ttl is not None and order.ttl < 0:
        raise Fault(Reason.INVALID_OPTION, f"ttl must not be negative, got {order.ttl:g} s", field="spec.ttl")


def check_deadline(order: Order, now: float) -> None:
    """Checks that there is time for a new job. A request that has made its job already may come again at any time.

    Raises:
        Fault: INVALID_OPTION.
    """
    if order.deadline is not None and order.deadline <= now:
        raise Fault(Reason.INVALID_OPTION, "the deadline is over already; choose one that is to come, or leave it out", field="spec.deadline")


def wanted(order: Order, function: Function, points: int = 0) -> Wanted:
    """Returns what an order wants of its function.

    Raises:
        Fault: ARGUMENT_MISMATCH or INVALID_OPTION with the field at fault, where it does not fit.
    """
    description = function.description
    for at, leaf in enumerate(order.leaves):
        if not 0 <= leaf < len(description.inputs) or (at and leaf <= order.leaves[at - 1]):
            text = f"points name input leaves of the function's {len(description.inputs)}, rising and none twice, got {order.leaves}"
            raise Fault(Reason.INVALID_OPTION, text, field="spec.points")
    if not order.leaves:
        raise Fault(Reason.INVALID_OPTION, "each point has at least one input leaf of its own; name it", field="spec.points")
    call = order.call
    if not call.values:
        call = replace(call, values=tuple(range(len(description.outputs))))
    chosen = select(call, description)
    made = Wanted(call, function, chosen, order.leaves, points)
    _check_types(call.args, description.inputs, "args")
    _check_types(call.seeds, [source.type for source in made.sources()[len(description.inputs) :]], "seeds")
    return made


def shared(order: Order, sources: tuple[Source, ...], blobs: Blobs) -> list[np.ndarray | None]:
    """Returns for each source the value that all points share, None where each has its own. Blocks while blobs are read.

    Raises:
        Fault: ARGUMENT_MISMATCH or BLOB_NOT_FOUND.
    """
    arguments = (*order.call.args, *order.call.seeds)
    return [
        None if source.varies else _value(argument, source.type, f"spec.call.args[{at}]", blobs)
        for at, (source, argument) in enumerate(zip(sources, arguments, strict=True))
    ]


def _check_types(arguments: tuple[Argument, ...], types: tuple[Type, ...] | list[Type], name: str) -> None:
    if len(arguments) != len(types):
        text = f"{len(types)} arrays are needed here, got {len(arguments)}"
        raise Fault(Reason.ARGUMENT_MISMATCH, text, field=f"spec.call.{name}")
    for at, (argument, type_) in enumerate(zip(arguments, types, strict=True)):
        if (argument.type.dtype, argument.type.shape) != (type_.dtype, type_.shape):
            text = f"one point takes {type_} here, got {argument.type}; arrays are never cast"
            raise Fault(Reason.ARGUMENT_MISMATCH, text, field=f"spec.call.{name}[{at}]")


def _value(argument: Argument, type_: Type, field: str, blobs: Blobs) -> np.ndarray:
    if not argument.blob:
        return from_bytes(type_, argument.data or b"", field)
    return from_bytes(type_, fetched(blobs, argument.blob, argument.offset, nbytes(type_), f"{field}.blob"), f"{field}.blob")


def fetched(blobs: Blobs, blob: str, offset: int, size: int, field: str) -> bytes:
    """Returns bytes of a blob, fewer where it ends before. Blocks.

    Raises:
        Fault: BLOB_NOT_FOUND.
    """
    return bytes(memoryview(ray.get(blobs.find(blob, field).ref)).cast("B")[offset : offset + size])
