"""What the groups of methods share: the session that they ask, and what their messages call a function."""

from __future__ import annotations

from jacloom._function import Function
from jacloom._remote import RemoteFunction
from jacloom._session import AnyFunction, Session
from jacloom._signature import label_of


class Methods:
    """A group of methods of the client."""

    _session: Session


def label(f: AnyFunction) -> str:
    """Returns what messages call a function: the name of a callable, ``f`` for what has no name here."""
    return "f" if isinstance(f, str | Function | RemoteFunction) else label_of(f)
