"""Nodes and functions as serialized messages.

Nearly all of a large graph is nodes, and nearly all parts of nodes occur again: ops, attributes, types. Each is serialized by protobuf once and
looked up from then on: 4 us a node, where a message object for every part takes 11. The bytes are those that protobuf itself would write.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

from jacloom_api.v1 import graph_pb2
from jacloom_graph.attrs import Flat
from jacloom_graph.framing import delimited, varint
from jacloom_graph.types import Function, Node, Type

_FUNCTION: Final = graph_pb2.Graph.FUNCTIONS_FIELD_NUMBER
_NODE: Final = graph_pb2.Function.NODES_FIELD_NUMBER
_OPERANDS: Final = graph_pb2.Node.OPERANDS_FIELD_NUMBER
_ATTR: Final = graph_pb2.Node.ATTRS_FIELD_NUMBER
_TYPE: Final = graph_pb2.Node.RESULT_TYPES_FIELD_NUMBER


def node_field(node: Node, attrs: bytes) -> bytes:
    """Returns a node as a field of its function, given its attributes' fields.

    Raises:
        ValueError, TypeError: A number does not fit its field.
    """
    # In the order of the fields' numbers, as protobuf writes them.
    parts = [_op(node.op)]
    if node.operands:
        parts.append(delimited(_OPERANDS, b"".join(map(_sint32, node.operands))))
    parts.append(attrs)
    if node.result_count != 1:
        parts.append(graph_pb2.Node(result_count=node.result_count).SerializeToString())
    parts += map(_type, node.result_types)
    return delimited(_NODE, b"".join(parts))


def attr_field(name: str, flat: Flat) -> bytes:
    """Returns an attribute as a field of its node."""
    return delimited(_ATTR, graph_pb2.Attr(name=name, ints=flat.ints, floats=flat.floats, strings=flat.strings).SerializeToString())


def function_field(function: Function, inputs: Iterable[graph_pb2.Type], nodes: Sequence[bytes]) -> bytes:
    """Returns a function as a field of its graph, given the types of its inputs and the fields of its nodes."""
    head = graph_pb2.Function(name=function.name, inputs=inputs).SerializeToString()
    tail = graph_pb2.Function(outputs=function.outputs).SerializeToString()
    return delimited(_FUNCTION, b"".join((head, *nodes, tail)))


@lru_cache(maxsize=1024)
def _op(name: str) -> bytes:
    return graph_pb2.Node(op=name).SerializeToString()


@lru_cache(maxsize=4096)
def _type(type_: Type) -> bytes:
    return delimited(_TYPE, graph_pb2.Type(dtype=type_.dtype, shape=type_.shape, weak=type_.weak).SerializeToString())


@lru_cache(maxsize=1 << 15, typed=True)
def _sint32(number: int) -> bytes:
    """Returns a number as an entry of a list of ``sint32``: 0, -1, 1, -2 and so on are 0, 1, 2, 3, seven bits a byte."""
    value = operator.index(number)
    if not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"Value out of range: {number}")
    return varint(value << 1 ^ value >> 31)
