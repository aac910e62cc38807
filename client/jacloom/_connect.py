"""``jl.connect``: which service, how to reach it, and whether it is there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from jacloom._client import Client
from jacloom._connection import Connection, Endpoint, is_loopback
from jacloom._deadline import Deadline
from jacloom._errors import DeadlineExceeded, OptionError, UnavailableError
from jacloom._local import acquire
from jacloom._session import Session

DEFAULT_PORT = 50051
_ADVICE = "Is `jacloom serve` running there, and does it use TLS just as this call does? jl.connect() without an address starts a local service."
_TLS_ADVICE = (
    "Something listens there, but the encrypted connection was not made: the certificate must be for the host's name in the address, and signed by "
    "(or be) one in the file that tls= names; and the service must have been started with --tls-cert."
)
ONE_ATTEMPT_SECONDS = 10.0
"""How long one attempt to reach a service may take."""


def connect(
    address: str | None = None,
    *,
    token: str | None = None,
    tls: bool | str | os.PathLike[str] | None = None,
    timeout: float | None = None,
    data: str | os.PathLike[str] | None = None,
) -> Client:
    """Returns a client of a service: the one at ``address``, or a local one that is started now and gone when this program ends.

    The client is a context manager. A local service is shared by all clients of the process; while it starts, calls can be made and wait for it.

    Args:
        address: ``"host:port"``; the port is 50051 unless given. Default: the environment variable JACLOOM_ADDRESS, and without it a local service.
        token: Bearer token. Default: the environment variable JACLOOM_TOKEN.
        tls: True for TLS with the usual certificate authorities, a path for those in a PEM file, False for none even with a token. Default: the
            environment variable JACLOOM_TLS (``1`` or a path), and without it none.
        timeout: Seconds until the service must have been reached, trying all the while. Default: one attempt; 60 s for a local service to start.
        data: Folder in which a local service keeps functions and batch jobs, so that the next one with this folder goes on with them. Default:
            nothing is kept, and there are no jobs.

    Example:
        >>> with jl.connect() as client:
        ...     client.jacobian(lambda x: x**2)(np.array([1.0, 2.0, 3.0]))
        array([[2., 0., 0.],
               [0., 4., 0.],
               [0., 0., 6.]])

    Raises:
        UnavailableError: if no service answers at the address.
        AuthenticationError: if it does not accept the token.
        DeadlineExceeded: if it could not be reached within ``timeout``.
        MissingExtraError: if a local service is needed and Ray or JAX is not installed.
        OptionError: if the address or an option cannot be.
    """
    deadline = Deadline(timeout)
    if address is None and data is None:
        address = os.environ.get("JACLOOM_ADDRESS") or None
    if address is not None and data is not None:
        raise OptionError("data is for a local service: the service at an address has a folder of its own, see `jacloom serve --data`")
    if address is None:
        if token is not None or tls:
            raise OptionError("token and tls need an address: a local service is reached over loopback, by this process alone")
        return local(timeout, None if data is None else Path(data))
    token = token if token is not None else os.environ.get("JACLOOM_TOKEN") or None
    session = Session(Connection(_Given(endpoint(address, token, _tls(tls)))))
    try:
        _reach(session, address, deadline)
    except BaseException:
        session.connection.close()
        raise
    return Client(session)


def local(timeout: float | None = None, data: Path | None = None, flags: tuple[str, ...] = ()) -> Client:
    """Returns a client of a local service, see ``_local.acquire``."""
    return Client(Session(Connection(acquire(timeout, data, flags))))


@dataclass(frozen=True, slots=True)
class _Given:
    """A service that somebody else runs."""

    where: Endpoint

    def endpoint(self, deadline: Deadline) -> Endpoint:
        return self.where

    def require_alive(self) -> None:
        """It may come back at any time."""

    def answered(self) -> None:
        """Nobody waits to hear of it."""

    def close(self) -> None:
        """It goes on for others."""


def endpoint(address: str, token: str | None, tls: bool | Path | None) -> Endpoint:
    """Returns the endpoint that the options mean.

    Raises:
        OptionError: if the address has the wrong form, or the token cannot travel, or would do so unencrypted over a network.
    """
    target = _target(address)
    unfit = next((at for at, character in enumerate(token or "") if not (character.isascii() and character.isprintable())), None)
    if token is not None and unfit is not None:
        raise OptionError(
            f"token must have printable ASCII characters only, because it travels in an HTTP header; got {token[unfit]!r} as character {unfit + 1} "
            f"of {len(token)}: compare it with the service's token file"
        )
    if token is not None and tls is None and not is_loopback(target):
        raise OptionError(
            f"the token would travel to {address} unencrypted: pass tls=True or a file of certificate authorities; tls=False if the network is safe"
        )
    return Endpoint(target, token, tls or False)


def _target(address: str) -> str:
    if re.match(r"(unix|unix-abstract|dns|ipv4|ipv6|xds):", address):
        return address
    if "://" in address or "/" in address or not address.strip() or any(map(str.isspace, address)):
        raise OptionError(f"address must be 'host:port', such as 'localhost:{DEFAULT_PORT}', got {address!r}")
    if address.startswith("["):
        return address if re.search(r"\]:\d+$", address) else f"{address}:{DEFAULT_PORT}"
    if address.count(":") > 1:
        return f"[{address}]:{DEFAULT_PORT}"
    host, colon, port = address.partition(":")
    if not host or (colon and not (port.isdecimal() and 0 < int(port) < 65536)):
        raise OptionError(f"address must be 'host:port' with a port from 1 to 65535, got {address!r}")
    return address if colon else f"{address}:{DEFAULT_PORT}"


def _tls(tls: bool | str | os.PathLike[str] | None) -> bool | Path | None:
    if tls is None:
        setting = os.environ.get("JACLOOM_TLS", "")
        if setting.lower() in ("", "0", "false"):
            return None
        return True if setting.lower() in ("1", "true") else Path(setting)
    return tls if isinstance(tls, bool) else Path(tls)


def _reach(session: Session, address: str, deadline: Deadline) -> None:
    """Makes one small call, so that a wrong address or token shows here and not in the middle of a computation."""
    first = deadline if deadline.timeout is not None else Deadline(ONE_ATTEMPT_SECONDS)
    try:
        session.registry.ping(first, patient=deadline.timeout is not None)
    except (UnavailableError, DeadlineExceeded) as error:
        advice = _TLS_ADVICE if re.search("SSL|TLS|certificate", error.message, re.IGNORECASE) else _ADVICE
        kind = DeadlineExceeded if deadline.timeout is not None and isinstance(error, DeadlineExceeded) else UnavailableError
        raise kind(f"no jacloom service answers at {address} ({error.message}). {advice}") from None
