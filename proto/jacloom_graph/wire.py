"""Graphs as bytes: the message ``jacloom_api.v1.Graph`` and its parts.

Reading is driven by the op table: a node's attributes are read as their specs say, and an op or attribute that the table does not have
is refused. References and counts in what is read are not checked yet: see ``jacloom_graph.check``.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Final

from google.protobuf.message import DecodeError, EncodeError

from jacloom_api.v1 import graph_pb2
from jacloom_graph import tensor
from jacloom_graph.attrs import decode, flatten_unless_default
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.limits import DEFAULT, Limits
from jacloom_graph.nodes import attr_field, function_field, node_field
from jacloom_graph.ops import TABLE, Op
from jacloom_graph.tree import LEAF, tuple_of
from jacloom_graph.types import AttrValue, Constant, Function, Graph, JvpRule, Node, Rule, TransposeRule, Tree, TreeKind, Type, VjpRule

_MOST_BYTES: Final = (1 << 31) - 1
"""Size of the largest message that protobuf reads."""
_LONG_DTYPE: Final = 48
"""Characters of the longest dtype name that there may be."""
_TOO_LARGE: Final = "a message may have 2 GiB and 100 levels, and this graph has more; name its constants by blob"


def to_bytes(graph: Graph) -> bytes:
    """Returns a graph's message, serialized.

    Attributes equal to their defaults are left out. A constant that has a blob name is written by that name, without its elements.

    Raises:
        Fault: UNSUPPORTED_OP or INVALID_GRAPH for a node that the op table does not describe; TOO_LARGE above 2 GiB.
    """
    # The functions are laid down apart, between the field before them and those after, as protobuf would place them.
    head = graph_pb2.Graph(opset=graph.opset).SerializeToString()
    known: dict[tuple[str, int], bytes] = {}
    functions = [_function_field(index, function, known) for index, function in enumerate(graph.functions)]
    message = graph_pb2.Graph(producer=graph.producer)
    message.rules.extend(map(_rule_to_message, graph.rules))
    message.constants.extend(_constant_to_message(constant, f"constants[{index}]") for index, constant in enumerate(graph.constants))
    message.in_tree.CopyFrom(tree_to_message(graph.in_tree))
    message.out_tree.CopyFrom(tree_to_message(graph.out_tree))
    try:
        rest = message.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise Fault(Reason.TOO_LARGE, _TOO_LARGE) from error
    del message  # constants may be large, and are copied once more below
    size = len(head) + sum(map(len, functions)) + len(rest)
    if size > _MOST_BYTES:
        raise Fault(Reason.TOO_LARGE, _TOO_LARGE)
    return b"".join((head, *functions, rest))


def from_bytes(data: bytes, limits: Limits = DEFAULT) -> Graph:
    """Returns the graph that bytes hold. Inline constants are views of those bytes; constants named by blob have no data yet.

    Raises:
        Fault: INVALID_GRAPH, UNSUPPORTED_OP or TOO_LARGE; nothing else, whatever the bytes.
    """
    if len(data) > limits.graph_bytes:
        advice = "upload large constants apart and name them by blob"
        raise Fault(Reason.TOO_LARGE, f"a graph may have {limits.graph_bytes:,} bytes, got {len(data):,}; {advice}")
    try:
        message = graph_pb2.Graph.FromString(data)
    except DecodeError as error:
        raise Fault(Reason.INVALID_GRAPH, f"not a serialized jacloom_api.v1.Graph: {error}") from error
    _check_counts(message, limits)
    functions = tuple(_read_function(index, function) for index, function in enumerate(message.functions))
    return Graph(
        functions=functions,
        rules=tuple(_rule_from_message(rule, index) for index, rule in enumerate(message.rules)),
        constants=tuple(_constant_from_message(constant, index, limits) for index, constant in enumerate(message.constants)),
        in_tree=tree_from_message(message.in_tree) if message.HasField("in_tree") else tuple_of(len(functions[0].inputs)),
        out_tree=tree_from_message(message.out_tree) if message.HasField("out_tree") else _plain_result(len(functions[0].outputs)),
        opset=message.opset,
        producer=message.producer,
    )


def type_to_message(type_: Type) -> graph_pb2.Type:
    """Returns a type as a message."""
    return graph_pb2.Type(dtype=type_.dtype, shape=type_.shape, weak=type_.weak)


def type_from_message(message: graph_pb2.Type) -> Type:
    """Returns the type of a message, unchecked."""
    dtype, shape = message.dtype, tuple(message.shape[:])
    # Types occur again and again. What no check has seen yet is only remembered where it is small.
    return _type(dtype, shape, message.weak) if len(shape) <= DEFAULT.rank and len(dtype) <= _LONG_DTYPE else Type(dtype, shape, message.weak)


@lru_cache(maxsize=4096)
def _type(dtype: str, shape: tuple[int, ...], weak: bool) -> Type:
    return Type(dtype, shape, weak)


def tree_to_message(tree: Tree) -> graph_pb2.Tree:
    """Returns a tree as a message."""
    message = graph_pb2.Tree()
    _write_tree(message, tree)
    return message


def tree_from_message(message: graph_pb2.Tree) -> Tree:
    """Returns the tree of a message, unchecked.

    Raises:
        Fault: INVALID_GRAPH if a part of it has no kind that is known.
    """
    # Recursion is safe: protobuf has refused what is nested more than 100 deep.
    try:
        kind = TreeKind(message.kind)
    except ValueError:
        raise Fault(Reason.INVALID_GRAPH, f"every part of a tree must have a kind from LEAF to CUSTOM, got {message.kind}") from None
    if kind is TreeKind.LEAF and not message.children:
        return LEAF
    return Tree(kind, tuple(map(tree_from_message, message.children)), tuple(message.keys), message.name)


def unknown_op(name: str, place: Place) -> Fault:
    """Returns the error for an op that the table does not have, with the ops of similar name."""
    near = get_close_matches(name[:64], TABLE, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return Fault(Reason.UNSUPPORTED_OP, f"there is no op {name[:64]!r} in the op table{hint}", place=place)


def unknown_attr(name: str, op: Op, place: Place) -> Fault:
    """Returns the error for an attribute that an op does not have."""
    known = ", ".join(op.specs) or "none"
    return Fault(Reason.INVALID_GRAPH, f"{op.name} has no attribute {name[:64]!r}; its attributes: {known}", place=place)


def _plain_result(count: int) -> Tree:
    return LEAF if count == 1 else tuple_of(count)


def _check_counts(message: graph_pb2.Graph, limits: Limits) -> None:
    """Refuses by number before any Python object is made for the parts: an empty part is two bytes on the wire and hundreds in memory."""
    if not message.functions:
        raise Fault(Reason.INVALID_GRAPH, "a graph must have at least one function: functions[0] is the entry")
    limits.require("functions", len(message.functions))
    limits.require("rules", len(message.rules))
    limits.require("constants", len(message.constants))
    limits.require("nodes", sum(len(function.nodes) for function in message.functions))
    limits.require("values", sum(len(function.inputs) for function in message.functions))
    limits.require("references", sum(len(rule.jvp.transposes) for rule in message.rules))


def _function_field(index: int, function: Function, known: dict[tuple[str, int], bytes]) -> bytes:
    """Returns a function as a field of its graph. In ``known`` are attributes by op and identity: nodes of a traced graph share them."""
    nodes = []
    for number, node in enumerate(function.nodes):
        key = node.op, id(node.attrs)
        attrs = known.get(key)
        if attrs is None:
            attrs = known[key] = _attr_fields(index, number, node)
        try:
            nodes.append(node_field(node, attrs))
        except (TypeError, ValueError) as error:
            raise Fault(
                Reason.INVALID_GRAPH, f"{node.op} has a number that does not fit its field: {error}", place=Place(index, number, node.op)
            ) from error
    return function_field(function, map(type_to_message, function.inputs), nodes)


def _attr_fields(index: int, number: int, node: Node) -> bytes:
    """Returns the attributes of a node that differ from their defaults, in the order of the op table."""
    place = Place(index, number, node.op)
    op = TABLE.get(node.op)
    if op is None:
        raise unknown_op(node.op, place)
    for name in node.attrs:
        if name not in op.specs:
            raise unknown_attr(name, op, place)
    try:
        flats = [(spec.name, flatten_unless_default(spec, node.attrs[spec.name])) for spec in op.attrs if spec.name in node.attrs]
    except Fault as fault:
        raise Fault(fault.reason, fault.message, place=place) from fault
    return b"".join([attr_field(name, flat) for name, flat in flats if flat is not None])


def _read_function(index: int, message: graph_pb2.Function) -> Function:
    return Function(
        name=message.name,
        inputs=tuple(map(type_from_message, message.inputs)),
        nodes=tuple([_read_node(node, index, number) for number, node in enumerate(message.nodes[:])]),
        outputs=tuple(message.outputs[:]),
    )


def _read_node(message: graph_pb2.Node, function: int, number: int) -> Node:
    name = message.op
    op = TABLE.get(name)
    if op is None:
        raise unknown_op(name, Place(function, number, name[:64]))
    # Slices are lists made in one go: iterating over protobuf's containers takes four times as long.
    attrs, types = message.attrs[:], message.result_types[:]
    return Node(
        op.name,
        tuple(message.operands[:]),
        _attrs_from_messages(op, attrs, function, number) if attrs else {},
        # Left out on the wire, a number reads as 0; nearly every node has one result.
        message.result_count or 1,
        tuple(map(type_from_message, types)) if types else (),
    )


def _attrs_from_messages(op: Op, messages: Iterable[graph_pb2.Attr], function: int, number: int) -> dict[str, AttrValue]:
    attrs: dict[str, AttrValue] = {}
    for message in messages:
        name = message.name
        spec = op.specs.get(name)
        if spec is None:
            raise unknown_attr(name, op, Place(function, number, op.name))
        if name in attrs:
            raise Fault(Reason.INVALID_GRAPH, f"attribute {name!r} is given twice", place=Place(function, number, op.name))
        try:
            attrs[name] = decode(spec, message)
        except Fault as fault:
            raise Fault(fault.reason, fault.message, place=Place(function, number, op.name)) from fault
    return attrs


def _rule_to_message(rule: Rule) -> graph_pb2.Rule:
    message = graph_pb2.Rule(function=rule.function, active=rule.active)
    match rule.derivative:
        case JvpRule(function, outputs, transposes):
            written = [graph_pb2.TransposeRule(function=transpose.function, inputs=transpose.inputs) for transpose in transposes]
            message.jvp.CopyFrom(graph_pb2.JvpRule(function=function, outputs=outputs, transposes=written))
        case VjpRule(forward, backward, inputs):
            message.vjp.CopyFrom(graph_pb2.VjpRule(forward=forward, backward=backward, inputs=inputs))
        case str(text):
            message.refuses = text
    return message


def _rule_from_message(message: graph_pb2.Rule, index: int) -> Rule:
    derivative: JvpRule | VjpRule | str
    match message.WhichOneof("derivative"):
        case "jvp":
            transposes = tuple(TransposeRule(transpose.function, tuple(transpose.inputs)) for transpose in message.jvp.transposes)
            derivative = JvpRule(message.jvp.function, tuple(message.jvp.outputs), transposes)
        case "vjp":
            derivative = VjpRule(message.vjp.forward, message.vjp.backward, tuple(message.vjp.inputs))
        case "refuses":
            derivative = message.refuses
        case None:
            raise Fault(Reason.INVALID_GRAPH, "a rule must have one of jvp, vjp and refuses", field=f"rules[{index}]")
    return Rule(message.function, tuple(message.active), derivative)


def _constant_to_message(constant: Constant, field: str) -> graph_pb2.Constant:
    type_ = constant.type
    if constant.blob:
        content = graph_pb2.Tensor(dtype=type_.dtype, shape=type_.shape, blob=constant.blob)
        return graph_pb2.Constant(tensor=content, weak=type_.weak)
    if constant.data is None:
        raise Fault(Reason.INVALID_GRAPH, f"a constant of type {type_} must have elements or the name of a blob", field=field)
    try:
        content = tensor.to_message(constant.data, type_.dtype)
    except Fault as fault:
        raise Fault(Reason.INVALID_GRAPH, fault.message, field=f"{field}.tensor") from fault
    return graph_pb2.Constant(tensor=content, weak=type_.weak)


def _constant_from_message(message: graph_pb2.Constant, index: int, limits: Limits) -> Constant:
    content, field = message.tensor, f"constants[{index}].tensor"
    type_ = Type(content.dtype, tuple(content.shape), message.weak)
    tensor.check_type(type_, limits, reason=Reason.INVALID_GRAPH, field=field)
    if content.offset:
        raise Fault(Reason.INVALID_GRAPH, f"a constant begins where its blob does, got offset {content.offset}", field=f"{field}.offset")
    if content.WhichOneof("content") == "blob":
        return Constant(type_, None, content.blob)
    try:
        return Constant(type_, tensor.from_bytes(type_, content.data))
    except Fault as fault:
        raise Fault(Reason.INVALID_GRAPH, fault.message, field=field) from fault


def _write_tree(message: graph_pb2.Tree, tree: Tree) -> None:
    message.kind = graph_pb2.Tree.Kind.ValueType(tree.kind.value)
    message.keys.extend(tree.keys)
    message.name = tree.name
    for child in tree.children:
        _write_tree(message.children.add(), child)
