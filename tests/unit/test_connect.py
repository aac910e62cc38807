"""Which service an address means, and what may travel to it."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from unit.scripted import Script, serving

import jacloom as jl
from jacloom._connect import connect, endpoint
from jacloom._connection import is_loopback
from jacloom._deadline import Deadline
from jacloom._retry import PATIENCE, retrying


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("localhost", "localhost:50051"),
        ("host:1234", "host:1234"),
        ("10.0.0.7", "10.0.0.7:50051"),
        ("[::1]:99", "[::1]:99"),
        ("[::1]", "[::1]:50051"),
        ("::1", "[::1]:50051"),
        ("unix:/tmp/socket", "unix:/tmp/socket"),
        ("dns:///host:5", "dns:///host:5"),
    ],
)
def test_addresses(address: str, target: str) -> None:
    assert endpoint(address, None, None).address == target


@pytest.mark.parametrize("address", ["http://host:50051", "host:port", "host:0", "host:70000", "", ":50051", "a b:1", "host/path"])
def test_addresses_that_cannot_be(address: str) -> None:
    with pytest.raises(jl.OptionError, match="address must be 'host:port'"):
        endpoint(address, None, None)


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.9:1", True),
        ("[::1]:1", True),
        ("unix:/tmp/s", True),
        ("ipv4:127.0.0.1:80", False),
        ("10.0.0.7:1", False),
        ("localhost.example.org:1", False),
    ],
)
def test_loopback(address: str, local: bool) -> None:
    assert is_loopback(address) is local


def test_tokens_do_not_travel_in_the_open() -> None:
    with pytest.raises(jl.OptionError, match="unencrypted: pass tls=True"):
        endpoint("host:1", "secret", None)
    assert endpoint("host:1", "secret", False).tls is False
    assert endpoint("host:1", "secret", True).tls is True
    assert endpoint("localhost:1", "secret", None).token == "secret"


def test_nobody_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(jl.UnavailableError, match=rf"no jacloom service answers at localhost:{port} .* Is `jacloom serve` running there") as caught:
        connect(f"localhost:{port}")
    assert time.monotonic() - started < 5
    assert caught.value.__cause__ is None
    with pytest.raises(jl.UnavailableError, match="no jacloom service"):
        connect(f"localhost:{port}", timeout=0.7)
    assert time.monotonic() - started > 0.3


def test_somebody_else_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(jl.DeadlineExceeded, match="no jacloom service answers"):
        connect(f"127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)


def test_environment_names_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JACLOOM_ADDRESS", "not an address")
    with pytest.raises(jl.OptionError, match="'not an address'"):
        connect()
    monkeypatch.setenv("JACLOOM_ADDRESS", "localhost:1")
    monkeypatch.setenv("JACLOOM_TLS", str(tmp_path / "missing.pem"))
    with pytest.raises(jl.OptionError, match=r"missing\.pem.*cannot be read: No such file"):
        connect()


@pytest.mark.parametrize(("token", "text"), [("secret\n", r"got '\\n' as character 7 of 7"), ("s\u00e9cret", "got 'é' as character 2 of 6")])
def test_tokens_that_cannot_travel_are_refused(token: str, text: str) -> None:
    with pytest.raises(jl.OptionError, match=text) as caught:
        connect("localhost:1", token=token)
    assert "secret" not in str(caught.value)


def test_local_service_takes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JACLOOM_ADDRESS", raising=False)
    with pytest.raises(jl.OptionError, match="token and tls need an address"):
        connect(token="secret")


@pytest.mark.parametrize("timeout", [0, -1, "5", float("nan")])
def test_timeouts_that_cannot_be(timeout: Any) -> None:
    with pytest.raises(jl.OptionError, match="timeout must be a finite positive number of seconds, or None"):
        Deadline(timeout)


def test_deadlines_pass() -> None:
    deadline = Deadline(0.05)
    assert 0 < (deadline.remaining() or 0) <= 0.05
    assert not deadline.allows(1.0)
    time.sleep(0.06)
    with pytest.raises(jl.DeadlineExceeded, match=r"within 0\.05 s and was cancelled"):
        deadline.remaining()
    assert Deadline(None).remaining(7.0) == 7.0


def test_retrying_gives_up_in_time() -> None:
    tries: list[float] = []

    def never() -> None:
        tries.append(time.monotonic())
        raise jl.UnavailableError("not yet")

    with pytest.raises(jl.UnavailableError):
        retrying(never, Deadline(0.5))
    assert len(tries) == 3
    assert tries[-1] - tries[0] < 0.5
    with pytest.raises(jl.UnavailableError):
        retrying(never, Deadline(5.0), again=lambda: False)
    assert len(tries) == 4


def test_patience_begins_with_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("jacloom._retry.time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda pause: now.__setitem__(0, now[0] + pause)))
    tries: list[float] = []

    def upload() -> int:
        tries.append(now[0])
        if len(tries) == 1:
            now[0] += 10 * PATIENCE  # it was under way for long before the service went away
        if now[0] < 10 * PATIENCE + 20:
            raise jl.UnavailableError("gone")
        return 7

    assert retrying(upload, Deadline(None)) == 7
    tries.clear()

    def never() -> None:
        tries.append(now[0])
        raise jl.UnavailableError("gone")

    with pytest.raises(jl.UnavailableError):
        retrying(never, Deadline(None))
    assert PATIENCE - 2 < tries[-1] - tries[0] < PATIENCE


def test_retrying_waits_for_a_quota_only_where_told_how_long() -> None:
    answers: list[Exception | int] = [jl.QuotaError("full", retry_after=0.05), 7]

    def next_answer() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retrying(next_answer, Deadline(None)) == 7
    answers[:] = [jl.QuotaError("full"), 7]
    with pytest.raises(jl.QuotaError):
        retrying(next_answer, Deadline(None))


def certificate(path: Path) -> tuple[bytes, bytes]:
    """Writes a certificate of its own making for localhost, and returns it with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(hours=1), now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    path.write_bytes(pem)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, secret


def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pem, secret = certificate(tmp_path / "ca.pem")
    with serving(Script(), credentials=grpc.ssl_server_credentials([(secret, pem)])) as port:
        with connect(f"localhost:{port}", tls=tmp_path / "ca.pem", token="secret") as client:
            assert client.functions() == []
        monkeypatch.setenv("JACLOOM_TLS", str(tmp_path / "ca.pem"))
        with connect(f"localhost:{port}") as client:
            assert client.functions() == []
        with pytest.raises(jl.UnavailableError, match="does it use TLS just as this call does"):
            connect(f"localhost:{port}", tls=False)
        with pytest.raises(jl.UnavailableError, match="the certificate must be for the host's name"):
            connect(f"localhost:{port}", tls=True)
