"""Checks that a graph keeps the rules of the format, before anything is built from it.

Here are references, counts, attributes, call cycles and sizes; what follows from dtypes and shapes is left to the worker, which
infers them. Nothing recurses, and everything takes time in proportion to the graph's size, whatever the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from keyword import iskeyword
from typing import assert_never

from jacloom_graph import tensor
from jacloom_graph.attrs import REQUIRED, AttrKind, flatten
from jacloom_graph.calls import expand
from jacloom_graph.errors import Fault, Place, Reason
from jacloom_graph.identity import constant_digest
from jacloom_graph.limits import DEFAULT, Limits
from jacloom_graph.ops import TABLE, Op
from jacloom_graph.ops.signatures import SIGNATURES, Signature
from jacloom_graph.tree import leaf_count
from jacloom_graph.types import OPSET, Constant, Function, Graph, JvpRule, Node, Rule, Tree, TreeKind, Type, VjpRule
from jacloom_graph.wire import unknown_attr, unknown_op


@dataclass(frozen=True, slots=True)
class Census:
    """How large a graph is."""

    functions: int
    nodes: int
    """Nodes stored, over all functions."""
    expanded_nodes: int
    """Nodes of the entry when each call is replaced by what it calls; loop bodies and branches count once."""
    depth: int
    """Functions in the longest chain of calls, the entry counted."""


def check(graph: Graph, limits: Limits = DEFAULT) -> Census:
    """Checks a graph and returns its size.

    Raises:
        Fault: UNSUPPORTED_OP for an op or an opset that the table does not have, TOO_LARGE above a limit, INVALID_GRAPH for everything
            else; with the place in the graph, or with ``field`` for what lies outside its functions.
    """
    _check_counts(graph, limits)
    for index, constant in enumerate(graph.constants):
        _check_constant(constant, f"constants[{index}]", limits)
    # Rules before functions, whose nodes look through rules at the functions behind them.
    for index, rule in enumerate(graph.rules):
        _check_rule(graph, rule, f"rules[{index}]")
    calls = [list(_check_function(graph, index, limits)) for index in range(len(graph.functions))]
    transposes = sum(len(rule.derivative.transposes) for rule in graph.rules if isinstance(rule.derivative, JvpRule))
    limits.require("references", sum(map(len, calls)) + transposes)
    expansions = expand(calls, [len(function.nodes) for function in graph.functions])
    for index, expansion in enumerate(expansions):
        if expansion.depth > limits.depth:
            message = f"calls may be {limits.depth} functions deep, got {expansion.depth}; replace some calls by what they call"
            raise Fault(Reason.TOO_LARGE, message, place=Place(index))
        limits.require("expanded_nodes", expansion.nodes, place=Place(index))
    _check_tree(graph.in_tree, len(graph.entry.inputs), "in_tree", limits)
    _check_tree(graph.out_tree, len(graph.entry.outputs), "out_tree", limits)
    if graph.in_tree.kind is not TreeKind.TUPLE:
        raise _invalid("must be a TUPLE with one child per argument", field="in_tree")
    nodes = sum(len(function.nodes) for function in graph.functions)
    return Census(len(graph.functions), nodes, expansions[0].nodes, expansions[0].depth)


def _check_counts(graph: Graph, limits: Limits) -> None:
    if graph.opset != OPSET:
        message = f"opset {OPSET} is known here, got {graph.opset}; write the graph for opset {OPSET}, or update this installation"
        raise Fault(Reason.UNSUPPORTED_OP, message, field="opset")
    if not graph.functions:
        raise _invalid("must have at least one entry: functions[0] is the graph's own", field="functions")
    limits.require("functions", len(graph.functions))
    limits.require("rules", len(graph.rules))
    limits.require("constants", len(graph.constants))
    limits.require("nodes", sum(len(function.nodes) for function in graph.functions))
    limits.require("values", sum(len(function.inputs) + sum(node.result_count for node in function.nodes) for function in graph.functions))
    limits.require("operands", sum(len(function.outputs) + sum(len(node.operands) for node in function.nodes) for function in graph.functions))


def _check_constant(constant: Constant, field: str, limits: Limits) -> None:
    tensor.check_type(constant.type, limits, reason=Reason.INVALID_GRAPH, field=f"{field}.tensor")
    if constant.data is None:
        try:
            constant_digest(constant)
        except Fault as fault:
            raise Fault(fault.reason, fault.message, field=f"{field}.tensor.blob") from fault
    elif (constant.data.dtype, constant.data.shape) != tensor.storage(constant.type):
        dtype, shape = tensor.storage(constant.type)
        message = f"elements of {constant.type} must be {dtype} of shape {shape}, got {constant.data.dtype} of shape {constant.data.shape}"
        raise _invalid(message, field=f"{field}.tensor")


def _check_function(graph: Graph, index: int, limits: Limits) -> Iterator[int]:
    """Checks a function and yields the functions that it calls, once per call."""
    function = graph.functions[index]
    for number, type_ in enumerate(function.inputs):
        tensor.check_type(type_, limits, reason=Reason.INVALID_GRAPH, field=f"functions[{index}].inputs[{number}]", place=Place(index))
    values = len(function.inputs)
    sound: set[Type] = set()
    for number, node in enumerate(function.nodes):
        place = Place(index, number, node.op[:64])
        op = TABLE.get(node.op)
        if op is None:
            raise unknown_op(node.op, place)
        _check_operands(graph, op, node, values, place)
        _check_results(node, limits, place, sound)
        if node.attrs or op.needs_attrs:
            yield from _check_attrs(graph, op, node, place)
        values += node.result_count
    for position, operand in enumerate(function.outputs):
        if not -len(graph.constants) <= operand < values:
            raise _invalid(f"output {position} is operand {operand}, but there are {_available(values, graph)}", place=Place(index))


def _check_operands(graph: Graph, op: Op, node: Node, values: int, place: Place) -> None:
    least, most = op.arity
    count = len(node.operands)
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        raise _invalid(f"{op.name} takes {wanted} operands, got {count}", place=place)
    for position, operand in enumerate(node.operands):
        if not -len(graph.constants) <= operand < values:
            raise _invalid(f"operand {position} is {operand}, but before this node there are {_available(values, graph)}", place=place)


def _check_results(node: Node, limits: Limits, place: Place, sound: set[Type]) -> None:
    """Checks what a node says of its results. Types in ``sound`` have passed before; those that pass now are added."""
    if node.result_count < 1:
        raise _invalid(f"a node yields at least one value, got result_count {node.result_count}", place=place)
    if node.result_types and len(node.result_types) != node.result_count:
        raise _invalid(f"result_types must be empty or one per result ({node.result_count}), got {len(node.result_types)}", place=place)
    for type_ in node.result_types:
        if type_ not in sound:
            tensor.check_type(type_, limits, reason=Reason.INVALID_GRAPH, place=place)
            sound.add(type_)


def _check_attrs(graph: Graph, op: Op, node: Node, place: Place) -> Iterator[int]:
    """Checks a node's attributes and yields the functions that they refer to, a rule's own function for a rule."""
    attrs = node.attrs
    for name in attrs:
        if name not in op.specs:
            raise unknown_attr(name, op, place)
    called: dict[str, list[int]] = {}
    for spec in op.attrs:
        value = attrs.get(spec.name, spec.default)
        if value is REQUIRED:
            raise _invalid(f"{op.name} needs attribute {spec.name!r}, {spec.kind.value}", place=place)
        if spec.name not in attrs or (value is None and spec.default is None):
            continue
        try:
            flat = flatten(spec, value)
        except Fault as fault:
            raise Fault(fault.reason, fault.message, place=place) from fault
        match spec.kind:
            case AttrKind.FUNCTION | AttrKind.FUNCTIONS:
                _check_indices(flat.ints, len(graph.functions), spec.name, "functions", place)
                called[spec.name] = list(flat.ints)
            case AttrKind.RULE:
                _check_indices(flat.ints, len(graph.rules), spec.name, "rules", place)
                called[spec.name] = [graph.rules[number].function for number in flat.ints]
            case AttrKind.DTYPE:
                tensor.check_type(Type(flat.strings[0]), reason=Reason.INVALID_GRAPH, place=place)
            case _:
                pass
    if op.references:
        _check_signatures(graph, op, node, called, place)
    for functions in called.values():
        yield from functions


def _check_indices(indices: Sequence[int], count: int, name: str, what: str, place: Place) -> None:
    for index in indices:
        if not 0 <= index < count:
            raise _invalid(f"attribute {name!r} refers to number {index} of the {count} {what} there are", place=place)


def _check_signatures(graph: Graph, op: Op, node: Node, called: dict[str, list[int]], place: Place) -> None:
    attrs = {spec.name: node.attrs.get(spec.name, spec.default) for spec in op.attrs}
    try:
        wanted = SIGNATURES[op.name](len(node.operands), node.result_count, attrs)
    except ValueError as error:
        raise _invalid(f"{op.name}: {error}", place=place) from error
    for name, functions in called.items():
        for function in functions:
            _require_signature(graph, function, wanted[name], f"attribute {name!r}", place=place)


def _check_rule(graph: Graph, rule: Rule, field: str) -> None:
    _require_index(graph, rule.function, f"{field}.function")
    base = _signature(graph.functions[rule.function])
    if len(rule.active) != base.inputs:
        message = f"must have one flag for each of the {base.inputs} inputs of function {rule.function}, got {len(rule.active)}"
        raise _invalid(message, field=f"{field}.active")
    derivative = rule.derivative
    match derivative:
        case str():
            pass
        case JvpRule(function, outputs, transposes):
            _require_index(graph, function, f"{field}.jvp.function")
            _require_positions(outputs, base.outputs, f"{field}.jvp.outputs")
            wanted = Signature(base.inputs + sum(rule.active), base.outputs + len(outputs))
            _require_signature(graph, function, wanted, "the rule", field=f"{field}.jvp.function")
            for number, transpose in enumerate(transposes):
                place = f"{field}.jvp.transposes[{number}]"
                _require_index(graph, transpose.function, f"{place}.function")
                _require_positions(transpose.inputs, base.inputs, f"{place}.inputs")
                wanted = Signature(base.inputs - len(transpose.inputs) + len(outputs), len(transpose.inputs))
                _require_signature(graph, transpose.function, wanted, "the transpose", field=f"{place}.function")
                if number and transposes[number - 1].inputs >= transpose.inputs:
                    message = f"must come after those of the transpose before, {list(transposes[number - 1].inputs[:8])}, in ascending order"
                    raise _invalid(f"{message}, got {list(transpose.inputs[:8])}", field=f"{place}.inputs")
        case VjpRule(forward, backward, inputs):
            _require_index(graph, forward, f"{field}.vjp.forward")
            _require_index(graph, backward, f"{field}.vjp.backward")
            _require_positions(inputs, base.inputs, f"{field}.vjp.inputs")
            residuals = len(graph.functions[forward].outputs) - base.outputs
            # Outputs of integer dtype have no cotangent; which those are is not known before types are inferred.
            cotangents = len(graph.functions[backward].inputs) - residuals
            if residuals < 0:
                message = f"function {forward} must return residuals and then the {base.outputs} outputs of function {rule.function}"
                raise _invalid(message, field=f"{field}.vjp.forward")
            if not 0 <= cotangents <= base.outputs:
                takes = f"takes {residuals + cotangents} inputs"
                message = f"function {backward} must take {residuals} residuals and then at most {base.outputs} cotangents, {takes}"
                raise _invalid(message, field=f"{field}.vjp.backward")
            _require_signature(graph, forward, Signature(base.inputs, residuals + base.outputs), "the rule", field=f"{field}.vjp.forward")
            _require_signature(graph, backward, Signature(residuals + cotangents, len(inputs)), "the rule", field=f"{field}.vjp.backward")
        case _:
            assert_never(derivative)


def _require_index(graph: Graph, function: int, field: str) -> None:
    if not 0 <= function < len(graph.functions):
        raise _invalid(f"refers to function {function} of {len(graph.functions)}", field=field)


def _require_positions(positions: Sequence[int], count: int, field: str) -> None:
    if any(not 0 <= position < count for position in positions) or any(a >= b for a, b in pairwise(positions)):
        raise _invalid(f"must be positions below {count} in ascending order, got {list(positions[:8])}", field=field)


def _require_signature(graph: Graph, function: int, wanted: Signature, who: str, *, field: str = "", place: Place | None = None) -> None:
    got = _signature(graph.functions[function])
    if got != wanted:
        has = f"function {function} has {got.inputs} and {got.outputs}"
        message = f"{who} needs a function of {wanted.inputs} inputs and {wanted.outputs} outputs; {has}"
        raise _invalid(message, field=field, place=place)


def _signature(function: Function) -> Signature:
    return Signature(len(function.inputs), len(function.outputs))


def _check_tree(tree: Tree, leaves: int, field: str, limits: Limits) -> None:
    stack, count = [(tree, 1)], 0
    while stack:
        node, depth = stack.pop()
        count += 1
        limits.require("tree_nodes", count + len(node.children))
        if depth > limits.tree_depth:
            raise Fault(Reason.TOO_LARGE, f"a tree may be {limits.tree_depth} levels deep", field=field)
        problem = _tree_problem(node)
        if problem:
            raise _invalid(f"{node.kind.name} {problem}", field=field)
        stack.extend((child, depth + 1) for child in node.children)
    if leaf_count(tree) != leaves:
        raise _invalid(f"must have one leaf for each of {leaves} arrays, has {leaf_count(tree)}", field=field)


def _tree_problem(tree: Tree) -> str:
    """Returns what is wrong with one container or leaf; empty if nothing is."""
    keys = tree.keys
    match tree.kind:
        case TreeKind.LEAF | TreeKind.NONE:
            return "must not have children, keys or a name" if tree.children or keys or tree.name else ""
        case TreeKind.TUPLE | TreeKind.LIST:
            return "must not have keys or a name" if keys or tree.name else ""
        case TreeKind.CUSTOM:
            return "must not have keys" if keys else ""
        case TreeKind.DICT:
            if tree.name or len(keys) != len(tree.children):
                return f"must have one key per child and no name, got {len(keys)} keys for {len(tree.children)} children"
            return "" if all(a < b for a, b in pairwise(keys)) else "must have its keys in ascending order, none twice"
        case TreeKind.NAMEDTUPLE:
            if len(keys) != len(tree.children) or len(set(keys)) != len(keys):
                return f"must have one field name per child, none twice, got {len(keys)} names for {len(tree.children)} children"
            # Readers make a class of them.
            return "" if all(word.isidentifier() and not iskeyword(word) for word in (tree.name, *keys)) else "must have identifiers as names"
        case _:
            assert_never(tree.kind)


def _available(values: int, graph: Graph) -> str:
    return f"{values} values (0 to {values - 1}) and {len(graph.constants)} constants (-1 to {-len(graph.constants)})"


def _invalid(message: str, *, field: str = "", place: Place | None = None) -> Fault:
    return Fault(Reason.INVALID_GRAPH, f"{field}: {message}" if field else message, field=field, place=place)
