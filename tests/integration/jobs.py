"""Jobs through the generated stubs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import grpc
import numpy as np
from integration import service
from integration.service import message

from jacloom_api.v1 import derivative_service_pb2 as call_pb
from jacloom_api.v1 import job_service_pb2 as pb
from jacloom_api.v1 import job_service_pb2_grpc
from jacloom_graph import tensor
from jacloom_graph.tensor import raw

ENDED = (pb.JOB_SUCCEEDED, pb.JOB_SUCCEEDED_WITH_FAILURES, pb.JOB_FAILED, pb.JOB_CANCELLED, pb.JOB_DEADLINE_EXCEEDED)


class Jobs:
    """What can be asked about jobs."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = job_service_pb2_grpc.JobServiceStub(channel)

    def create(self, spec: pb.JobSpec, leaves: Sequence[np.ndarray], rows: int = 1000) -> pb.Job:
        return self.stub.Create(messages(spec, leaves, rows), timeout=service.TIMEOUT)

    def get(self, name: str) -> pb.Job:
        return self.stub.Get(pb.GetJobRequest(name=name), timeout=service.TIMEOUT)

    def wait(self, name: str) -> pb.Job:
        """Returns a job when it has ended."""
        *_, last = self.stub.Watch(pb.WatchJobRequest(name=name), timeout=service.TIMEOUT)
        assert last.state in ENDED
        return last

    def read(self, name: str, path: str, first: int = 0, count: int = 0, offset: int = 0) -> np.ndarray:
        """Returns a range of points of an array, put together of its pieces."""
        request = pb.ReadResultRequest(name=name, path=path, first=first, count=count, offset=offset)
        head, *pieces = self.stub.ReadResult(request, timeout=service.TIMEOUT)
        found = np.zeros(tuple(head.type.shape), tensor.DTYPES[head.type.dtype])
        assert found.nbytes == head.nbytes
        filled = np.zeros(found.shape, np.uint8)
        for piece in (reply.piece for reply in pieces):
            box = tuple(slice(start, start + count) for start, count in zip(piece.starts, piece.counts, strict=True))
            found[box] = np.frombuffer(piece.data, found.dtype).reshape(tuple(piece.counts))
            filled[box] += 1
        assert offset or (filled == 1).all()
        return found


def spec(
    function: str, args: Sequence[object], derivative: int, *, points: Sequence[int] = (0,), seeds: Sequence[object] = (), **fields: object
) -> pb.JobSpec:
    """Returns a spec; arrays in ``args`` that points have of their own are given as what one point has."""
    wrt = fields.pop("wrt", (0,))
    options = {name: fields.pop(name) for name in ("mode", "sparsity") if name in fields}
    tensors = [message(value) for value in args]
    for leaf in points:
        tensors[leaf].ClearField("data")
    chosen = {name: fields.pop(name) for name in ("outputs", "values") if name in fields}
    call = call_pb.CallRequest(function=function, args=tensors, wrt=wrt, options=call_pb.Options(**options), **chosen)
    for seed in seeds:
        call.seeds.append(message(seed))
        call.seeds[-1].ClearField("data")
    return pb.JobSpec(call=call, derivative=derivative, points=points, **fields)


def messages(spec: pb.JobSpec, leaves: Sequence[np.ndarray], rows: int) -> Iterator[pb.CreateJobRequest]:
    yield pb.CreateJobRequest(spec=spec)
    for first in range(0, len(leaves[0]), rows):
        parts = [leaf[first : first + rows] for leaf in leaves]
        yield pb.CreateJobRequest(points=pb.Points(count=len(parts[0]), leaves=[bytes(raw(part)) for part in parts]))
    yield pb.CreateJobRequest(last=True)
