"""Local services: one subprocess for all clients of this process that want the same of it, started by the first and gone with the last."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from importlib.util import find_spec
from pathlib import Path

from jacloom._connection import Endpoint, close_all
from jacloom._deadline import Deadline
from jacloom._errors import DeadlineExceeded, LocalServiceError, MissingExtraError

START_SECONDS = 60.0
"""How long the service may take until it listens."""
STOP_SECONDS = 10.0
"""How long it may take to end its workers before it is killed."""
ANNOUNCE_SECONDS = 1.0
_LOG_LINES = 20
SERVER_PROGRAM = "jacloom_server"
"""The module that is run as the service; it is never imported here."""
_NEEDED = ("ray", "jax", "grpc_health", "grpc_reflection")


def require_server() -> None:
    """Raises MissingExtraError unless what a service needs is installed."""
    missing = [name for name in (SERVER_PROGRAM, *_NEEDED) if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f'a service on this machine needs packages that are not installed ({", ".join(missing)}): pip install "jacloom[server]", '
            "or use the address of another service"
        )


class LocalService:
    """A server process that ends when its standard input does, and so whenever this process ends, however that happens."""

    def __init__(self, flags: tuple[str, ...] = ()) -> None:
        """Starts the process and returns at once.

        Args:
            flags: Further ones of ``jacloom serve``.

        Raises:
            MissingExtraError: if what the server needs is not installed.
        """
        require_server()
        self.users = 0
        self._owner = os.getpid()
        self._ready = threading.Event()
        self._endpoint: Endpoint | None = None
        self._answered = False
        self._stopped = False
        # Others on this machine reach the port as well, but do not have the token.
        self._token = secrets.token_hex(32)
        # Files without a name leave nothing behind, however this process ends.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # read when the service has failed
        with tempfile.TemporaryFile() as token:
            token.write(self._token.encode())
            token.flush()
            options = ["--parent", "--address", "127.0.0.1:0", "--token-file", f"/dev/fd/{token.fileno()}"]
            # A session of its own: Ctrl-C in the terminal reaches this process alone, which then decides. -P: the user's folder may hold a ray.py.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", SERVER_PROGRAM, *options, *flags],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                pass_fds=(token.fileno(),),
                env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"},
                start_new_session=True,
            )
        threading.Thread(target=self._listen, name="jacloom-local", daemon=True).start()
        self._announcement = threading.Timer(ANNOUNCE_SECONDS, self._announce)
        self._announcement.daemon = True
        self._announcement.start()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return not self._stopped and self._process.poll() is None

    @property
    def listening(self) -> bool:
        """Whether the wait for the process to listen is over."""
        return self._ready.is_set()

    def endpoint(self, deadline: Deadline) -> Endpoint:
        """Returns the endpoint, waiting until the service listens.

        Raises:
            LocalServiceError: if it ended, or did not listen in time.
            DeadlineExceeded: if the caller's deadline passed.
        """
        limit = deadline.remaining()
        if not self._ready.wait(START_SECONDS if limit is None else min(limit, START_SECONDS)):
            if limit is not None and limit < START_SECONDS:
                raise DeadlineExceeded(f"the local service did not start within {deadline.timeout:g} s; it usually takes a few seconds")
            raise LocalServiceError(f"the local service did not listen within {START_SECONDS:g} s. {self._last_words()}")
        if self._endpoint is None:
            raise self._ended()
        return self._endpoint

    def require_alive(self) -> None:
        """Raises LocalServiceError if the process has ended."""
        if self._process.poll() is not None:
            raise self._ended()

    def answered(self) -> None:
        """Takes note of the first answer: nobody waits any more."""
        if not self._answered:
            self._answered = True
            self._announcement.cancel()

    def stop(self) -> None:
        """Ends the process and waits for it. Does nothing in a forked process, whose service it is not."""
        if self._owner != os.getpid():
            return
        self._stopped = True
        self._announcement.cancel()
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            # It leads a process group of its own; whoever ended first has taken its place with it.
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(3)
                    break
        self._log.close()

    def forget_in_child(self) -> None:
        """Closes a forked process's copy of the pipe, which would keep the service alive after its owner."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            line = output.readline()
            try:
                self._endpoint = Endpoint(json.loads(line)["address"], self._token)
            except (ValueError, KeyError, TypeError):
                self._endpoint = None
            self._ready.set()
            # Whatever else it prints goes nowhere; unread, it would block the server one day.
            while output.read(65536):
                pass

    def _announce(self) -> None:
        if not self._answered and self.running:
            print("jacloom: starting a local service with its workers; the first result takes a few seconds", file=sys.stderr, flush=True)

    def _ended(self) -> LocalServiceError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.returncode
        return LocalServiceError(f"the local service ended with status {code}. {self._last_words()}")

    def _last_words(self) -> str:
        if self._log.closed:
            return "It was stopped."
        # Not by seek and read: the position is shared with the server, which may still write.
        number = self._log.fileno()
        text = os.pread(number, os.fstat(number).st_size, 0)
        with tempfile.NamedTemporaryFile(prefix="jacloom-", suffix=".log", delete=False) as copy:
            copy.write(text)
        said = "\n".join(f"  {line}" for line in text.decode(errors="replace").splitlines()[-_LOG_LINES:]) or "  (nothing)"
        return f"The end of its log, kept in {copy.name}:\n{said}"


class Lease:
    """One client's hold on the local service."""

    def __init__(self, service: LocalService, timeout: float | None) -> None:
        self._service = service
        self._timeout = timeout
        # Also where the client is dropped without being closed; then in a thread, because a collector must not wait.
        self._dropped = weakref.finalize(self, _release_in_thread, service)
        self._dropped.atexit = False

    def endpoint(self, deadline: Deadline) -> Endpoint:
        """Returns the endpoint, waiting until the service listens."""
        if self._timeout is not None and not self._service.listening and (deadline.timeout is None or self._timeout < deadline.timeout):
            deadline = Deadline(self._timeout)
        return self._service.endpoint(deadline)

    def require_alive(self) -> None:
        """Raises LocalServiceError if the process has ended."""
        self._service.require_alive()

    def answered(self) -> None:
        """Takes note of an answer."""
        self._service.answered()

    def close(self) -> None:
        """Gives up the hold; the last one stops the service."""
        if self._dropped.detach() is not None:
            _release(self._service)


_lock = threading.RLock()  # re-entrant: the collector may run _release_in_thread while this thread holds it
_running: dict[tuple[str, ...], LocalService] = {}
"""By their flags."""


def acquire(timeout: float | None, data: Path | None = None, flags: tuple[str, ...] = ()) -> Lease:
    """Returns a hold on a local service, starting it if it does not run.

    Args:
        timeout: Seconds until it must listen; None for the default.
        data: Folder that outlives it; None for a service that keeps nothing.
        flags: Further ones of ``jacloom serve``. Services with others are others.

    Raises:
        MissingExtraError: if what the server needs is not installed.
    """
    flags = flags if data is None else ("--data", str(data.resolve()), *flags)
    with _lock:
        service = _running.get(flags)
        if service is None or not service.running:
            service = _running[flags] = LocalService(flags)
        service.users += 1
        return Lease(service, timeout)


def _release(service: LocalService) -> None:
    with _lock:
        service.users -= 1
        if service.users:
            return
        _forget(service)
    service.stop()


def _forget(service: LocalService) -> None:
    for flags in [flags for flags, running in _running.items() if running is service]:
        del _running[flags]


def _release_in_thread(service: LocalService) -> None:
    threading.Thread(target=_release, args=(service,), name="jacloom-release").start()


def _stop_at_exit() -> None:
    # Channels first: one whose server goes away under it complains on standard error.
    close_all()
    while _running:
        _running.popitem()[1].stop()


def _forget_in_child() -> None:
    global _lock
    _lock = threading.RLock()
    while _running:
        _running.popitem()[1].forget_in_child()


atexit.register(_stop_at_exit)
if hasattr(os, "register_at_fork"):  # not on Windows, where there is no fork
    os.register_at_fork(after_in_child=_forget_in_child)
