"""How a server is set up: one frozen record, and the rules that it must keep."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jacloom_graph.limits import Limits

_YEAR: Final = 365 * 24 * 3600.0
_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "workers": (0, math.inf),
    "gpus": (0, math.inf),
    "memory": (1, math.inf),
    # Ray takes no less.
    "object_store": (75 << 20, math.inf),
    "calls": (1, math.inf),
    # Answers and uploads come in pieces of 1 MiB, with a little around them; gRPC counts in 31 bits.
    "message_bytes": (2 << 20, (1 << 31) - 1),
    "functions": (1, math.inf),
    "function_bytes": (1, math.inf),
    "blob_bytes": (1, math.inf),
    "blob_lease": (0.1, _YEAR),
    "tile_lease": (0.1, _YEAR),
    "attempts": (1, math.inf),
    "patience": (0, _YEAR),
    "drain": (0, _YEAR),
}
"""The least and the most that a number can be."""


class ConfigError(Exception):
    """A setting that cannot be: the text says which, what was expected and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of a server. Sizes are in bytes, times in seconds."""

    address: str = "127.0.0.1:50051"
    """Host and port to listen on; port 0 takes a free one. Any other host than loopback needs TLS and tokens, or ``insecure``."""
    ray_address: str | None = None
    """A Ray cluster to join, such as ``"10.0.0.5:6379"``. Default: a Ray of our own on this machine, which ends with the server."""
    workers: int | None = None
    """One-thread workers for tiles. Default: one per CPU core, none on machines with a GPU."""
    wide: bool = True
    """A worker with all threads on each node, for single passes."""
    gpus: int | None = None
    """GPUs to use, one worker each. Default: all."""
    memory: int | None = None
    """Memory that the workers of one node may allocate in all, on top of their libraries. Default: what Ray counts as free for tasks."""
    object_store: int | None = None
    """Shared memory for arrays on their way between processes, for a Ray of our own. Default: Ray's choice, about 30 % of the machine's memory."""
    data: Path | None = None
    """Folder, on a local disk, that keeps functions and jobs over restarts. Default: functions are kept in memory, and there are no jobs."""
    results: Path | None = None
    """Folder for the results of jobs, which workers write: on all machines the same, such as on a shared file system. Default: ``results`` in
    ``data``."""
    tls_cert: Path | None = None
    """Certificate chain, PEM."""
    tls_key: Path | None = None
    """Private key, PEM."""
    token_file: Path | None = None
    """File of accepted bearer tokens, one a line; blank lines and lines that begin with ``#`` do not count."""
    insecure: bool = False
    """Allow an address that others can reach without TLS or without tokens. Whoever reaches it can then use the workers."""
    calls: int = 256
    """Calls under way at once; more are refused with RESOURCE_EXHAUSTED and a delay."""
    message_bytes: int = 16 << 20
    """Size of one gRPC message; larger arrays travel as blobs."""
    functions: int = 10_000
    """Registered functions, leased ones included; those make room for others when there is none left."""
    function_bytes: int = 1 << 30
    """Size of the graphs of all registered functions together, in the same way. Constants that were uploaded are blobs and do not count."""
    blob_bytes: int = 8 << 30
    """Size of all uploaded blobs together, and so of any one."""
    blob_lease: float = 600.0
    """Time that an uploaded blob is kept after its last use."""
    tile_lease: float = 900.0
    """Time that one tile or single pass may take, compiling included, before its worker is ended."""
    attempts: int = 3
    """Workers that one tile may end before it counts as poisoned."""
    patience: float = 60.0
    """Time that a call waits while there is no worker at all."""
    drain: float = 30.0
    """Time that calls under way are given to finish when the server is told to stop."""
    graph_limits: Limits = field(default_factory=Limits)
    """Bounds on one graph."""

    def __post_init__(self) -> None:
        """Raises ConfigError for settings that contradict each other or that would leave the door open."""
        host, _ = split_address(self.address)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("TLS needs both a certificate and its key: give --tls-cert and --tls-key together.")
        guarded = self.tls_cert is not None and self.token_file is not None
        if not is_loopback(host) and not guarded and not self.insecure:
            raise ConfigError(
                f"{self.address} can be reached from other machines, so it needs TLS and tokens: give --tls-cert, --tls-key and --token-file, "
                "or listen on 127.0.0.1. To serve without them on a network that you trust, add --insecure."
            )
        for name, (least, most) in _BOUNDS.items():
            _require(name, getattr(self, name), least, most)
        for entry in dataclasses.fields(self.graph_limits):
            _require(f"graph_limits.{entry.name}", getattr(self.graph_limits, entry.name), 0, math.inf)
        if self.results is not None and self.data is None:
            raise ConfigError("results of jobs need a folder for the jobs themselves: give --data with --results.")
        if self.function_bytes < self.graph_limits.graph_bytes:
            raise ConfigError(
                f"function_bytes must be at least graph_limits.graph_bytes, {self.graph_limits.graph_bytes:,}, so that any graph finds room, "
                f"got {self.function_bytes:,}."
            )
        if self.workers == 0 and not self.wide and self.gpus == 0:
            raise ConfigError("workers = 0, wide = false and gpus = 0 leave nobody to compute: allow at least one kind of worker.")


def _require(name: str, value: float | None, least: float, most: float) -> None:
    # Written so that it refuses NaN, which compares with nothing.
    if value is not None and not least <= value <= most:
        raise ConfigError(f"{name} must be at least {least:,}" + (f" and at most {most:,}" if most < math.inf else "") + f", got {value:,}.")


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of ``"host:port"`` or ``"[v6]:port"``.

    Raises:
        ConfigError: The text has another form.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"an address is host:port, such as 127.0.0.1:50051, got {address!r}.")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach a host. Names other than ``localhost`` are not trusted to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def from_mapping(settings: Mapping[str, Any]) -> Config:
    """Returns the configuration that a mapping of plain values describes, with ``graph_limits`` as a mapping of its own.

    Raises:
        ConfigError: An unknown key, a value of another type, or settings that contradict each other.
    """
    values = dict(settings)
    if "graph_limits" in values:
        nested = values["graph_limits"]
        if not isinstance(nested, Mapping):
            raise ConfigError(f"graph_limits must be a table, got {nested!r}.")
        values["graph_limits"] = Limits(**_checked(Limits, nested, "graph_limits."))
    return Config(**_checked(Config, values, ""))


def read(path: Path) -> dict[str, Any]:
    """Returns the settings in a TOML file, not yet checked.

    Raises:
        ConfigError: The file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise not_text(path, error) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def not_text(path: Path, error: UnicodeDecodeError) -> ConfigError:
    """Returns the error for a file whose bytes are no text."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return ConfigError(f"{path} must be text in UTF-8, got the byte 0x{error.object[error.start]:02x} in line {line}: save it as UTF-8.")


def _checked(record: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    hints = typing.get_type_hints(record)
    known = {entry.name for entry in dataclasses.fields(record)}
    result = {}
    for name, value in values.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ConfigError(f"unknown setting {prefix}{name}" + (f"; did you mean {prefix}{close[0]}?" if close else "."))
        allowed = typing.get_args(hints[name]) if isinstance(hints[name], types.UnionType) else (hints[name],)
        if Path in allowed and isinstance(value, str):
            value = Path(value)
        if float in allowed and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        # A bool is an int to isinstance, and never one to the person who wrote it.
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            wanted = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in allowed)
            raise ConfigError(f"{prefix}{name} must be {wanted}, got {value!r}.")
        result[name] = value
    return result
