"""One computing call: request, stream of replies, arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from jacloom._sparsity import Structure, read_structure, sizes_of
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_api.v1 import graph_pb2
from jacloom_graph.answer import ArrayKey, Derivative, Selection
from jacloom_graph.framing import Pieces, field
from jacloom_graph.types import Type

_MODES = {"auto": pb.MODE_UNSPECIFIED, "forward": pb.FORWARD, "reverse": pb.REVERSE}


def request(name: str, chosen: Selection, options: pb.Options | None = None) -> pb.CallRequest:
    """Returns the request that asks about leaves of the function of that resource name, without its arrays."""
    return pb.CallRequest(
        function=name,
        wrt=chosen.wrt,
        outputs=chosen.named,
        values=chosen.values,
        options=options,
    )


def typed(message: pb.CallRequest, inputs: Sequence[Type], weights: Sequence[Type]) -> pb.CallRequest:
    """Returns a request with types in the place of its arrays."""
    for tensors, types in ((message.args, inputs), (message.weights, weights)):
        tensors.extend(graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape) for type_ in types)
    return message


def options(query: Query, structure: str = "") -> pb.Options:
    """Returns how a query wants its derivatives computed; ``structure``: the digest of that which the caller holds."""
    sparsity = pb.SPARSE if query.sparse else pb.DENSE if query.dense else pb.SPARSITY_UNSPECIFIED
    return _options(query.mode, 0 if query.tile == "auto" else query.tile, query.holomorphic, sparsity, structure, query.batch)


def serialized(
    message: pb.CallRequest,
    args: Sequence[Pieces] = (),
    seeds: Sequence[Pieces] = (),
    weights: Sequence[Pieces] = (),
    pattern: Sequence[Pieces] = (),
) -> bytes:
    """Returns a request as it travels, with arguments, seeds, weights and a pattern's pointers and indices as ``_upload.tensors`` makes them."""
    numbered = (
        (pb.CallRequest.ARGS_FIELD_NUMBER, args),
        (pb.CallRequest.SEEDS_FIELD_NUMBER, seeds),
        (pb.CallRequest.WEIGHTS_FIELD_NUMBER, weights),
    )
    fields = [field(number, *pieces) for number, tensors in numbered for pieces in tensors]
    if pattern:
        inner = (field(number, *pieces) for number, pieces in enumerate(pattern, start=pb.Pattern.POINTERS_FIELD_NUMBER))
        fields.append(field(pb.CallRequest.PATTERN_FIELD_NUMBER, *chain.from_iterable(inner)))
    return b"".join([message.SerializeToString(), *chain.from_iterable(fields)])


@lru_cache(maxsize=256)
def _options(mode: str, tile: int, holomorphic: bool, sparsity: pb.Sparsity.ValueType, structure: str, batch: int) -> pb.Options:
    return pb.Options(mode=_MODES[mode], tile=tile, holomorphic=holomorphic, sparsity=sparsity, structure=structure, batch=batch)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, all of it."""

    arrays: Mapping[ArrayKey, np.ndarray]
    structure: Structure | None = None
    """What its entries are, where it is sparse."""


def compute(connection: Connection, message: bytes, query: Query, deadline: Deadline, watch: Watch, known: Structure | None = None) -> Answer:
    """Returns the answer to a serialized request.

    A service that is unavailable before the first reply is asked again. When this call is interrupted, the service is told to stop.

    Raises:
        ProtocolError: if the answer is incomplete or not what was asked for.
        JacloomError: what the service's status means.
    """
    begun = False

    def attempt() -> Answer:
        nonlocal begun
        assembly, described = Assembly(query.expected), None
        complete = False
        try:
            with connection.stubs(deadline) as stubs:
                stream = stubs.compute[query.derivative](message, timeout=deadline.remaining(), metadata=stubs.metadata)
                try:
                    for reply in stream:
                        begun = True
                        if reply.HasField("header") and reply.header.HasField("structure"):
                            described = reply.header.structure
                        complete = _take(reply, assembly, query, known, watch)
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
        arrays = assembly.finish()
        if described is None or (known is not None and known.digest == described.digest):
            return Answer(arrays, known if described is not None else None)
        return Answer(arrays, read_structure(described, arrays))

    return retrying(attempt, deadline, again=lambda: not begun)


def explain(connection: Connection, message: pb.CallRequest, derivative: Derivative, deadline: Deadline, pattern: Sequence[Pieces] = ()) -> Plan:
    """Returns the service's plan for a Jacobian or Hessian without computing it; ``pattern`` as for ``serialized``."""
    whole = pb.CallRequest.FromString(serialized(message, pattern=pattern)) if pattern else message
    word = "hessian" if derivative is Derivative.HESSIAN else "jacobian"

    def method(stubs: Stubs) -> grpc.UnaryUnaryMultiCallable[pb.ExplainRequest, pb.ExplainReply]:
        return stubs.derivatives.Explain

    reply = connection.unary(method, pb.ExplainRequest(call=whole, derivative=word), deadline)
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


def _take(reply: pb.CallReply, assembly: Assembly, query: Query, known: Structure | None, watch: Watch) -> bool:
    """Takes in one reply; returns whether it is the last."""
    last = reply.HasField("summary")
    if reply.HasField("header"):
        sparse = reply.header.structure if reply.header.HasField("structure") else None
        structured = sparse is not None and (known is None or known.digest != sparse.digest)
        assembly.begin(reply.header.arrays, None if sparse is None else query.sparse_arrays(sizes_of(sparse), structured=structured))
        if watch.heard or not last:
            watch.planned(plan_from_message(reply.header.plan))
    for block in reply.blocks:
        assembly.place(block)
    if reply.HasField("progress"):
        watch.advanced(reply.progress.tiles_done, reply.progress.tiles)
    if last and watch.heard:
        watch.ended(summary_from_message(reply.summary))
    return last
