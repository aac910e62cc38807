"""Job files: a function, its points, what is computed, and the service that does it, as TOML.

::

    [function]
    import = "model:outcome"          # or file = "model.jacloom", as Function.save writes it

    [points]
    file = "points.npy"               # or .npz, or the folder of a Zarr store
    seeds = "tangents.npy"            # for jvp and vjp

    [job]
    derivative = "jacobian"           # and the other options of client.submit
    out = "runs/a"
    args = [9.81, [1.0, 2.0], { file = "weights.npy" }]

    [service]
    data = "/scratch/me/jacloom"      # and other flags of jacloom serve, with underscores
    workers = 8

Paths are relative to the file's own folder. All tables but the first two may be left out.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from jacloom._errors import JacloomError, OptionError
from jacloom._function import Function, load
from jacloom.cli.span import span

_TABLES: Final = ("function", "points", "job", "service")
_OPTIONS: Final[Mapping[str, tuple[type, ...]]] = {
    "derivative": (str,),
    "mode": (str,),
    "sparsity": (str,),
    "holomorphic": (bool,),
    "out": (str,),
    "name": (str,),
    "priority": (int,),
}
"""Options of ``client.submit`` that are passed as they are, with their types; it says itself which values they can have."""
PATHS: Final = frozenset({"data", "results", "config"})
SETTINGS: Final[Mapping[str, tuple[type, ...]]] = {
    "data": (str,),
    "results": (str,),
    "config": (str,),
    "ray_address": (str,),
    "workers": (int,),
    "wide": (bool,),
    "gpus": (int,),
    "memory": (int, str),
    "object_store": (int, str),
    "blob_bytes": (int, str),
    "tile_lease": (int, float),
    "log": (str,),
}
"""Flags of ``jacloom serve`` that a file may give, with the types of their values; none about who may use it, which is one process."""


class JobFileError(OptionError):
    """A job file, or something that it names, that cannot be: the text says which, what was expected and what to do."""


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a job file says, checked as far as it can be without computing."""

    path: Path
    function: Callable[[], Function | Callable[..., Any]]
    """Returns the function, which takes loading code."""
    points: Path
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    """Of ``client.submit``, the ``request_id`` among them: the same for files that say the same of function, points and job."""
    settings: Mapping[str, Any]
    """Of the service, by the names of its flags with underscores. ``data`` is always among them."""

    def flags(self, given: Mapping[str, Any]) -> tuple[Path, tuple[str, ...]]:
        """Returns the service's data folder, and its other flags.

        Args:
            given: Settings that go before those of the file; None counts as not given.
        """
        settings = {**self.settings, **{name: value for name, value in given.items() if value is not None}}
        data = Path(settings.pop("data"))
        return data, tuple(flag for name, value in settings.items() for flag in _flag(name, value))


def read(path: Path) -> JobFile:
    """Returns what a job file says.

    Raises:
        JobFileError: if it is none.
    """
    tables = _tables(path)
    where = path.resolve().parent
    points, job, service = (_Table(path, name, tables) for name in ("points", "job", "service"))
    function = _function(_Table(path, "function", tables), where)
    file, seeds = _existing(points, "file", where), _existing(points, "seeds", where)
    if file is None:
        raise points.error('[points] needs file = "NAME.npy"; or .npz, or the folder of a Zarr store')
    args = tuple(_argument(path, at, value, where) for at, value in enumerate(job.take("args", list) or []))
    options = job.taken(_OPTIONS) | _times(job)
    settings = service.taken(SETTINGS)
    settings |= {name: str(where / settings[name]) for name in PATHS if name in settings}
    for table in (points, job, service):
        table.finish()
    options |= {"seeds": seeds, "request_id": _request_id(tables)}
    options.setdefault("name", path.stem)
    settings.setdefault("data", str(where / f"{path.stem}.data"))
    return JobFile(path, function, file, args, options, settings)


class _Table:
    """One table of a job file, whose keys are taken one after the other."""

    def __init__(self, path: Path, name: str, tables: Mapping[str, Any]) -> None:
        self._path, self._name = path, name
        self._left = dict(tables.get(name, {}))
        self._known: list[str] = []

    def take(self, key: str, *kinds: type) -> Any:
        """Returns the value of a key, which must have one of some types; None if there is none."""
        self._known.append(key)
        if key not in self._left:
            return None
        value = self._left.pop(key)
        # A bool is an int to isinstance, and never one to the person who wrote it.
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.error(f"[{self._name}] {key} must be {' or '.join(_KINDS[kind] for kind in kinds)}, got {value!r}")
        return value

    def taken(self, kinds: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
        """Returns the values of those keys, of which there are some, by name."""
        found = {key: self.take(key, *allowed) for key, allowed in kinds.items()}
        return {key: value for key, value in found.items() if value is not None}

    def finish(self) -> None:
        """Raises JobFileError if there are keys that nobody knows."""
        for key in self._left:
            raise JobFileError(f"{self._path}: [{self._name}] has an unknown key {key}{_close(key, self._known)}")

    def error(self, text: str) -> JobFileError:
        return JobFileError(f"{self._path}: {text}.")


_KINDS: Final = {str: "a string", int: "an integer", float: "a number", bool: "true or false", list: "an array", datetime: "a date with a time"}


def _tables(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise JobFileError(f"{path}: the job file cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise JobFileError(f"{path} is not TOML: {error}.") from None
    for name, table in tables.items():
        if name not in _TABLES:
            raise JobFileError(f"{path} has an unknown table [{name}], beside [function], [points], [job] and [service]{_close(name, _TABLES)}")
        if not isinstance(table, dict):
            raise JobFileError(f"{path}: {name} must be a table, [{name}] on a line of its own, got {table!r}.")
    return tables


def _function(table: _Table, where: Path) -> Callable[[], Function | Callable[..., Any]]:
    file, imported = table.take("file", str), table.take("import", str)
    table.finish()
    if (file is None) == (imported is None):
        raise table.error('[function] needs either file = "NAME.jacloom" or import = "module:function"')
    if file is not None:
        return lambda: _loaded(table, where / file)
    module, colon, name = imported.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise table.error(f'[function] import must be "module:function", got {imported!r}')
    return lambda: _imported(table, module, name, where)


def _loaded(table: _Table, path: Path) -> Function:
    try:
        return load(path)
    except (OSError, JacloomError) as error:
        why = error.message if isinstance(error, JacloomError) else error.strerror or error
        raise table.error(f"[function] file: {path} cannot be read: {why}; write it with jl.trace(f, point).save(path)") from None


def _imported(table: _Table, module: str, name: str, where: Path) -> Callable[..., Any]:
    # Beside the file first, as for a script.
    sys.path.insert(0, str(where))
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        # The user's code may raise anything.
        raise table.error(f"[function] import: {module}:{name} cannot be had from {where}: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise table.error(f"[function] import: {module}:{name} must be a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _existing(table: _Table, key: str, where: Path) -> Path | None:
    given: str | None = table.take(key, str)
    if given is None:
        return None
    path = where / given
    if not path.exists():
        raise table.error(f"[points] {key}: there is no {path}; give the path of a .npy or .npz file, or of the folder of a Zarr store")
    return path


def _argument(path: Path, at: int, value: Any, where: Path) -> Any:
    """Returns a further argument of the function: a scalar as it is, numbers in brackets as an array, or the array in a file."""
    try:
        if isinstance(value, dict) and set(value) == {"file"}:
            return np.load(where / value["file"])
        if isinstance(value, list):
            array = np.asarray(value)
            if array.dtype.kind in "bif":
                return array
        elif isinstance(value, bool | int | float | str):
            return value
    except (OSError, ValueError, TypeError) as error:
        raise JobFileError(f"{path}: [job] args[{at}] cannot be read: {error}.") from None
    raise JobFileError(f'{path}: [job] args[{at}] must be a number, a string, an array of numbers, or {{ file = "NAME.npy" }}, got {value!r}.')


def _times(job: _Table) -> dict[str, Any]:
    # No time from now for a deadline: run again, the file would then ask for something else.
    deadline, ttl = job.take("deadline", datetime), job.take("ttl", int, float, str)
    try:
        length = span("[job] ttl =", ttl) if isinstance(ttl, str) else ttl
    except OptionError as error:
        raise job.error(error.message.rstrip(".")) from None
    return {name: value for name, value in (("deadline", deadline), ("ttl", length)) if value is not None}


def _request_id(tables: Mapping[str, Any]) -> str:
    """Returns the same for the same job: what the service is like may change from one time to the next, and comments may."""
    asked = {name: tables.get(name, {}) for name in _TABLES if name != "service"}
    return f"run-{hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:40]}"


def _flag(name: str, value: Any) -> tuple[str, ...]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return (flag,) if value else (f"--no-{flag[2:]}",)
    return flag, str(value)


def _close(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"; did you mean {close[0]}?" if close else "."
