"""The bytes that a graph's id is the SHA-256 of.

They encode the canonical form of the graph (see ``jacloom_graph.identity``) and can be written from any language. An *int* is 8 bytes,
little-endian, two's complement; a *float* is 8 bytes, IEEE 754 double, little-endian, every NaN as 0x7FF8000000000000; a *string* is an
int, its number of bytes in UTF-8, then those bytes; a *list* is an int, its number of items, then the items::

    graph      string "jacloom.graph.1", int opset, tree of the arguments, tree of the result,
               list of functions, list of rules, list of constants
    tree       int kind (its number in the .proto), string name, list of strings (keys), list of trees (children)
    function   list of types (inputs), list of nodes, list of operands (outputs),
               list of ints (every constant among the operands in order, by number),
               list of ints (every reference in the nodes' attributes in order, by number)
    type       string dtype, list of ints (shape), int weak (0 or 1)
    node       string op, list of operands, int number of results, list of attributes
    operand    int: the number of the value; -1 for a constant, which then is in the function's list of constants
    attribute  string name, list of ints, list of floats, list of strings: as in the message, but 0 in place of each reference
    rule       list of ints (active, 0 or 1), string "jvp", "linear" (a jvp rule with transposes), "vjp" or "refuses",
               list of ints (outputs of the jvp rule, inputs of the vjp rule; else empty), string (text of the refusal; else empty),
               for "linear": list of ints (inputs of each transpose, -1 between two of them),
               list of ints (the rule's function, then the jvp rule's function and its transposes' or the vjp rule's forward and backward, by number)
    constant   type, 32 bytes (SHA-256 of the elements as on the wire, for keys of their raw data)

Attributes come in the order of the op table; those equal to their default are left out. So are declared result types, names of
functions and the producer. Whether a constant is inline or named by digest makes no difference.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, TypeVar, assert_never

from jacloom_graph.attrs import REFERENCES, AttrKind, Flat, flatten_unless_default
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.ops import TABLE, Op
from jacloom_graph.types import AttrValue, Function, Graph, JvpRule, Node, Rule, Tree, Type, VjpRule

_Item = TypeVar("_Item")
_MAGIC: Final = "jacloom.graph.1"
_MANY: Final = 64
"""Attributes of more integers are not remembered: they are rare, and may be large."""
_NAN: Final = struct.pack("<Q", 0x7FF8_0000_0000_0000)


@dataclass(slots=True)
class Text:
    """A function or rule apart from the numbers of what it refers to: those are listed, and the bytes read the same whatever they are."""

    body: bytes = b""
    """The encoding up to the lists of constants and references."""
    constants: list[int] = field(default_factory=list)
    """Every constant among the operands, in order, as an index into the graph's constants."""
    references: list[tuple[AttrKind, int]] = field(default_factory=list)
    """Every reference, in order: FUNCTION or RULE, and the index."""
    attrs: list[Mapping[str, AttrValue]] = field(default_factory=list)
    """For each node its attributes that differ from their defaults, in the order of the op table."""


Known = dict[tuple[str, int], tuple[Mapping[str, AttrValue], bytes]]
"""Attributes that have been encoded, without their defaults and as text, by op and identity: nodes of a traced graph share them."""


def function_text(index: int, function: Function, known: Known) -> Text:
    """Returns the text of the graph's function of that index.

    Args:
        index: For errors.
        function: The function.
        known: What has been encoded of the same graph; added to.

    Raises:
        Fault: UNSUPPORTED_OP or INVALID_GRAPH for a node that the op table does not describe.
    """
    text = Text()
    parts = [_list(_type, function.inputs), _int(len(function.nodes))]
    for number, node in enumerate(function.nodes):
        try:
            parts.append(_node(node, text, known))
        except Fault as fault:
            raise Fault(fault.reason, fault.message, place=Place(index, number, node.op)) from fault
    parts.append(_operands(function.outputs, text))
    text.body = b"".join(parts)
    return text


def rule_text(rule: Rule) -> Text:
    """Returns the text of a rule."""
    derivative, extra = rule.derivative, b""
    match derivative:
        case JvpRule(function, positions, transposes):
            sort, refusal, functions = "jvp", "", [function, *(transpose.function for transpose in transposes)]
            if transposes:
                sort, extra = "linear", _ints([number for transpose in transposes for number in (-1, *transpose.inputs)][1:])
        case VjpRule():
            sort, positions, refusal, functions = "vjp", derivative.inputs, "", [derivative.forward, derivative.backward]
        case str():
            sort, positions, refusal, functions = "refuses", (), derivative, []
        case _:
            assert_never(derivative)
    body = _ints([int(flag) for flag in rule.active]) + _string(sort) + _ints(positions) + _string(refusal) + extra
    return Text(body, references=[(AttrKind.FUNCTION, function) for function in (rule.function, *functions)])


def graph_bytes(graph: Graph, functions: Iterable[Text], rules: Iterable[Text], digests: Sequence[bytes]) -> bytes:
    """Returns the encoding of a canonical graph, given the texts of its functions and rules, with its numbers, and its constants' digests."""
    parts = [_string(_MAGIC), _int(graph.opset), _tree(graph.in_tree), _tree(graph.out_tree), _int(len(graph.functions))]
    for text in functions:
        parts += (text.body, _ints(text.constants), _ints([number for _, number in text.references]))
    parts.append(_int(len(graph.rules)))
    for text in rules:
        parts += (text.body, _ints([number for _, number in text.references]))
    parts.append(_int(len(graph.constants)))
    for constant, digest in zip(graph.constants, digests, strict=True):
        parts += (_type(constant.type), digest)
    return b"".join(parts)


def _node(node: Node, text: Text, known: Known) -> bytes:
    op = TABLE.get(node.op)
    if op is None:
        raise Fault(Reason.UNSUPPORTED_OP, f"there is no op {node.op[:64]!r} in the op table")
    head = _string(node.op) + _operands(node.operands, text) + _int(node.result_count)
    if not node.attrs:
        text.attrs.append(node.attrs)
        return head + _NO_ATTRS
    found = known.get((node.op, id(node.attrs)))
    if found is None:
        found = _attrs(node.attrs, op, text)
        if not op.references:
            known[node.op, id(node.attrs)] = found
    kept, written = found
    text.attrs.append(kept)
    return head + written


def _attrs(attrs: Mapping[str, AttrValue], op: Op, text: Text) -> tuple[Mapping[str, AttrValue], bytes]:
    """Returns a node's attributes without those that are equal to their defaults, and their encoding; adds the references among them to the text."""
    kept: dict[str, AttrValue] = {}
    written = []
    for spec in op.attrs:
        flat = flatten_unless_default(spec, attrs[spec.name]) if spec.name in attrs else None
        if flat is None:
            continue
        kept[spec.name] = attrs[spec.name]
        if op.references and spec.kind in REFERENCES:
            kind = AttrKind.RULE if spec.kind is AttrKind.RULE else AttrKind.FUNCTION
            text.references += [(kind, number) for number in flat.ints]
            flat = Flat(ints=(0,) * len(flat.ints))
        written.append(_attr(spec.name, flat))
    return kept, b"".join((_int(len(written)), *written))


def _operands(operands: tuple[int, ...], text: Text) -> bytes:
    if min(operands, default=0) >= 0:
        return _ints(operands)
    text.constants += [-1 - operand for operand in operands if operand < 0]
    return _ints([max(operand, -1) for operand in operands])


def _attr(name: str, flat: Flat) -> bytes:
    # The same few occur again and again. Not those with floats: 0.0 and -0.0 are equal, and would be looked up as one.
    return _attr_anew(name, flat) if flat.floats or len(flat.ints) > _MANY else _known_attr(name, flat)


def _attr_anew(name: str, flat: Flat) -> bytes:
    return b"".join((_string(name), _ints(flat.ints), _list(_float, flat.floats), _list(_string, flat.strings)))


_known_attr = lru_cache(maxsize=4096)(_attr_anew)


def _tree(tree: Tree) -> bytes:
    return b"".join((_int(tree.kind.value), _string(tree.name), _list(_string, tree.keys), _list(_tree, tree.children)))


@lru_cache(maxsize=1024)
def _type(type_: Type) -> bytes:
    return _string(type_.dtype) + _ints(type_.shape) + _int(type_.weak)


@lru_cache(maxsize=1024)
def _string(text: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise Fault(Reason.INVALID_GRAPH, f"the name {text!r} has a lone surrogate, which no message can hold; rename it") from None
    return _int(len(data)) + data


def _float(value: float) -> bytes:
    return _NAN if value != value else struct.pack("<d", value)


_int: Final = struct.Struct("<q").pack
_NO_ATTRS: Final = _int(0)


def _ints(values: Sequence[int]) -> bytes:
    return struct.pack(f"<{1 + len(values)}q", len(values), *values)


def _list(encode: Callable[[_Item], bytes], items: Sequence[_Item]) -> bytes:
    return _int(len(items)) + b"".join(map(encode, items))
