"""The server as a process: who may enter, how it starts again, how it ends, and that nobody is left behind."""

from __future__ import annotations

import datetime
import ipaddress
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from integration import graphs, service
from integration.service import Client, request

from jacloom_api.v1 import blob_service_pb2 as blob_pb
from jacloom_api.v1 import function_service_pb2 as function_pb
from jacloom_api.v1 import graph_pb2

SMALL = ("--workers", "1", "--no-wide", "--object-store", "256M")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return cert_file, key_file


def test_tls_tokens_and_the_limit_on_calls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    tokens = tmp_path / "tokens"
    tokens.write_text("# ours\nfirst-token\n\nsecond-token\n")
    tokens.chmod(0o600)
    flags = ("--tls-cert", str(cert), "--tls-key", str(key), "--token-file", str(tokens), "--calls", "2")
    with service.process(tmp_path / "log", *SMALL, *flags) as running:
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(running.address, credentials) as channel:
            anyone = Client(channel)
            anyone.wait_until_serving()
            with pytest.raises(grpc.RpcError) as caught:
                anyone.register(graphs.sine(3))
            refused = service.failure(caught.value)
            assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
            assert "Bearer" in refused.text
        with grpc.secure_channel(
            running.address, grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials("x"))
        ) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                Client(channel).register(graphs.sine(3))
            assert "does not know the token that was sent" in service.failure(caught.value).text
        for token, accepted in (("second-token", True), ("second-toke", False), ("", False)):
            composed = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials(token))
            with grpc.secure_channel(running.address, composed) as channel:
                if not accepted:
                    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                        Client(channel).register(graphs.sine(3))
                    continue
                member = Client(channel)
                name = member.register(graphs.decay(4, 100_000_000))
                streams = [member.derivatives.Jacobian(request(name, [np.zeros(4)]), timeout=60) for _ in range(2)]
                time.sleep(1)
                with pytest.raises(grpc.RpcError) as caught:
                    member.register(graphs.sine(3))
                full = service.failure(caught.value)
                assert (full.code, full.reason, full.retry) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVER_QUOTA", True)
                assert member.serving(), "health answers when the server is full"
                for stream in streams:
                    stream.cancel()
                service.wait_for(partial(can, member), 20)
        with grpc.insecure_channel(running.address) as channel, pytest.raises(grpc.RpcError):
            health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)


def can(client: Client) -> bool:
    try:
        client.register(graphs.sine(3))
    except grpc.RpcError:
        return False
    return True


def test_functions_and_constants_survive_a_restart(tmp_path: Path) -> None:
    matrix = np.arange(6.0).reshape(2, 3)
    graph = graph_pb2.Graph.FromString(graphs.serialized(graphs.linear(matrix)))
    keep = ("--data", str(tmp_path / "data"))
    with service.process(tmp_path / "first", *SMALL, *keep) as running, service.client(running) as client:
        graph.constants[0].tensor.blob = blob = client.keep(matrix.tobytes())
        name = client.functions.Register(function_pb.RegisterRequest(graph=graph.SerializeToString()), timeout=60).name
        leased = client.functions.Register(function_pb.RegisterRequest(graph=graphs.serialized(graphs.sine(3)), leased=True), timeout=60).name
    with service.process(tmp_path / "second", *SMALL, *keep) as running, service.client(running) as client:
        assert client.blobs.Missing(blob_pb.MissingRequest(names=[blob])).names == []
        np.testing.assert_array_equal(client.call("Jacobian", request(name, [np.zeros(3)])).arrays[0], matrix)
        assert [info.name for info in client.functions.List(function_pb.ListFunctionsRequest()).functions] == [name]
        with pytest.raises(grpc.RpcError) as caught:
            client.functions.Get(function_pb.GetFunctionRequest(name=leased))
        assert service.failure(caught.value).reason == "FUNCTION_NOT_FOUND"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervised server, as operators start it, with whatever it leaves behind ended at the end."""
    command = [sys.executable, "-m", "jacloom_server", "--address", f"127.0.0.1:{free_port()}", *SMALL, "--drain", "10"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as popen:
        yield popen
        popen.kill()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def address(popen: subprocess.Popen[str]) -> str:
    assert popen.stdout is not None
    line = popen.stdout.readline()
    assert line.startswith("serving on "), line
    return line.removeprefix("serving on ").strip()


def children(popen: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(popen.pid).children(recursive=True)


def test_sigterm_lets_calls_finish_and_exits_with_0(server: subprocess.Popen[str]) -> None:
    with grpc.insecure_channel(address(server)) as channel:
        client = Client(channel)
        name = client.register(graphs.decay(4, 10_000_000))
        call = client.derivatives.Jacobian(request(name, [np.zeros(4)]), timeout=60)
        time.sleep(2)
        started = children(server)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(grpc.RpcError) as caught:
            client.register(graphs.sine(3))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        np.testing.assert_allclose(np.diag(service.collect(call).arrays[0]), np.exp(10.0), rtol=1e-3)
    assert server.wait(20) == 0
    service.assert_gone(started)


def test_calls_that_outlast_the_drain_are_ended(tmp_path: Path) -> None:
    with service.process(tmp_path / "log", *SMALL, "--drain", "1") as running, service.client(running) as client:
        name = client.register(graphs.decay(4, 1_000_000_000))
        call = client.derivatives.Jacobian(request(name, [np.zeros(4)]), timeout=60)
        time.sleep(2)
        running.popen.send_signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError) as caught:
            service.collect(call)
        ended = service.failure(caught.value)
        assert (ended.code, ended.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert running.popen.wait(20) == 0


def test_an_orderly_end_leaves_no_task_behind(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with service.process(log, *SMALL, "--drain", "1") as running:
        running.popen.send_signal(signal.SIGTERM)
        assert running.popen.wait(20) == 0
    text = log.read_text()
    assert "SIGTERM: stopping" in text
    assert "Task was destroyed" not in text
    assert "never awaited" not in text


def test_told_twice_a_server_ends_at_once(tmp_path: Path) -> None:
    with service.process(tmp_path / "log", *SMALL, "--drain", "60") as running, service.client(running) as client:
        name = client.register(graphs.decay(4, 1_000_000_000))
        call = client.derivatives.Jacobian(request(name, [np.zeros(4)]), timeout=60)
        time.sleep(2)
        running.popen.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert running.popen.poll() is None
        running.popen.send_signal(signal.SIGTERM)
        assert running.popen.wait(20) == 0
        with pytest.raises(grpc.RpcError):
            service.collect(call)


def test_a_server_that_is_killed_is_started_again_and_its_processes_go(server: subprocess.Popen[str]) -> None:
    where = address(server)
    with grpc.insecure_channel(where) as channel:
        Client(channel).wait_until_serving()
        child, *others = children(server)
        folder = next(Path(part.split("/session_")[0].partition("=")[2]) for each in others for part in each.cmdline() if "/session_" in part)
        assert folder.is_dir()
        child.kill()
        service.assert_gone([child, *others])
        service.wait_for(lambda: not folder.exists())
        assert address(server) == where
        Client(channel).wait_until_serving()
        client = Client(channel)
        np.testing.assert_allclose(client.call("Gradient", request(client.register(graphs.cubes(3)), [np.ones(3)])).arrays[0], 3 * np.ones(3))
    started = children(server)
    server.send_signal(signal.SIGINT)
    assert server.wait(20) == 0
    service.assert_gone(started)


def test_nobody_outlives_a_supervisor_that_is_killed(server: subprocess.Popen[str]) -> None:
    address(server)
    started = children(server)
    server.kill()
    service.assert_gone(started)


def test_a_server_whose_parent_ends_goes_too(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "server = subprocess.Popen([sys.executable, '-m', 'jacloom_server', '--parent', '--address', '127.0.0.1:0', *sys.argv[1:]],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, *SMALL], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        assert "address" in parent.stdout.readline()
        started = children(parent)
        assert len(started) > 4
        parent.kill()
        service.assert_gone(started)


def test_two_servers_do_not_share_a_port(tmp_path: Path) -> None:
    with service.process(tmp_path / "log", *SMALL) as running:
        command = [sys.executable, "-m", "jacloom_server", "--no-supervise", "--address", running.address, *SMALL]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "is another server there already?" in second.stderr
    assert "Task was destroyed" not in second.stderr


def test_a_data_folder_that_cannot_be_is_refused_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "jacloom_server", "--data", str(tmp_path / "file" / "data"), "--address", "127.0.0.1:0", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "files cannot be kept there: Not a directory." in done.stderr
    assert "Traceback" not in done.stderr
    assert "started again" not in done.stderr


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jacloom_server", "--ray-address", "127.0.0.1:9", "--address", "127.0.0.1:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no Ray cluster can be joined at 127.0.0.1:9" in done.stderr
