"""A real service in a process of its own, and a client made of nothing but the generated stubs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration import graphs

from jacloom_api.v1 import blob_service_pb2 as blob_pb
from jacloom_api.v1 import blob_service_pb2_grpc as blob_grpc
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_api.v1 import derivative_service_pb2_grpc as derivative_grpc
from jacloom_api.v1 import function_service_pb2 as function_pb
from jacloom_api.v1 import function_service_pb2_grpc as function_grpc
from jacloom_api.v1 import graph_pb2
from jacloom_graph import tensor
from jacloom_graph.types import Graph

OPTIONS = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]
TIMEOUT = 120.0
"""Bound on every call, so that a test that would hang fails."""


@dataclass(frozen=True)
class Answer:
    """A whole answer: its arrays filled, with the messages counted."""

    header: pb.Header
    arrays: list[np.ndarray]
    summary: pb.Summary
    messages: int


@dataclass(frozen=True)
class Failure:
    """What a failed call came with."""

    code: grpc.StatusCode
    text: str
    reason: str
    metadata: dict[str, str]
    fields: list[str]
    retry: bool


class Client:
    """Stubs on a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.derivatives = derivative_grpc.DerivativeServiceStub(channel)
        self.functions = function_grpc.FunctionServiceStub(channel)
        self.blobs = blob_grpc.BlobServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def register(self, graph: Graph) -> str:
        return self.functions.Register(function_pb.RegisterRequest(graph=graphs.serialized(graph)), timeout=TIMEOUT).name

    def call(self, method: str, request: pb.CallRequest, **options: object) -> Answer:
        return collect(getattr(self.derivatives, method)(request, **{"timeout": TIMEOUT} | options))

    def put(self, data: bytes, sha256: str = "", size: int | None = None, piece: int = 1 << 20) -> blob_pb.Blob:
        def messages() -> Iterator[blob_pb.PutRequest]:
            yield blob_pb.PutRequest(header=blob_pb.PutHeader(sha256=sha256, size=len(data) if size is None else size))
            for at in range(0, len(data), piece):
                yield blob_pb.PutRequest(data=data[at : at + piece])

        return self.blobs.Put(messages(), timeout=TIMEOUT)

    def keep(self, data: bytes) -> str:
        return self.put(data, hashlib.sha256(data).hexdigest()).name

    def serving(self) -> bool:
        status = self.health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
        return status == health_pb2.HealthCheckResponse.SERVING

    def wait_until_serving(self, seconds: float = 60) -> None:
        wait_for(self.serving, seconds)


def collect(replies: Iterator[pb.CallReply]) -> Answer:
    """Returns a whole answer, having checked that its blocks cover every array exactly once."""
    header, arrays, counts, summary, messages = None, [], [], None, 0
    for reply in replies:
        assert summary is None, "nothing may follow the summary"
        messages += 1
        if reply.HasField("header"):
            assert header is None, "the header comes once"
            header = reply.header
            arrays = [np.empty((array.rows, array.columns), dtype(array.type)) for array in header.arrays]
            counts = [np.zeros((array.rows, array.columns), np.uint8) for array in header.arrays]
        assert header is not None, "the header comes first"
        for block in reply.blocks:
            place = np.s_[block.row : block.row + block.rows, block.column : block.column + block.columns]
            arrays[block.array][place] = np.frombuffer(block.data, arrays[block.array].dtype).reshape(block.rows, block.columns)
            counts[block.array][place] += 1
        if reply.HasField("summary"):
            summary = reply.summary
    assert header is not None
    assert summary is not None
    assert all((count == 1).all() for count in counts)
    shaped = [values.reshape(tuple(array.type.shape)) for values, array in zip(arrays, header.arrays, strict=True)]
    return Answer(header, shaped, summary, messages)


def dtype(type_: graph_pb2.Type) -> np.dtype:
    return tensor.DTYPES[type_.dtype]


def request(
    function: str,
    args: Sequence[object],
    wrt: Sequence[int] = (0,),
    seeds: Sequence[object] = (),
    weights: Sequence[object] = (),
    **fields: object,
) -> pb.CallRequest:
    names = ("mode", "tile", "holomorphic", "sparsity", "structure", "batch")
    options = pb.Options(**{name: fields.pop(name) for name in names if name in fields})
    tensors = {"args": map(message, args), "seeds": map(message, seeds), "weights": map(message, weights)}
    return pb.CallRequest(function=function, wrt=wrt, options=options, **tensors, **fields)


def message(value: object) -> graph_pb2.Tensor:
    return value if isinstance(value, graph_pb2.Tensor) else tensor.to_message(value)


def refused(client: Client, method: str, call: pb.CallRequest) -> Failure:
    """Returns what a call that must fail comes with."""
    with pytest.raises(grpc.RpcError) as caught:
        client.call(method, call)
    return failure(caught.value)


def failure(error: grpc.RpcError) -> Failure:
    """Returns what a failed call came with, from its rich status."""
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for kind in (info, bad, retry):
            detail.Unpack(kind)
    assert info.domain == "jacloom"
    fields = [violation.field for violation in bad.field_violations]
    return Failure(error.code(), error.details(), info.reason, dict(info.metadata), fields, retry.HasField("retry_delay"))


@dataclass(frozen=True)
class Process:
    """A server that runs."""

    popen: subprocess.Popen[str]
    address: str
    pid: int
    log: Path

    def tree(self) -> list[psutil.Process]:
        """Returns the server and all that it has started."""
        return [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]

    def ready(self) -> int:
        """Returns how many processes have said hello so far, those included that are gone since."""
        return self.log.read_text().count(" is ready: process ")

    def workers(self) -> list[psutil.Process]:
        """Returns the worker processes that are up; Ray names processes by what they do."""
        return named(self.tree(), r"ray::Worker(\.run)?")  # while it starts, a process has another name


def named(processes: Iterable[psutil.Process], pattern: str) -> list[psutil.Process]:
    """Returns the processes whose whole name matches a regular expression, without those that end while they are looked at."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if re.fullmatch(pattern, process.name()):
                found.append(process)
    return found


@contextlib.contextmanager
def process(log: Path, *flags: str) -> Iterator[Process]:
    """Runs a server on a free port; at the end checks that it goes in order and leaves nobody behind."""
    command = [sys.executable, "-m", "jacloom_server", "--parent", "--address", "127.0.0.1:0", *flags]
    with log.open("w") as stderr:
        popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True)
    assert popen.stdin is not None
    assert popen.stdout is not None
    try:
        line = popen.stdout.readline()
        assert line, log.read_text()
        ready = json.loads(line)
        running = Process(popen, ready["address"], ready["pid"], log)
        yield running
        started = running.tree() if popen.poll() is None else []
    finally:
        popen.stdin.close()
        popen.stdout.close()
        code = popen.wait(30)
    assert code == 0, log.read_text()
    assert_gone(started)


@contextlib.contextmanager
def client(running: Process) -> Iterator[Client]:
    """Opens a channel to a server."""
    with grpc.insecure_channel(running.address, options=OPTIONS) as channel:
        yield Client(channel)


def assert_gone(processes: Sequence[psutil.Process], seconds: float = 10) -> None:
    """Checks that processes end, and soon."""
    _, alive = psutil.wait_procs(processes, seconds)
    assert not [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def wait_for(condition: object, seconds: float = 30) -> None:
    """Waits until a condition holds; fails if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)
