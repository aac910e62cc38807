"""What a caller asks for, as plain values, and the checks that it fits the function."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from jacloom_graph import leaves
from jacloom_graph.answer import Derivative, Selection, batched
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.limits import MOST_WIDTH
from jacloom_graph.tensor import INEXACT, nbytes
from jacloom_graph.types import Type
from jacloom_server.blobs import Blobs
from jacloom_server.plan import Mode
from jacloom_worker.launch import INLINE_BYTES, Operand
from jacloom_worker.protocol import Description, Kind

SINGLE: Final = {
    Derivative.EVALUATE: Kind.VALUE,
    Derivative.JVP: Kind.JVP,
    Derivative.VJP: Kind.VJP,
    Derivative.HVP: Kind.HVP,
    Derivative.GRADIENT: Kind.GRADIENT,
}
"""Derivatives that take one pass."""

WEIGHTED: Final = frozenset({Derivative.HVP, Derivative.HESSIAN})
"""Those that may be of a weighted sum of the outputs."""

PRODUCTS: Final = frozenset({Derivative.JVP, Derivative.VJP, Derivative.HVP})
"""Those that take a seed, or a batch of them."""


class Sparsity(Enum):
    """Whether a derivative is computed by its sparsity pattern."""

    AUTO = "auto"
    """Where that is cheaper."""
    DENSE = "dense"
    """No."""
    SPARSE = "sparse"
    """Always, and its entries are all that is sent."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument or a seed: its type, and its elements or the blob that holds them."""

    type: Type
    data: bytes | None
    blob: str = ""
    offset: int = 0
    """First byte of the elements in the blob."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """The places of a sparse matrix's entries."""

    pointers: Argument
    """Row ``i`` has the entries ``pointers[i]`` to ``pointers[i + 1] - 1``."""
    indices: Argument
    """The column of each entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request."""

    derivative: Derivative
    function: str = ""
    """Name or id; empty where ``graph`` is given."""
    graph: bytes = b""
    args: tuple[Argument, ...] = ()
    wrt: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    """Empty: all."""
    values: tuple[int, ...] = ()
    seeds: tuple[Argument, ...] = ()
    weights: tuple[Argument, ...] = ()
    """Of the outputs, where their weighted sum is differentiated."""
    mode: Mode | None = None
    tile: int = 0
    holomorphic: bool = False
    sparsity: Sparsity = Sparsity.AUTO
    pattern: Pattern | None = None
    structure: str = ""
    """Digest of the structure that the caller holds."""
    batch: int = 0
    """Seeds of a product with the derivative, along a first axis of ``seeds``; 0 for one without that axis."""
    request_id: str = ""


def select(call: Call, function: Description) -> Selection:
    """Returns the leaves that a call is about.

    Raises:
        Fault: ARGUMENT_MISMATCH or INVALID_OPTION with the field at fault, if the call does not fit the function.
    """
    _check_options(call)
    if call.derivative is Derivative.EVALUATE:
        for name in ("wrt", "outputs", "seeds", "weights"):
            if getattr(call, name):
                raise Fault(Reason.INVALID_OPTION, f"Evaluate takes no {name}: it returns the values named by `values`", field=name)
    every = tuple(range(len(function.outputs)))
    evaluate = call.derivative is Derivative.EVALUATE
    outputs, values = (() if evaluate else call.outputs or every), (call.values or every if evaluate else call.values)
    chosen = Selection(
        call.wrt,
        outputs,
        values,
        leaves.choose(call.wrt, function.inputs, "wrt", differentiated=True),
        leaves.choose(outputs, function.outputs, "outputs", differentiated=True),
        leaves.choose(values, function.outputs, "values", differentiated=False),
    )
    if call.weights:
        _check_weights(call, chosen)
        return chosen.weighted()
    if call.derivative in (Derivative.GRADIENT, Derivative.HVP):
        leaves.require_scalar(chosen.output_types, f"a {call.derivative.value}")
    return chosen


def examined(call: Call, function: Description) -> Selection:
    """Returns the leaves that a diagnosis is about: without a choice, all outputs that have derivatives.

    Raises:
        Fault: ARGUMENT_MISMATCH or INVALID_OPTION with the field at fault, if the call does not fit the function.
    """
    _check_options(call)
    for name in ("values", "seeds", "weights", "mode", "tile", "holomorphic"):
        if getattr(call, name):
            field = name if name in ("values", "seeds", "weights") else f"options.{name}"
            raise Fault(Reason.INVALID_OPTION, f"Diagnose takes no {name}", field=field)
    if call.sparsity is not Sparsity.AUTO or call.pattern is not None:
        raise Fault(Reason.INVALID_OPTION, "Diagnose takes no sparsity", field="options.sparsity" if call.pattern is None else "pattern")
    outputs = call.outputs or tuple(leaf for leaf, type_ in enumerate(function.outputs) if type_.dtype in INEXACT)
    wrt_types = leaves.choose(call.wrt, function.inputs, "wrt", differentiated=True)
    output_types = leaves.choose(outputs, function.outputs, "outputs", differentiated=True)
    return Selection(call.wrt, outputs, (), wrt_types, output_types, ())


def operands(call: Call, function: Description, chosen: Selection, blobs: Blobs) -> list[Operand]:
    """Returns a call's arguments, then its weights, then its seeds, ready to be sent to workers.

    Raises:
        Fault: ARGUMENT_MISMATCH or INVALID_OPTION with the field at fault, or BLOB_NOT_FOUND.
    """
    match call.derivative:
        case Derivative.JVP | Derivative.HVP:
            wanted, what = chosen.wrt_types, "one tangent per wrt leaf"
        case Derivative.VJP:
            wanted, what = chosen.output_types, "one cotangent per differentiated output"
        case _:
            wanted, what = (), "none"
    if len(call.args) != len(function.inputs):
        message = f"the function has {len(function.inputs)} input leaves, so {len(function.inputs)} arrays are needed; got {len(call.args)}"
        raise Fault(Reason.ARGUMENT_MISMATCH, message, field="args")
    if len(call.seeds) != len(wanted):
        message = f"{call.derivative.value} takes {len(wanted)} seeds here ({what}), got {len(call.seeds)}"
        raise Fault(Reason.ARGUMENT_MISMATCH, message, field="seeds")
    if call.batch and not wanted:
        raise Fault(Reason.INVALID_OPTION, "a batch has at least one array of seeds, and this call takes none", field="options.batch")
    wanted = tuple(batched(type_, call.batch) for type_ in wanted)
    found = [
        _operand(argument, type_, f"args[{index}]", blobs) for index, (argument, type_) in enumerate(zip(call.args, function.inputs, strict=True))
    ]
    weights = zip(call.weights, chosen.weight_types, strict=True)
    found += [_operand(argument, type_, f"weights[{index}]", blobs) for index, (argument, type_) in enumerate(weights)]
    found += [_operand(argument, type_, f"seeds[{index}]", blobs) for index, (argument, type_) in enumerate(zip(call.seeds, wanted, strict=True))]
    return found


def pattern_operands(pattern: Pattern, rows: int, blobs: Blobs) -> tuple[Operand, ...]:
    """Returns a pattern's row pointers and column indices, ready to be sent to a worker.

    Raises:
        Fault: INVALID_OPTION or ARGUMENT_MISMATCH with the field at fault, or BLOB_NOT_FOUND. What the numbers are is the worker's to check.
    """
    dtype, entries = pattern.pointers.type.dtype, pattern.indices.type.shape
    if dtype not in ("int32", "int64") or len(entries) != 1:
        got = f"{pattern.pointers.type} and {pattern.indices.type}"
        raise Fault(Reason.INVALID_OPTION, f"a pattern has vectors of int32 or int64 as pointers and indices, got {got}", field="pattern")
    if pattern.pointers.type.shape != (rows + 1,):
        text = f"a pattern of {rows:,} rows has {rows + 1:,} row pointers, got {pattern.pointers.type}"
        raise Fault(Reason.INVALID_OPTION, text, field="pattern.pointers")
    pointers = _operand(pattern.pointers, Type(dtype, (rows + 1,)), "pattern.pointers", blobs)
    return pointers, _operand(pattern.indices, Type(dtype, entries), "pattern.indices", blobs)


def is_large(operand: Operand) -> bool:
    """Returns whether an operand's bytes should be shared by reference rather than sent with each task."""
    return isinstance(operand.data, bytes) and len(operand.data) > INLINE_BYTES


def _operand(argument: Argument, type_: Type, field: str, blobs: Blobs) -> Operand:
    if (argument.type.dtype, argument.type.shape) != (type_.dtype, type_.shape):
        raise Fault(Reason.ARGUMENT_MISMATCH, f"the function takes {type_} here, got {argument.type}; arrays are never cast", field=field)
    needed = nbytes(type_)
    if argument.blob:
        blob = blobs.find(argument.blob, f"{field}.blob")
        if argument.offset + needed > blob.size:
            message = f"{type_} has {needed:,} bytes, and the blob {max(0, blob.size - argument.offset):,} from byte {argument.offset:,} on"
            raise Fault(Reason.ARGUMENT_MISMATCH, message, field=f"{field}.blob")
        return Operand(type_, blob.ref, argument.offset)
    data = argument.data or b""
    if len(data) != needed:
        raise Fault(Reason.ARGUMENT_MISMATCH, f"{type_} has {needed:,} bytes, got {len(data):,}", field=f"{field}.data")
    return Operand(type_, data)


def _check_weights(call: Call, chosen: Selection) -> None:
    if call.derivative not in WEIGHTED:
        text = f"weights are for second derivatives, Hvp and Hessian, not {call.derivative.value}; the gradient of a weighted sum is what Vjp returns"
        raise Fault(Reason.INVALID_OPTION, text, field="weights")
    if len(call.weights) != len(chosen.outputs):
        text = f"{len(chosen.outputs)} outputs are differentiated, so there are {len(chosen.outputs)} weights; got {len(call.weights)}"
        raise Fault(Reason.ARGUMENT_MISMATCH, text, field="weights")


def _check_options(call: Call) -> None:
    if call.tile > MOST_WIDTH:
        raise Fault(Reason.INVALID_OPTION, f"a tile has at most {MOST_WIDTH} seeds, got {call.tile}", field="options.tile")
    if len(call.request_id) > 64:
        raise Fault(Reason.INVALID_OPTION, f"a request id has at most 64 characters, got {len(call.request_id)}", field="request_id")
    if call.mode is not None and call.derivative is not Derivative.JACOBIAN:
        raise Fault(Reason.INVALID_OPTION, f"mode is an option of Jacobian; {call.derivative.value} has only one way", field="options.mode")
    if call.batch and call.derivative not in PRODUCTS:
        text = f"batch is an option of Jvp, Vjp and Hvp; {call.derivative.value} takes no seeds"
        raise Fault(Reason.INVALID_OPTION, text, field="options.batch")
    if call.derivative not in (Derivative.JACOBIAN, Derivative.HESSIAN) and (call.sparsity is not Sparsity.AUTO or call.pattern is not None):
        text = f"sparsity is an option of Jacobian and Hessian; {call.derivative.value} has no matrix"
        raise Fault(Reason.INVALID_OPTION, text, field="options.sparsity" if call.pattern is None else "pattern")
