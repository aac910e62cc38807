"""What cannot be beaten: a bare gRPC echo of the same bytes, a Ray actor's round trip."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

CHUNK = 1 << 20
_UNARY = "/floor.Echo/Unary"
_STREAM = "/floor.Echo/Stream"
_SINK = "/floor.Echo/Sink"
_OPTIONS = [("grpc.max_receive_message_length", 16 << 20), ("grpc.max_send_message_length", 16 << 20), ("grpc.so_reuseport", 0)]


def serve() -> None:
    """Echoes raw bytes until standard input ends; prints the port first. Run as ``python -m benchmarks.floors``."""
    server = grpc.server(ThreadPoolExecutor(4), options=_OPTIONS)
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
        "Stream": grpc.stream_stream_rpc_method_handler(lambda requests, _: iter(list(requests))),
        "Sink": grpc.stream_unary_rpc_method_handler(lambda requests, _: sum(map(len, requests)).to_bytes(8, "little")),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("floor.Echo", handlers),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None).wait()


class Echo:
    """A client of the echo server: bytes there and back."""

    def __init__(self, channel: grpc.Channel) -> None:
        """Uses an open channel."""
        self._unary = channel.unary_unary(_UNARY, None, None)
        self._stream = channel.stream_stream(_STREAM, None, None)
        self._sink = channel.stream_unary(_SINK, None, None)

    def unary(self, payload: bytes) -> bytes:
        """Returns the payload, sent and received as one message."""
        return bytes(self._unary(payload))

    def chunked(self, payload: memoryview) -> int:
        """Returns how many bytes came back, sent and received in chunks of 1 MiB."""
        return sum(len(chunk) for chunk in self._stream(_chunks(payload)))

    def sent(self, payload: memoryview) -> int:
        """Returns how many bytes arrived, sent in chunks of 1 MiB and only counted there."""
        return int.from_bytes(self._sink(_chunks(payload)), "little")


def _chunks(payload: memoryview) -> Iterator[bytes]:
    return (bytes(payload[at : at + CHUNK]) for at in range(0, len(payload), CHUNK))


@contextlib.contextmanager
def echo() -> Iterator[Echo]:
    """Gives an echo client with a server in a process of its own."""
    server = subprocess.Popen([sys.executable, "-m", "benchmarks.floors"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        port = int(server.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
            yield Echo(channel)
    finally:
        server.stdin.close()
        server.wait(10)


@contextlib.contextmanager
def ray_actor() -> Iterator[object]:
    """Gives a Ray actor (method ``echo``) in a cluster of its own with one CPU."""
    import ray

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:

        @ray.remote(num_cpus=0)
        class Actor:
            def echo(self, value: object) -> object:
                return value

        yield Actor.remote()  # type: ignore[attr-defined]  # Ray's decorator adds it
    finally:
        ray.shutdown()


if __name__ == "__main__":
    serve()
