"""A channel to one service: opened on the first call, shared by all threads."""

from __future__ import annotations

import ipaddress
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import grpc
from grpc.experimental import ChannelOptions

from jacloom._deadline import Deadline
from jacloom._errors import ClientStateError, OptionError
from jacloom._retry import retrying
from jacloom._status import from_rpc
from jacloom_api.v1 import (
    blob_service_pb2,
    blob_service_pb2_grpc,
    derivative_service_pb2,
    derivative_service_pb2_grpc,
    function_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
)
from jacloom_graph.answer import Derivative

Request = TypeVar("Request")
Reply = TypeVar("Reply")
Metadata = tuple[tuple[str, str], ...]

MESSAGE_BYTES = 64 << 20
"""Largest message either way; services send far smaller ones."""
_DERIVATIVES = derivative_service_pb2.DESCRIPTOR.services_by_name["DerivativeService"].full_name
_BLOBS = blob_service_pb2.DESCRIPTOR.services_by_name["BlobService"].full_name
_JOBS = job_service_pb2.DESCRIPTOR.services_by_name["JobService"].full_name
CONTROL_SECONDS = 120.0
"""Limit for calls that compute nothing, where the user sets none: a large graph takes a while to be checked."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a service listens and how it is spoken to."""

    address: str
    """``"host:port"`` or another gRPC target."""
    token: str | None = None
    tls: bool | Path = False
    """True: TLS with the system's certificate authorities; a path: with those in that PEM file."""


class Service(Protocol):
    """Yields the endpoint of a service: one given by the user, or one that is started here."""

    def endpoint(self, deadline: Deadline) -> Endpoint:
        """Returns the endpoint, waiting until there is one."""

    def require_alive(self) -> None:
        """Raises LocalServiceError if asking again is pointless, because the service has ended for good."""

    def answered(self) -> None:
        """Takes note that the service has answered a call."""

    def close(self) -> None:
        """Lets go of the service."""


@dataclass(frozen=True, slots=True)
class Stubs:
    """The methods of a service."""

    compute: Mapping[Derivative, grpc.UnaryStreamMultiCallable[bytes, derivative_service_pb2.CallReply]]
    """The methods of ``DerivativeService`` that compute, for serialized requests; see ``jacloom_graph.framing``."""
    diagnose: grpc.UnaryUnaryMultiCallable[bytes, derivative_service_pb2.DiagnoseReply]
    """``DerivativeService.Diagnose``, likewise."""
    put: grpc.StreamUnaryMultiCallable[bytes, blob_service_pb2.Blob]
    """``BlobService.Put``, likewise."""
    create: grpc.StreamUnaryMultiCallable[bytes, job_service_pb2.Job]
    """``JobService.Create``, likewise."""
    derivatives: derivative_service_pb2_grpc.DerivativeServiceStub
    functions: function_service_pb2_grpc.FunctionServiceStub
    blobs: blob_service_pb2_grpc.BlobServiceStub
    jobs: job_service_pb2_grpc.JobServiceStub
    metadata: Metadata
    """Sent with every call."""


_open_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


class Connection:
    """A service's methods, once it can be reached. Safe to share between threads, not between processes."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._stubs: Stubs | None = None
        self._closed = False
        self._process = os.getpid()
        _open_connections.add(self)

    @contextmanager
    def stubs(self, deadline: Deadline) -> Iterator[Stubs]:
        """Yields the methods for one attempt of a call, connecting on the first. What gRPC raises in the body comes out as the SDK's error.

        Raises:
            ClientStateError: if the client is closed, before or meanwhile, or was carried through a fork.
            LocalServiceError: if the local service did not start, or has ended for good.
            JacloomError: what the service's status means.
        """
        stubs = self._open_stubs(deadline)
        self.service.require_alive()
        try:
            yield stubs
        except grpc.RpcError as error:
            if self._closed:
                raise _closed() from None
            raise from_rpc(error, deadline) from None
        except ValueError:
            # So gRPC refuses calls on a channel that another thread has just closed.
            if self._closed:
                raise _closed() from None
            raise

    def _open_stubs(self, deadline: Deadline) -> Stubs:
        if self._process != os.getpid():
            raise ClientStateError(
                f"this client was made in process {self._process}, and connections do not survive a fork: call jl.connect() in this process, "
                "or start processes with multiprocessing's 'spawn' method"
            )
        if self._closed:
            raise _closed()
        if self._stubs is not None:
            return self._stubs
        endpoint = self.service.endpoint(deadline)
        with self._lock:
            if self._closed:
                raise _closed()
            if self._stubs is None:
                self._channel = _open(endpoint)
                self._stubs = _stubs(self._channel, endpoint.token)
            return self._stubs

    def unary(
        self, method: Callable[[Stubs], grpc.UnaryUnaryMultiCallable[Request, Reply]], request: Request, deadline: Deadline, *, patient: bool = True
    ) -> Reply:
        """Returns the reply to one message, trying again while the service is unavailable unless told not to be patient.

        Raises:
            JacloomError: what the service's status means.
        """

        def attempt() -> Reply:
            with self.stubs(deadline) as stubs:
                return method(stubs)(request, timeout=deadline.remaining(CONTROL_SECONDS), metadata=stubs.metadata)

        return retrying(attempt, deadline, again=lambda: patient)

    def close(self) -> None:
        """Ends all calls and lets go of the service. Does nothing the second time, or in a forked process."""
        with self._lock:
            if self._closed or self._process != os.getpid():
                return
            self._closed = True
            channel, self._channel, self._stubs = self._channel, None, None
        if channel is not None:
            channel.close()
        self.service.close()


def _closed() -> ClientStateError:
    return ClientStateError("this client is closed; call jl.connect() for a new one")


def close_all() -> None:
    """Closes every connection of this process."""
    for connection in list(_open_connections):
        connection.close()


def is_loopback(address: str) -> bool:
    """Returns whether only this machine can be meant by an address."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    host = address.rpartition("/")[2].rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _open(endpoint: Endpoint) -> grpc.Channel:
    options: list[tuple[str, int]] = [
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        # One thread reads the replies that it waits for: 0.15 ms less per call than handing them over from another.
        (ChannelOptions.SingleThreadedUnaryStream, 1),
    ]
    if is_loopback(endpoint.address):
        options.append(("grpc.enable_http_proxy", 0))
    else:
        # A peer that vanished without a word is noticed within a minute, also by calls without a deadline.
        options += [("grpc.keepalive_time_ms", 40_000), ("grpc.keepalive_timeout_ms", 20_000)]
    if endpoint.tls is False:
        return grpc.insecure_channel(endpoint.address, options=options)
    try:
        roots = endpoint.tls.read_bytes() if isinstance(endpoint.tls, Path) else None
    except OSError as error:
        raise OptionError(f"tls={str(endpoint.tls)!r}: the file of certificate authorities cannot be read: {error.strerror}") from None
    return grpc.secure_channel(endpoint.address, grpc.ssl_channel_credentials(roots), options=options)


def _stubs(channel: grpc.Channel, token: str | None) -> Stubs:
    return Stubs(
        {each: channel.unary_stream(f"/{_DERIVATIVES}/{each.value}", None, derivative_service_pb2.CallReply.FromString) for each in Derivative},
        channel.unary_unary(f"/{_DERIVATIVES}/Diagnose", None, derivative_service_pb2.DiagnoseReply.FromString),
        channel.stream_unary(f"/{_BLOBS}/Put", None, blob_service_pb2.Blob.FromString),
        channel.stream_unary(f"/{_JOBS}/Create", None, job_service_pb2.Job.FromString),
        derivative_service_pb2_grpc.DerivativeServiceStub(channel),
        function_service_pb2_grpc.FunctionServiceStub(channel),
        blob_service_pb2_grpc.BlobServiceStub(channel),
        job_service_pb2_grpc.JobServiceStub(channel),
        () if token is None else (("authorization", f"Bearer {token}"),),
    )
