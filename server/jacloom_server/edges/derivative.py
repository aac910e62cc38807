"""``DerivativeService``: messages in, messages out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import grpc

from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_api.v1 import graph_pb2
from jacloom_graph.answer import Array, Derivative
from jacloom_graph.blobnames import is_name
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.framing import Pieces, field
from jacloom_graph.tensor import type_of
from jacloom_graph.wire import type_to_message
from jacloom_server import run
from jacloom_server.call import Argument, Call, Pattern, Sparsity
from jacloom_server.edges import diagnosis
from jacloom_server.plan import Mode, Plan
from jacloom_server.planning import Service
from jacloom_server.reply import Header, Reply
from jacloom_server.status import reported

SERVICE: Final = pb.DESCRIPTOR.services_by_name["DerivativeService"].full_name

_LOG = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_MODES: Final = {pb.MODE_UNSPECIFIED: None, pb.FORWARD: Mode.FORWARD, pb.REVERSE: Mode.REVERSE}
_SPARSITIES: Final = {pb.SPARSITY_UNSPECIFIED: Sparsity.AUTO, pb.DENSE: Sparsity.DENSE, pb.SPARSE: Sparsity.SPARSE}
_MODE_NUMBERS: Final = {mode: number for number, mode in _MODES.items()}
_EXPLAINED: Final = {"": Derivative.JACOBIAN, "jacobian": Derivative.JACOBIAN, "hessian": Derivative.HESSIAN}


class DerivativeServicer:
    """Decodes a call, has it run, encodes what comes."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def add_to(self, server: grpc.aio.Server) -> None:
        """Has a server answer with this. Not by the generated function: answers are encoded here, see ``encode``."""
        handlers = {
            derivative.value: grpc.unary_stream_rpc_method_handler(
                partial(self.answer, derivative), request_deserializer=pb.CallRequest.FromString, response_serializer=bytes
            )
            for derivative in Derivative
        }
        handlers["Explain"] = grpc.unary_unary_rpc_method_handler(
            self.explain, request_deserializer=pb.ExplainRequest.FromString, response_serializer=pb.ExplainReply.SerializeToString
        )
        handlers["Structure"] = grpc.unary_stream_rpc_method_handler(
            self.structure, request_deserializer=pb.ExplainRequest.FromString, response_serializer=bytes
        )
        handlers["Diagnose"] = grpc.unary_unary_rpc_method_handler(
            self.diagnose, request_deserializer=pb.CallRequest.FromString, response_serializer=pb.DiagnoseReply.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def answer(self, derivative: Derivative, request: pb.CallRequest, context: Context) -> AsyncIterator[bytes]:
        """Yields the encoded messages that answer a call."""
        # gRPC asks for the next message only when the reader has room for it, and so do we of the work behind it.
        if request.request_id:
            _LOG.info("%s of %s for request %r", derivative.value, request.function or "a graph", request.request_id)
        async with reported(context), aclosing(run.replies(self._service, decode(derivative, request))) as replies:
            async for reply in replies:
                yield encode(reply)

    async def explain(self, request: pb.ExplainRequest, context: Context) -> pb.ExplainReply:
        """Returns the plan of a derivative."""
        async with reported(context):
            return pb.ExplainReply(plan=_plan(await run.explain(self._service, _explained(request))))

    async def structure(self, request: pb.ExplainRequest, context: Context) -> AsyncIterator[bytes]:
        """Yields the encoded messages with the pattern of a derivative."""
        async with reported(context), aclosing(run.structure(self._service, _explained(request))) as replies:
            async for reply in replies:
                yield encode(reply)

    async def diagnose(self, request: pb.CallRequest, context: Context) -> pb.DiagnoseReply:
        """Returns what is wrong with a function at a point."""
        async with reported(context):
            # As far as the request goes, a diagnosis is a call for all first derivatives.
            return diagnosis.encode(await run.diagnose(self._service, decode(Derivative.JACOBIAN, request)))


def _explained(request: pb.ExplainRequest) -> Call:
    derivative = _EXPLAINED.get(request.derivative)
    if derivative is None:
        text = f"derivative must be 'jacobian' or 'hessian', got {request.derivative[:64]!r}"
        raise Fault(Reason.INVALID_OPTION, text, field="derivative")
    return decode(derivative, request.call)


def decode(derivative: Derivative, request: pb.CallRequest) -> Call:
    """Returns a request as plain values.

    Raises:
        Fault: A field has a value that it cannot have.
    """
    options = request.options
    mode = _MODES.get(options.mode, ...)
    if mode is ...:
        raise Fault(Reason.INVALID_OPTION, f"mode must be 0, 1 or 2, got {options.mode}", field="options.mode")
    sparsity = _SPARSITIES.get(options.sparsity)
    if sparsity is None:
        raise Fault(Reason.INVALID_OPTION, f"sparsity must be 0, 1 or 2, got {options.sparsity}", field="options.sparsity")
    if not request.function and not request.graph:
        raise Fault(Reason.INVALID_OPTION, "a call names a registered function or carries a graph; this one does neither", field="function")
    return Call(
        derivative=derivative,
        function=request.function,
        graph=request.graph,
        args=_arguments(request.args, "args"),
        wrt=tuple(request.wrt),
        outputs=tuple(request.outputs),
        values=tuple(request.values),
        seeds=_arguments(request.seeds, "seeds"),
        weights=_arguments(request.weights, "weights"),
        mode=mode,
        tile=options.tile,
        holomorphic=options.holomorphic,
        sparsity=sparsity,
        pattern=_pattern(request.pattern) if request.HasField("pattern") else None,
        structure=options.structure,
        batch=options.batch,
        linearize=options.linearize,
        request_id=request.request_id,
    )


def encode(reply: Reply) -> bytes:
    """Returns a message of an answer as it travels."""
    message = pb.CallReply()
    if reply.header is not None:
        message.header.CopyFrom(_header(reply.header))
    if reply.progress is not None:
        progress = reply.progress
        message.progress.CopyFrom(pb.Progress(tiles_done=progress.tiles_done, tiles=progress.tiles, seconds=progress.seconds))
    if reply.summary is not None:
        summary = reply.summary
        message.summary.CopyFrom(
            pb.Summary(
                passes=summary.passes,
                tiles=summary.tiles,
                retries=summary.retries,
                workers=summary.workers,
                seconds=summary.seconds,
                tile=summary.tile,
                repairs=summary.repairs,
                doubtful=summary.doubtful,
            )
        )
    pieces: Pieces = [message.SerializeToString()]
    for block in reply.blocks:
        place = pb.Block(array=block.array, row=block.row, rows=block.rows, column=block.column, columns=block.columns).SerializeToString()
        pieces += field(pb.CallReply.BLOCKS_FIELD_NUMBER, place, *field(pb.Block.DATA_FIELD_NUMBER, block.data))
    return b"".join(pieces)


def _header(header: Header) -> pb.Header:
    message = pb.Header(function=header.function, plan=_plan(header.plan), arrays=map(_array, header.arrays))
    sizes, found = header.sizes, header.plan.structure
    if sizes is not None and found is not None:
        message.structure.CopyFrom(
            pb.Structure(
                digest=found.digest,
                rows=sizes.rows,
                columns=sizes.columns,
                nonzeros=sizes.nonzeros,
                computed=sizes.computed,
                passes=sizes.passes,
            )
        )
    return message


def _pattern(message: pb.Pattern) -> Pattern:
    return Pattern(_argument(message.pointers, "pattern.pointers"), _argument(message.indices, "pattern.indices"))


def _arguments(tensors: Iterable[graph_pb2.Tensor], where: str) -> tuple[Argument, ...]:
    return tuple(_argument(tensor, f"{where}[{index}]") for index, tensor in enumerate(tensors))


def _argument(tensor: graph_pb2.Tensor, where: str) -> Argument:
    type_ = type_of(tensor, where)
    if tensor.WhichOneof("content") != "blob":
        return Argument(type_, tensor.data)
    if not is_name(tensor.blob):
        text = f"a blob's name is blobs/<32 hex digits> or blobs/sha256:<64 hex digits>, got {tensor.blob[:100]!r}"
        raise Fault(Reason.ARGUMENT_MISMATCH, text, field=f"{where}.blob")
    return Argument(type_, None, tensor.blob, tensor.offset)


def _array(array: Array) -> pb.Array:
    return pb.Array(
        part=pb.Part.ValueType(array.part),
        output=array.output,
        input=array.input,
        input2=array.input2,
        type=type_to_message(array.type),
        rows=array.rows,
        columns=array.columns,
    )


def _plan(plan: Plan) -> pb.Plan:
    considered: Sequence[pb.Considered] = [
        pb.Considered(
            strategy=each.strategy, passes=each.passes, price=each.price, verdict=each.verdict, place=diagnosis.place_to_message(each.place)
        )
        for each in plan.considered
    ]
    return pb.Plan(
        strategy=plan.strategy,
        mode=_MODE_NUMBERS[plan.mode],
        passes=plan.passes,
        tile=plan.tile,
        tiles=plan.tiles,
        workers=plan.workers,
        nbytes=plan.nbytes,
        seconds=plan.seconds,
        considered=considered,
        forward=plan.forward,
    )
