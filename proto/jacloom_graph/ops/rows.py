"""Short ways to write rows of the op table."""

from __future__ import annotations

from jacloom_graph.attrs import REQUIRED, AttrKind, AttrSpec, _Required
from jacloom_graph.ops.table import Op
from jacloom_graph.types import AttrValue

_NO_ATTRS: tuple[AttrSpec, ...] = ()


def row(name: str, arity: int | tuple[int, int | None], doc: str, *attrs: AttrSpec, zero_derivative: bool = False) -> Op:
    """Returns a row; ``arity`` is an exact number of operands, or bounds."""
    bounds = (arity, arity) if isinstance(arity, int) else arity
    return Op(name, bounds, attrs, doc, zero_derivative)


def unary(name: str, doc: str, *, zero_derivative: bool = False) -> Op:
    """Returns the row of an elementwise op of one operand without attributes."""
    return Op(name, (1, 1), _NO_ATTRS, doc, zero_derivative)


def binary(name: str, doc: str, *, zero_derivative: bool = False) -> Op:
    """Returns the row of an elementwise op of two operands of one type, without attributes."""
    return Op(name, (2, 2), _NO_ATTRS, doc, zero_derivative)


def integer(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of an integer."""
    return AttrSpec(name, AttrKind.INT, default)


def integers(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of a list of integers."""
    return AttrSpec(name, AttrKind.INTS, default)


def pairs(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of a list of integer pairs."""
    return AttrSpec(name, AttrKind.PAIRS, default)


def triples(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of a list of integer triples."""
    return AttrSpec(name, AttrKind.TRIPLES, default)


def flag(name: str, default: AttrValue | _Required = False) -> AttrSpec:
    """Returns the spec of a boolean, false unless said otherwise."""
    return AttrSpec(name, AttrKind.BOOL, default)


def real(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of a float."""
    return AttrSpec(name, AttrKind.FLOAT, default)


def scalar(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of a number, integer or float."""
    return AttrSpec(name, AttrKind.SCALAR, default)


def dtype(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of a dtype name."""
    return AttrSpec(name, AttrKind.DTYPE, default)


def text(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of free text."""
    return AttrSpec(name, AttrKind.STRING, default)


def texts(name: str, default: AttrValue | _Required = REQUIRED, members: tuple[str, ...] = ()) -> AttrSpec:
    """Returns the spec of a list of strings, from a closed set where ``members`` are given."""
    return AttrSpec(name, AttrKind.STRINGS, default, members)


def choice(name: str, members: tuple[str, ...], default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of one member of a closed set."""
    return AttrSpec(name, AttrKind.STRING, default, members)


def function(name: str, default: AttrValue | _Required = REQUIRED) -> AttrSpec:
    """Returns the spec of a reference to a function."""
    return AttrSpec(name, AttrKind.FUNCTION, default)


def functions(name: str) -> AttrSpec:
    """Returns the spec of a list of references to functions."""
    return AttrSpec(name, AttrKind.FUNCTIONS)


def rule(name: str) -> AttrSpec:
    """Returns the spec of a reference to a rule."""
    return AttrSpec(name, AttrKind.RULE)
