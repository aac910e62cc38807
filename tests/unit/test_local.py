"""The local service as a process, started once and ended with its last user. Small programs stand in for the server, which takes seconds."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import jacloom as jl
from jacloom import _local
from jacloom._deadline import Deadline

GOOD = """
import json, os, sys
args = sys.argv[1:]
assert args[:3] == ["--parent", "--address", "127.0.0.1:0"] and len(open(args[4]).read()) == 64
assert "RAY_ADDRESS" not in os.environ
print(json.dumps({"address": "127.0.0.1:1", "pid": os.getpid()}), flush=True)
sys.stdin.read()
"""
BROKEN = "import sys; print('no room for Ray', file=sys.stderr); sys.exit(3)"
SLOW = "import time; time.sleep(60)"
STUBBORN = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(json.dumps({"address": "127.0.0.1:1"}), flush=True)
time.sleep(60)
"""

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a program in the place of the server."""
    assert not _local._running, "another test left its service running"

    def install(program: str) -> None:
        (tmp_path / "stand_in.py").write_text(program)

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setattr(_local, "SERVER_PROGRAM", "stand_in")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("JACLOOM_ADDRESS", raising=False)
    yield install
    assert not _local._running


def process() -> subprocess.Popen[bytes]:
    (service,) = _local._running.values()
    return service._process


def test_one_process_for_all_clients(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.7:6379")
    install(GOOD)
    one, other = _local.acquire(None), _local.acquire(None)
    endpoint = one.endpoint(Deadline(20))
    assert other.endpoint(Deadline(20)) == endpoint
    assert (endpoint.address, len(endpoint.token or ""), endpoint.tls) == ("127.0.0.1:1", 64, False)
    child = process()
    one.close()
    one.close()
    assert child.poll() is None
    other.require_alive()
    other.close()
    assert child.poll() == 0


def test_dropped_clients_let_go(install: Install) -> None:
    install(GOOD)
    client = jl.connect()
    child = process()
    del client
    gc.collect()
    assert child.wait(10) is not None
    deadline = time.monotonic() + 10
    while _local._running and time.monotonic() < deadline:
        time.sleep(0.01)


def test_nothing_is_written_that_could_be_left_behind(install: Install, tmp_path: Path) -> None:
    install(GOOD)
    lease = _local.acquire(None)
    lease.endpoint(Deadline(20))
    assert {path.name for path in tmp_path.iterdir()} <= {"stand_in.py", "__pycache__"}
    lease.close()


def test_a_service_that_does_not_start(install: Install) -> None:
    install(BROKEN)
    with (
        jl.connect() as client,
        pytest.raises(jl.LocalServiceError, match=r"ended with status 3\. The end of its log, kept in .*\n  no room for Ray") as caught,
    ):
        client.functions()
    assert Path(str(caught.value).split("kept in ")[1].split(":")[0]).exists()


def test_a_service_that_does_not_listen(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(SLOW)
    monkeypatch.setattr(_local, "START_SECONDS", 0.5)
    monkeypatch.setattr(_local, "STOP_SECONDS", 0.2)
    with jl.connect() as client:
        with pytest.raises(jl.DeadlineExceeded, match=r"did not start within 0\.1 s"):
            client.functions(timeout=0.1)
        with pytest.raises(jl.LocalServiceError, match=r"did not listen within 0\.5 s"):
            client.functions()
        child = process()
    assert child.returncode == -signal.SIGTERM


def test_connect_timeout_bounds_the_wait(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(SLOW)
    monkeypatch.setattr(_local, "STOP_SECONDS", 0.2)
    with jl.connect(timeout=0.2) as client, pytest.raises(jl.DeadlineExceeded, match=r"did not start within 0\.2 s"):
        client.functions()


def test_a_service_that_does_not_stop(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install(STUBBORN)
    monkeypatch.setattr(_local, "STOP_SECONDS", 0.2)
    lease = _local.acquire(None)
    lease.endpoint(Deadline(20))
    child = process()
    lease.close()
    assert child.returncode == -signal.SIGKILL


def test_a_service_that_died_is_not_asked_again(install: Install) -> None:
    install(GOOD)
    with jl.connect() as client:
        lease = client._session.connection.service
        lease.endpoint(Deadline(20))
        child = process()
        child.kill()
        child.wait()
        started = time.monotonic()
        with pytest.raises(jl.LocalServiceError, match="ended with status -9"):
            client.functions()
        assert time.monotonic() - started < 5
        with jl.connect() as fresh:
            assert fresh._session.connection.service.endpoint(Deadline(20)).address == "127.0.0.1:1"


def test_a_message_after_a_while(install: Install, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    install(GOOD)
    monkeypatch.setattr(_local, "ANNOUNCE_SECONDS", 0.1)
    for answered in (True, False):
        lease = _local.acquire(None)
        if answered:
            lease.answered()
        time.sleep(0.3)
        lease.close()
        assert ("starting a local service" in capfd.readouterr().err) is not answered


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JACLOOM_ADDRESS", raising=False)
    monkeypatch.setattr(_local, "_NEEDED", ("ray", "a_package_that_is_not_there"))
    with pytest.raises(jl.MissingExtraError, match=r'not installed \(a_package_that_is_not_there\): pip install "jacloom\[server\]"'):
        jl.connect()


OWNER = """
import os, signal, sys, time
import jacloom as jl
from jacloom import _local
_local.SERVER_PROGRAM = "stand_in"
from jacloom._deadline import Deadline
client = jl.connect()
client._session.connection.service.endpoint(Deadline(30))
print(_local._running[()]._process.pid, flush=True)
if sys.argv[1] == "fork":
    if os.fork() == 0:
        time.sleep(12)  # inherits the pipe, and must not keep the service
        os._exit(0)
if sys.argv[1] == "raise":
    raise RuntimeError("on purpose")
if sys.argv[1] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "number"), [("end", None), ("raise", None), ("fork", None), ("wait", signal.SIGINT), ("wait", signal.SIGKILL), ("wait", signal.SIGTERM)]
)
def test_the_process_never_outlives_its_owner(install: Install, how: str, number: signal.Signals | None) -> None:
    install(GOOD)
    with subprocess.Popen([sys.executable, "-c", OWNER, how], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        if number is not None:
            os.kill(owner.pid, number)
        owner.wait(30)
        owner.stdout.close()
        deadline = time.monotonic() + 10
        while _exists(child) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _exists(child)


def _exists(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


KEEPING = GOOD.replace("sys.stdin.read()", "open(os.path.join(args[args.index('--data') + 1], 'here'), 'w').close(); sys.stdin.read()")


def test_each_folder_has_a_service_of_its_own(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(KEEPING)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JACLOOM_ADDRESS", "10.0.0.7:50051")  # a folder asks for a local service, whatever the usual one is
    with jl.connect(data="one") as client, jl.connect(data=tmp_path / "one") as same, jl.connect(data="other") as another:
        one, again, other = (each._session.connection.service for each in (client, same, another))
        assert one._service is again._service is not other._service
        for lease in (one, other):
            lease.endpoint(Deadline(20))
    assert (tmp_path / "one" / "here").exists()
    assert (tmp_path / "other" / "here").exists()


def test_a_service_elsewhere_has_a_folder_of_its_own() -> None:
    with pytest.raises(jl.OptionError, match=r"data is for a local service"):
        jl.connect("127.0.0.1:1", data="folder")
