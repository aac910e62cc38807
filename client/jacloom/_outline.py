"""How values read in messages: their containers spelled out, and in the place of each array the word."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, Final

from jacloom_graph.types import Type


class _Array:
    """Stands for an array whose values are not known or do not matter."""

    dtype = shape = ()


ARRAY: Final = _Array()
_MOST: Final = 8
"""Items of one container that are named."""
_MOST_TYPES: Final = 3
"""Types of the arguments, or of the results, that are named."""


class _Outline(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxtuple = self.maxlist = self.maxdict = _MOST

    def repr1(self, x: Any, level: int) -> str:
        kind = type(x)
        if hasattr(kind, "shape") and hasattr(kind, "dtype"):
            return "array"
        names = getattr(kind, "_fields", None) if isinstance(x, tuple) else tuple(item.name for item in fields(x)) if is_dataclass(kind) else None
        if names is not None:
            return f"{kind.__name__}({self._fields(x, names, level - 1)})" if level > 0 else f"{kind.__name__}(...)"
        # Others may hold arrays, and say so at any length.
        return super().repr1(x, level) if kind in (tuple, list, dict, int, bool, float, complex, str, type(None)) else kind.__name__

    def _fields(self, value: Any, names: tuple[str, ...], level: int) -> str:
        shown = [f"{name}={self.repr1(getattr(value, name, None), level)}" for name in islice(names, _MOST)]
        return ", ".join([*shown, *(["..."] if len(names) > _MOST else [])])


_outline: Final = _Outline()


def arrow(inputs: Sequence[Type], outputs: Sequence[Type]) -> str:
    """Returns what a function takes and gives, shortened: ``(float64[3], int64[]) -> (float64[3])``."""
    return f"({_types(inputs)}) -> ({_types(outputs)})"


def _types(types: Sequence[Type]) -> str:
    rest = len(types) - _MOST_TYPES
    return ", ".join([*map(str, types[:_MOST_TYPES]), *([f"and {rest} more"] if rest > 0 else [])])


def outline(value: Any) -> str:
    """Returns a value's containers with the word ``array`` for each array, shortened: ``(array, {'w': array, 'n': 3})``."""
    return _outline.repr(value)


def described(value: Any) -> str:
    """Returns the class of a value and its outline: ``list [1.0, 2.0]``; of an array only the word."""
    kind, text = type(value).__name__, outline(value)
    return text if text == "array" or text.startswith(kind) else f"{kind} {text}"
