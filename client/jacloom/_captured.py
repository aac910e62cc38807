"""What a Python function reads besides its arguments, so that a change of it is noticed: a traced graph holds what was there when it was traced."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import lru_cache, partial
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

import numpy as np

_ARRAY_BYTES: Final = 4096
"""Arrays up to this size count by their elements, larger ones by identity: looking through them would cost more than many a call."""
_MOST_ITEMS: Final = 64
"""Tuples and dicts with more items count by identity."""
_PLAIN: Final = frozenset({int, float, complex, bool, str, bytes, type(None)})


class _Same:
    """Stands for an object that counts by identity, and keeps it alive so that no other can take its place."""

    __slots__ = ("thing",)

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def captured(f: Any) -> tuple[Hashable, ...]:
    """Returns what identifies the values that a function finds in its closure, its defaults and its module, and those of functions found there.

    Of another callable object it is the object's attributes. Numbers, texts, small arrays, and small tuples and dicts of such count by value, all
    else by identity. What an object refers to is not looked at, nor are functions of other modules: they count as they are.
    """
    return tuple(_read_by(f, set()))


def _read_by(f: Any, seen: set[int]) -> Iterator[Hashable]:
    if isinstance(f, partial):
        for value in (f.func, *f.args, *f.keywords.values()):
            yield from _value(value, None, seen)
        return
    if id(f) in seen:
        return
    seen.add(id(f))
    if not isinstance(f, FunctionType):
        # An object that can be called: what it holds itself.
        for value in getattr(f, "__dict__", {}).values():
            yield from _value(value, None, seen)
        return
    for value in (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values()):
        yield from _value(value, f.__globals__, seen)
    for cell in f.__closure__ or ():
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        yield from _value(value, f.__globals__, seen)
    for name in _names(f.__code__):
        if name in f.__globals__:
            yield from _value(f.__globals__[name], f.__globals__, seen)


def _value(value: Any, module: dict[str, Any] | None, seen: set[int]) -> Iterator[Hashable]:
    kind = type(value)
    if kind is float:
        yield kind, value.hex()  # 0.0 == -0.0, and x / 0.0 is not x / -0.0
    elif kind in _PLAIN:
        yield kind, value
    elif kind in (tuple, dict) and len(value) <= _MOST_ITEMS and id(value) not in seen:
        # Not lists: they are where a function notes that it was called, and would be traced again for that alone.
        seen.add(id(value))
        yield kind, len(value)
        for item in (*value, *value.values()) if kind is dict else value:
            yield from _value(item, module, seen)
    elif kind is ModuleType:
        return
    elif kind is np.ndarray and value.nbytes <= _ARRAY_BYTES and not value.dtype.hasobject:
        yield value.dtype, value.shape, value.tobytes()
    else:
        yield _Same(value)
        if kind is partial or (kind is FunctionType and (module is None or value.__globals__ is module)):
            yield from _read_by(value, seen)


@lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    """Returns the names that code, and code within it, may look up in its module."""
    inner = (name for constant in code.co_consts if isinstance(constant, CodeType) for name in _names(constant))
    return tuple(dict.fromkeys((*code.co_names, *inner)))
