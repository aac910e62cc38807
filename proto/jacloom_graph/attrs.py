"""Attribute kinds and the one codec for all of them, driven by the specs in the op table."""

from __future__ import annotations

import operator
import reprlib
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar, assert_never

from jacloom_api.v1 import graph_pb2
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import AttrValue

_Item = TypeVar("_Item")


class AttrKind(Enum):
    """What an attribute's value is in Python, and so which list of the message holds it."""

    INT = "an integer"
    INTS = "a list of integers"
    PAIRS = "a list of integer pairs"
    TRIPLES = "a list of integer triples"
    BOOL = "a boolean"
    FLOAT = "a float"
    SCALAR = "an integer or a float"
    STRING = "a string"
    STRINGS = "a list of strings"
    DTYPE = "a dtype name"
    FUNCTION = "the index of a function"
    FUNCTIONS = "a list of function indices"
    RULE = "the index of a rule"


REFERENCES: Final = frozenset({AttrKind.FUNCTION, AttrKind.FUNCTIONS, AttrKind.RULE})
"""The kinds whose integers are indices into the graph's functions or rules."""


class _Required(Enum):
    REQUIRED = "required"


REQUIRED: Final = _Required.REQUIRED
"""Marks an attribute without a default."""


class Flat(NamedTuple):
    """A value as the lists of its message, of which at most one has entries."""

    ints: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()
    strings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AttrSpec:
    """One attribute of an op."""

    name: str
    kind: AttrKind
    default: AttrValue | _Required = REQUIRED
    """The value of a missing attribute. None means that there is none, which the op's doc line explains."""
    members: tuple[str, ...] = ()
    """For strings: the closed set of values; empty if any string will do."""
    flattener: Callable[[Any], Flat] = field(init=False, repr=False, compare=False)
    """Makes lists of a value of the kind; see ``flatten``."""
    flat_default: Flat | None = field(init=False, repr=False, compare=False)
    """The default as flat lists; None where there is no value to compare with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "flattener", _flattener(self.kind))
        default = self.default
        flat = None if default is None or isinstance(default, _Required) else flatten(self, default)
        object.__setattr__(self, "flat_default", flat)


def flatten(spec: AttrSpec, value: AttrValue) -> Flat:
    """Returns an attribute's value as flat lists.

    Raises:
        Fault: INVALID_GRAPH if the value is not of the spec's kind.
    """
    try:
        flat = spec.flattener(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Fault(Reason.INVALID_GRAPH, f"attribute {spec.name!r} must be {spec.kind.value}, got {reprlib.repr(value)}") from error
    if spec.members:
        _check_members(spec, flat.strings)
    return flat


def flatten_unless_default(spec: AttrSpec, value: AttrValue) -> Flat | None:
    """Returns an attribute's value as flat lists, or None if it is exactly the default: 0 is not 0.0, and 0.0 is not -0.0.

    Raises:
        Fault: INVALID_GRAPH if the value is not of the spec's kind.
    """
    if value is spec.default:
        return None
    flat, default = flatten(spec, value), spec.flat_default
    if default is None or flat != default or _bits(flat.floats) != _bits(default.floats):
        return flat
    return None


def to_message(spec: AttrSpec, flat: Flat) -> graph_pb2.Attr:
    """Returns the message for a value that was flattened before."""
    return graph_pb2.Attr(name=spec.name, ints=flat.ints, floats=flat.floats, strings=flat.strings)


def decode(spec: AttrSpec, message: graph_pb2.Attr) -> AttrValue:
    """Returns the value that a message holds, as plain Python scalars and tuples.

    Raises:
        Fault: INVALID_GRAPH if the message does not hold a value of the spec's kind, or holds anything besides.
    """
    # A slice is a list made in one go; iterating over protobuf's containers takes four times as long.
    ints, floats, strings = tuple(message.ints[:]), tuple(message.floats[:]), tuple(message.strings[:])
    value: AttrValue
    rest: tuple[object, ...] = (floats, strings)
    match spec.kind:
        case AttrKind.INT | AttrKind.FUNCTION | AttrKind.RULE:
            value = _single(spec, ints)
        case AttrKind.INTS | AttrKind.FUNCTIONS:
            value = ints
        case AttrKind.PAIRS:
            value = _rows(spec, ints, 2)
        case AttrKind.TRIPLES:
            value = _rows(spec, ints, 3)
        case AttrKind.BOOL:
            value = _flag(spec, _single(spec, ints))
        case AttrKind.FLOAT:
            value, rest = _single(spec, floats), (ints, strings)
        case AttrKind.SCALAR:
            value, rest = _single(spec, (*ints, *floats)), strings
        case AttrKind.STRING | AttrKind.DTYPE:
            value, rest = _single(spec, strings), (ints, floats)
        case AttrKind.STRINGS:
            value, rest = strings, (ints, floats)
        case _:
            assert_never(spec.kind)
    if any(rest):
        raise Fault(Reason.INVALID_GRAPH, f"attribute {spec.name!r} must be {spec.kind.value} and nothing else, got values of another sort as well")
    if spec.members:
        _check_members(spec, strings)
    return value


def _flattener(kind: AttrKind) -> Callable[[Any], Flat]:
    """Returns what makes lists of a value, which may be anything: what is not of the kind raises TypeError or ValueError."""
    match kind:
        case AttrKind.INT | AttrKind.FUNCTION | AttrKind.RULE:
            return lambda value: Flat(_int64((operator.index(value),)))
        case AttrKind.INTS | AttrKind.FUNCTIONS:
            return lambda value: Flat(_int64(tuple(map(operator.index, _items(value)))))
        case AttrKind.PAIRS:
            return lambda value: Flat(_flat_rows(value, 2))
        case AttrKind.TRIPLES:
            return lambda value: Flat(_flat_rows(value, 3))
        case AttrKind.BOOL:
            return lambda value: Flat((_bit(value),))
        case AttrKind.FLOAT:
            return lambda value: Flat((), (_float(value),))
        case AttrKind.SCALAR:
            return lambda value: Flat((), (value,)) if isinstance(value, float) else Flat(_int64((operator.index(value),)))
        case AttrKind.STRING | AttrKind.DTYPE:
            return lambda value: Flat((), (), (_text(value),))
        case AttrKind.STRINGS:
            return lambda value: Flat((), (), tuple(map(_text, _items(value))))
        case _:
            assert_never(kind)


def _items(value: Any) -> Sequence[Any]:
    # A string is a sequence too, and would fall apart into its letters.
    if not isinstance(value, (tuple, list)):
        raise TypeError("not a list")
    return value


def _int64(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if numbers and not (min(numbers) >= -(1 << 63) and max(numbers) < 1 << 63):
        raise OverflowError("integers have 64 bits")
    return numbers


def _bit(value: Any) -> int:
    if isinstance(value, (str, float)) or value not in (0, 1):
        raise ValueError("not a boolean")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, (str, bool)):
        raise TypeError("not a float")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    value.encode()  # raises ValueError for lone surrogates, which no message can hold
    return value


def _flat_rows(value: Any, width: int) -> tuple[int, ...]:
    rows = _items(value)
    if any(len(_items(row)) != width for row in rows):
        raise ValueError(f"not rows of {width}")
    return _int64(tuple([operator.index(item) for row in rows for item in row]))


def _bits(floats: Iterable[float]) -> list[bytes]:
    return [struct.pack("<d", item) for item in floats]


def _check_members(spec: AttrSpec, strings: tuple[str, ...]) -> None:
    if not set(strings) <= set(spec.members):
        got = reprlib.repr(strings[0] if len(strings) == 1 else strings)
        raise Fault(Reason.INVALID_GRAPH, f"attribute {spec.name!r} must be one of {', '.join(spec.members)}; got {got}")


def _single(spec: AttrSpec, items: tuple[_Item, ...]) -> _Item:
    if len(items) != 1:
        raise Fault(Reason.INVALID_GRAPH, f"attribute {spec.name!r} must be {spec.kind.value}, got {len(items)} values of that sort")
    return items[0]


def _flag(spec: AttrSpec, item: int) -> bool:
    if item not in (0, 1):
        raise Fault(Reason.INVALID_GRAPH, f"attribute {spec.name!r} must be {spec.kind.value}, 0 or 1; got {item}")
    return bool(item)


def _rows(spec: AttrSpec, items: tuple[int, ...], width: int) -> tuple[tuple[int, ...], ...]:
    if len(items) % width:
        raise Fault(Reason.INVALID_GRAPH, f"attribute {spec.name!r} must be {spec.kind.value}, got {len(items)} integers")
    return tuple(items[at : at + width] for at in range(0, len(items), width))
