"""A gRPC server that misbehaves as told, which a real service hopefully never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
from google.protobuf import duration_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2

from jacloom_api.v1 import blob_service_pb2 as blob
from jacloom_api.v1 import blob_service_pb2_grpc as blob_grpc
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_api.v1 import derivative_service_pb2_grpc as pb_grpc
from jacloom_api.v1 import function_service_pb2 as function
from jacloom_api.v1 import function_service_pb2_grpc as function_grpc
from jacloom_api.v1 import graph_pb2
from jacloom_graph import identity, tensor, wire
from jacloom_graph.errors import Reason

Step = Callable[[pb.CallRequest, Any], Iterator[pb.CallReply]]
"""What the service does with one computing call."""


@dataclass
class Script:
    """What happened, and what will."""

    steps: list[Step] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    requests: list[pb.CallRequest] = field(default_factory=list)
    registered: dict[str, function.FunctionInfo] = field(default_factory=dict)
    leased: list[bool] = field(default_factory=list)
    """For each registration, whether the service may drop the function."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    derivatives: function.DescribeDerivativesReply = field(default_factory=function.DescribeDerivativesReply)
    pause: float = 0.0
    """Seconds that pass before ``DescribeDerivatives`` answers."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    metadata: dict[str, str] = field(default_factory=dict)


class _Derivatives(pb_grpc.DerivativeServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def _run(self, name: str, request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        self.script.calls.append(name)
        self.script.requests.append(request)
        self.script.metadata = dict(context.invocation_metadata())
        if request.function not in self.script.registered:
            fail(context, Reason.FUNCTION_NOT_FOUND, "unknown function")
        yield from self.script.steps.pop(0)(request, context)

    def Evaluate(self, request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        return self._run("Evaluate", request, context)

    def Jacobian(self, request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        return self._run("Jacobian", request, context)

    def Structure(self, request: pb.ExplainRequest, context: Any) -> Iterator[pb.CallReply]:
        return self._run("Structure", request.call, context)

    def Explain(self, request: pb.ExplainRequest, context: Any) -> pb.ExplainReply:
        self.script.calls.append("Explain")
        self.script.requests.append(request.call)
        considered = [pb.Considered(strategy="forward", passes=3, price=2.5, verdict="least work"), pb.Considered(strategy="reverse", passes=9)]
        return pb.ExplainReply(plan=pb.Plan(strategy="forward", passes=3, tile=2, tiles=2, workers=2, nbytes=216, considered=considered))


class _Functions(function_grpc.FunctionServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Register(self, request: function.RegisterRequest, context: Any) -> function.FunctionInfo:
        self.script.calls.append("Register")
        self.script.leased.append(request.leased)
        graph = wire.from_bytes(request.graph)
        missing = [constant.blob for constant in graph.constants if constant.blob and constant.blob not in self.script.blobs]
        if missing:
            fail(context, Reason.BLOB_NOT_FOUND, f"no {missing[0]}")
        info = function.FunctionInfo(
            name=f"functions/{identity.graph_id(graph)}",
            display_name=request.display_name,
            inputs=[wire.type_to_message(type_) for type_ in graph.entry.inputs],
            in_tree=wire.tree_to_message(graph.in_tree),
            out_tree=wire.tree_to_message(graph.out_tree),
        )
        return self.script.registered.setdefault(info.name, info)

    def Get(self, request: function.GetFunctionRequest, context: Any) -> function.FunctionInfo:
        if request.name not in self.script.registered:
            fail(context, Reason.FUNCTION_NOT_FOUND, f"no function {request.name}")
        return self.script.registered[request.name]

    def List(self, request: function.ListFunctionsRequest, context: Any) -> function.ListFunctionsReply:
        names = list(self.script.registered)
        start = int(request.page_token or 0)
        end = min(len(names), start + min(request.page_size, 2))
        found = [self.script.registered[name] for name in names[start:end]]
        return function.ListFunctionsReply(functions=found, next_page_token=str(end) if end < len(names) else "")

    def DescribeDerivatives(self, request: function.DescribeDerivativesRequest, context: Any) -> function.DescribeDerivativesReply:
        self.script.calls.append("DescribeDerivatives")
        time.sleep(self.script.pause)
        if request.name not in self.script.registered:
            fail(context, Reason.FUNCTION_NOT_FOUND, f"no function {request.name}")
        return self.script.derivatives

    def Delete(self, request: function.DeleteFunctionRequest, context: Any) -> empty_pb2.Empty:
        if self.script.registered.pop(request.name, None) is None:
            fail(context, Reason.FUNCTION_NOT_FOUND, f"no function {request.name}")
        return empty_pb2.Empty()


class _Blobs(blob_grpc.BlobServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script

    def Missing(self, request: blob.MissingRequest, context: Any) -> blob.MissingReply:
        self.script.calls.append("Missing")
        return blob.MissingReply(names=[name for name in request.names if name not in self.script.blobs])

    def Put(self, requests: Iterator[blob.PutRequest], context: Any) -> blob.Blob:
        self.script.calls.append("Put")
        parts = list(requests)
        content = b"".join(part.data for part in parts)
        header = parts[0].header
        assert header.size == len(content)
        name = f"blobs/sha256:{header.sha256}" if header.sha256 else f"blobs/{len(self.script.blobs):032x}"
        self.script.blobs[name] = content
        return blob.Blob(name=name, size=len(content))

    def Release(self, request: blob.ReleaseRequest, context: Any) -> blob.ReleaseReply:
        self.script.calls.append("Release")
        del self.script.blobs[request.name]
        return blob.ReleaseReply()


def fail(context: Any, reason: Reason, message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT, **details: Any) -> NoReturn:
    """Ends a call with a reason."""
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason.value, domain="jacloom", metadata=details.get("metadata", {})))
    if "retry" in details:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=int(details["retry"] * 1e9))))
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, message)
    raise AssertionError("abort raises")


def failing(reason: Reason, message: str = "no", code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT, **details: Any) -> Step:
    """Returns a step that ends with a reason."""

    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        fail(context, reason, message, code, **details)
        yield pb.CallReply()

    return step


def echo(script: Script) -> Step:
    """Returns a step that answers with the first argument, whole, in one message."""

    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        header, block = parts(request.args[0], script.blobs)
        yield pb.CallReply(header=header, blocks=[block], summary=pb.Summary(passes=1, tiles=1, workers=1))

    return step


def parts(argument: graph_pb2.Tensor, blobs: dict[str, bytes]) -> tuple[pb.Header, pb.Block]:
    """Returns header and block of an answer that is an argument."""
    type_ = tensor.type_of(argument)
    array = pb.Array(part=pb.VALUE, output=0, type=wire.type_to_message(type_), rows=1, columns=type_.size)
    data = blobs[argument.blob][argument.offset :][: tensor.nbytes(type_)] if argument.blob else argument.data
    plan = pb.Plan(strategy="single pass", passes=1, tiles=1, workers=1, nbytes=len(data))
    return pb.Header(plan=plan, arrays=[array]), pb.Block(array=0, row=0, rows=1, column=0, columns=type_.size, data=data)


def hang(script: Script) -> Step:
    """Returns a step that never answers, and notes when the client has cancelled it."""

    def step(request: pb.CallRequest, context: Any) -> Iterator[pb.CallReply]:
        context.add_callback(script.cancelled.set)
        yield pb.CallReply(progress=pb.Progress(tiles_done=0, tiles=4))
        while context.is_active():
            time.sleep(0.01)

    return step


@contextmanager
def serving(
    script: Script, port: int = 0, credentials: grpc.ServerCredentials | None = None, further: Callable[[grpc.Server], None] = lambda server: None
) -> Iterator[int]:
    """Runs the service on a port of this machine and yields it; ``further`` puts more onto the server."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_DerivativeServiceServicer_to_server(_Derivatives(script), server)
    function_grpc.add_FunctionServiceServicer_to_server(_Functions(script), server)
    blob_grpc.add_BlobServiceServicer_to_server(_Blobs(script), server)
    further(server)
    address = f"127.0.0.1:{port}"
    port = server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
