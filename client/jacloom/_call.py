"""One computing call: request, stream of replies, arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain

import grpc
import numpy as np

from jacloom._assemble import Assembly
from jacloom._connection import Connection, Stubs
from jacloom._deadline import Deadline
from jacloom._errors import ProtocolError, UnavailableError
from jacloom._plan import Plan, plan_from_message, summary_from_message
from jacloom._progress import Watch
from jacloom._query import Query
from jacloom._retry import retrying
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_api.v1 import graph_pb2
from jacloom_graph.answer import ArrayKey, Derivative, Selection
from jacloom_graph.framing import Pieces, field
from jacloom_graph.types import Type

_MODES = {"auto": pb.MODE_UNSPECIFIED, "forward": pb.FORWARD, "reverse": pb.REVERSE}


def request(name: str, chosen: Selection, options: pb.Options | None = None, types: Sequence[Type] = ()) -> pb.CallRequest:
    """Returns the request that asks about leaves of the function of that resource name; of its arguments it has at most the types."""
    return pb.CallRequest(
        function=name,
        args=[graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape) for type_ in types],
        wrt=chosen.wrt,
        outputs=chosen.outputs,
        values=chosen.values,
        options=options,
    )


def options(query: Query) -> pb.Options:
    """Returns how a query wants its derivatives computed."""
    return _options(query.mode, 0 if query.tile == "auto" else query.tile, query.holomorphic)


def serialized(message: pb.CallRequest, args: Sequence[Pieces], seeds: Sequence[Pieces]) -> bytes:
    """Returns a request as it travels, with arguments and seeds as ``_upload.tensors`` makes them."""
    numbers = pb.CallRequest.ARGS_FIELD_NUMBER, pb.CallRequest.SEEDS_FIELD_NUMBER
    fields = (field(number, *pieces) for number, tensors in zip(numbers, (args, seeds), strict=True) for pieces in tensors)
    return b"".join([message.SerializeToString(), *chain.from_iterable(fields)])


@lru_cache(maxsize=256)
def _options(mode: str, tile: int, holomorphic: bool) -> pb.Options:
    return pb.Options(mode=_MODES[mode], tile=tile, holomorphic=holomorphic)


def compute(connection: Connection, message: bytes, query: Query, deadline: Deadline, watch: Watch) -> Mapping[ArrayKey, np.ndarray]:
    """Returns the arrays of the answer to a serialized request, all complete.

    A service that is unavailable before the first reply is asked again. When this call is interrupted, the service is told to stop.

    Raises:
        ProtocolError: if the answer is incomplete or not what was asked for.
        JacloomError: what the service's status means.
    """
    begun = False

    def attempt() -> Mapping[ArrayKey, np.ndarray]:
        nonlocal begun
        assembly = Assembly(query.expected)
        complete = False
        try:
            with connection.stubs(deadline) as stubs:
                stream = stubs.compute[query.derivative](message, timeout=deadline.remaining(), metadata=stubs.metadata)
                try:
                    for reply in stream:
                        begun = True
                        complete = _take(reply, assembly, watch)
                except BaseException:
                    stream.cancel()  # type: ignore[no-untyped-call]  # does nothing to one that has failed
                    raise
        except UnavailableError as failure:
            if not begun:
                raise
            text = f"the connection was lost in the middle of the answer, which is not used; call again ({failure.message})"
            raise UnavailableError(text) from None
        if not complete:
            raise ProtocolError("the answer ended without its summary, so it may be incomplete; it is not used")
        connection.service.answered()
        return assembly.finish()

    return retrying(attempt, deadline, again=lambda: not begun)


def explain(connection: Connection, message: pb.CallRequest, derivative: Derivative, deadline: Deadline) -> Plan:
    """Returns the service's plan for a Jacobian or Hessian without computing it."""
    word = "hessian" if derivative is Derivative.HESSIAN else "jacobian"

    def method(stubs: Stubs) -> grpc.UnaryUnaryMultiCallable[pb.ExplainRequest, pb.ExplainReply]:
        return stubs.derivatives.Explain

    reply = connection.unary(method, pb.ExplainRequest(call=message, derivative=word), deadline)
    return plan_from_message(reply.plan)


def diagnose(connection: Connection, message: bytes, deadline: Deadline) -> pb.DiagnoseReply:
    """Returns what the service finds wrong with the function and the point of a serialized request. When interrupted, the service is told to stop."""

    def attempt() -> pb.DiagnoseReply:
        with connection.stubs(deadline) as stubs:
            asked = stubs.diagnose.future(message, timeout=deadline.remaining(), metadata=stubs.metadata)
            try:
                reply = asked.result()
            finally:
                asked.cancel()  # type: ignore[no-untyped-call]  # does nothing to one that is done
        connection.service.answered()
        return reply

    return retrying(attempt, deadline)


def _take(reply: pb.CallReply, assembly: Assembly, watch: Watch) -> bool:
    """Takes in one reply; returns whether it is the last."""
    last = reply.HasField("summary")
    if reply.HasField("header"):
        assembly.begin(reply.header.arrays)
        if watch.heard or not last:
            watch.planned(plan_from_message(reply.header.plan))
    for block in reply.blocks:
        assembly.place(block)
    if reply.HasField("progress"):
        watch.advanced(reply.progress.tiles_done, reply.progress.tiles)
    if last and watch.heard:
        watch.ended(summary_from_message(reply.summary))
    return last
