"""What the SDK has to know of a function to call it: id, types, and the trees of arguments and result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from jacloom._errors import ArgumentError
from jacloom._structure import Structure
from jacloom_graph.tensor import INEXACT
from jacloom_graph.types import Type

_LABEL = 128
"""Longest display name that a service takes."""
_NAME = re.compile(r"(?:functions/)?([0-9a-f]{64})")


@dataclass(frozen=True, slots=True, eq=False)
class Signature:
    """Id, types and trees of a function."""

    id: str
    """64 hex digits."""
    inputs: tuple[Type, ...]
    outputs: tuple[Type, ...]
    arguments: Structure
    """Of the positional arguments, or of ``(args, kwargs)`` where the function was traced with keywords."""
    result: Structure
    fixed: Mapping[int, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Values of those leaves of ``arguments`` that were fixed while tracing and so are no inputs."""
    label: str = "f"
    """What messages call the function."""
    keywords: bool = False
    """Whether ``arguments`` is known to be of ``(args, kwargs)``."""

    @property
    def name(self) -> str:
        """Resource name on a service."""
        return f"functions/{self.id}"


def inexact(type_: Type) -> bool:
    """Returns whether values of a type have derivatives."""
    return type_.dtype in INEXACT


def is_complex(type_: Type) -> bool:
    """Returns whether values of a type are complex."""
    return type_.dtype.startswith("complex")


def parse_id(text: object) -> str:
    """Returns the 64 hex digits of a function's id, given with or without ``functions/``.

    Raises:
        ArgumentError: if the text is not an id.
    """
    found = _NAME.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ArgumentError(f"a function's id is 'functions/' and 64 hex digits, or the digits alone; got {text!r}")
    return found[1]


def display_name(name: object, call: str = "client.register(f, name=...)") -> str:
    """Returns a name that a user gives a function or a job, if a service can take it; ``call``: the user's, for errors.

    Raises:
        ArgumentError: if it cannot.
    """
    if not isinstance(name, str) or len(name) > _LABEL:
        got = f"{len(name):,} characters" if isinstance(name, str) else type(name).__name__
        raise ArgumentError(f"`{call}`: name must be a str of at most {_LABEL} characters, got {got}.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"`{call.replace('...', repr(name))}`: name has a lone surrogate, which no message can hold; leave it out.") from None
    return name


def label_of(f: object) -> str:
    """Returns what messages call a callable: its name, or ``f`` where it has none that reads well."""
    name = getattr(f, "__name__", "f")
    return name[:_LABEL] if isinstance(name, str) and name.isidentifier() else "f"
