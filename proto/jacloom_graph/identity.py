"""The canonical form of a graph, and the id that follows from it.

Functions and rules refer to each other, and a rule may refer back to the function it belongs to, so "equal content" is defined
coinductively: two functions are one unless some path of references tells them apart. In the canonical form

- equal functions, rules and constants are one, and what the entry does not reach is dropped;
- functions and rules are numbered depth-first from the entry in order of first encounter: nodes in order, attributes in the order of
  the op table; in a rule its function, then the functions of its derivative;
- constants are numbered in the order in which the functions, in their new order, use them;
- attributes equal to their defaults are left out.

The id is the SHA-256 of the encoding in ``jacloom_graph.encoding``. It does not depend on process, hash seed, machine, or the versions
of what wrote the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jacloom_graph import blobnames
from jacloom_graph.attrs import AttrKind, AttrSpec, flatten
from jacloom_graph.encoding import Known, Text, function_text, graph_bytes, rule_text
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.ops import TABLE
from jacloom_graph.partition import coarsest
from jacloom_graph.tensor import raw
from jacloom_graph.types import AttrValue, Constant, Function, Graph, JvpRule, Node, Rule, TransposeRule, Type, VjpRule


@dataclass(frozen=True, slots=True)
class Canonical:
    """A graph in canonical form, its id, and where its functions came from."""

    graph: Graph
    id: str
    """64 hex digits."""
    functions: tuple[int | None, ...]
    """For each function of the original its number in ``graph``, or None if the entry does not reach it. Nodes keep their numbers."""


def graph_id(graph: Graph) -> str:
    """Returns the id of a graph, 64 hex digits; arguments and errors as for ``canonicalize``."""
    return canonicalize(graph).id


def canonicalize(graph: Graph) -> Canonical:
    """Returns the canonical form of a graph whose references are in range (see ``check``), its id, and the new numbers of its functions.

    Where functions that become one differ in name or declared types, those of the function met first stay; of constants that become one
    it is one with elements.

    Raises:
        Fault: UNSUPPORTED_OP or INVALID_GRAPH for a node that the op table does not describe, INVALID_GRAPH for a constant that has neither
            elements nor a blob named by digest.
    """
    constants, digests, constant_of = _share(graph.constants)
    known: Known = {}
    functions = [function_text(index, function, known) for index, function in enumerate(graph.functions)]
    rules = [rule_text(rule) for rule in graph.rules]
    for text in functions:
        text.constants = [constant_of[constant] for constant in text.constants]

    # One automaton for both: its states are the functions, then the rules.
    count = len(functions)
    kinds = [(Function, text.body, *text.constants) for text in functions] + [(Rule, text.body) for text in rules]
    edges = [[number if kind is not AttrKind.RULE else count + number for kind, number in text.references] for text in (*functions, *rules)]
    classes = coarsest(kinds, edges)
    order = _depth_first(classes, edges)
    kept_functions = [state for state in order if state < count]
    kept_rules = [state - count for state in order if state >= count]
    used = list(dict.fromkeys(constant for index in kept_functions for constant in functions[index].constants))

    number_of_class = {classes[state]: number for number, state in enumerate(kept_functions)}
    number_of_class |= {classes[count + index]: number for number, index in enumerate(kept_rules)}
    number_of_constant = {constant: number for number, constant in enumerate(used)}
    numbers = _Numbers(
        functions={index: number_of_class[classes[index]] for index in range(count) if classes[index] in number_of_class},
        rules={index: number_of_class[classes[count + index]] for index in range(len(rules)) if classes[count + index] in number_of_class},
        constants={index: number_of_constant[constant] for index, constant in enumerate(constant_of) if constant in number_of_constant},
    )
    result = Graph(
        functions=tuple(numbers.function(graph.functions[index], functions[index]) for index in kept_functions),
        rules=tuple(numbers.rule(graph.rules[index]) for index in kept_rules),
        constants=tuple(constants[constant] for constant in used),
        in_tree=graph.in_tree,
        out_tree=graph.out_tree,
        opset=graph.opset,
        producer=graph.producer,
    )
    encoded = graph_bytes(
        result,
        [numbers.text(functions[index], number_of_constant) for index in kept_functions],
        [numbers.text(rules[index], number_of_constant) for index in kept_rules],
        [digests[constant] for constant in used],
    )
    return Canonical(result, hashlib.sha256(encoded).hexdigest(), tuple(numbers.functions.get(index) for index in range(count)))


def constant_digest(constant: Constant) -> bytes:
    """Returns the SHA-256 of a constant's elements as on the wire, 32 bytes.

    Raises:
        Fault: INVALID_GRAPH if there are neither elements nor a blob named by digest.
    """
    if constant.digest:
        return constant.digest
    if constant.data is not None:
        return hashlib.sha256(raw(constant.data)).digest()
    digest = blobnames.digest_of(constant.blob)
    if digest is None:
        raise Fault(Reason.INVALID_GRAPH, f'a constant must have elements or a blob named "blobs/sha256:<64 hex digits>", got {constant.blob[:96]!r}')
    return bytes.fromhex(digest)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """New numbers by old, for what stays."""

    functions: Mapping[int, int]
    rules: Mapping[int, int]
    constants: Mapping[int, int]

    def text(self, text: Text, constants: Mapping[int, int]) -> Text:
        references = [(kind, (self.rules if kind is AttrKind.RULE else self.functions)[number]) for kind, number in text.references]
        return Text(text.body, [constants[constant] for constant in text.constants], references)

    def function(self, function: Function, text: Text) -> Function:
        nodes = tuple(self._node(node, attrs) for node, attrs in zip(function.nodes, text.attrs, strict=True))
        return Function(function.name, function.inputs, nodes, self._operands(function.outputs))

    def rule(self, rule: Rule) -> Rule:
        derivative = rule.derivative
        if isinstance(derivative, JvpRule):
            transposes = tuple(TransposeRule(self.functions[transpose.function], transpose.inputs) for transpose in derivative.transposes)
            derivative = JvpRule(self.functions[derivative.function], derivative.outputs, transposes)
        elif isinstance(derivative, VjpRule):
            derivative = VjpRule(self.functions[derivative.forward], self.functions[derivative.backward], derivative.inputs)
        return Rule(self.functions[rule.function], rule.active, derivative)

    def _node(self, node: Node, attrs: Mapping[str, AttrValue]) -> Node:
        references = TABLE[node.op].references if attrs else ()
        operands = self._operands(node.operands)
        if not references and operands is node.operands and len(attrs) == len(node.attrs):
            return node
        renumbered = dict(attrs)
        for spec in references:
            if spec.name in attrs:
                renumbered[spec.name] = self._reference(spec, attrs[spec.name])
        return Node(node.op, operands, renumbered, node.result_count, node.result_types)

    def _reference(self, spec: AttrSpec, value: AttrValue) -> AttrValue:
        numbers = self.rules if spec.kind is AttrKind.RULE else self.functions
        old = flatten(spec, value).ints
        return tuple(numbers[index] for index in old) if spec.kind is AttrKind.FUNCTIONS else numbers[old[0]]

    def _operands(self, operands: tuple[int, ...]) -> tuple[int, ...]:
        if min(operands, default=0) >= 0:
            return operands
        return tuple(operand if operand >= 0 else -1 - self.constants[-1 - operand] for operand in operands)


def _share(constants: Sequence[Constant]) -> tuple[list[Constant], list[bytes], list[int]]:
    """Returns the distinct constants, their digests, and for each constant given which of them it is."""
    number: dict[tuple[Type, bytes], int] = {}
    distinct: list[Constant] = []
    digests: list[bytes] = []
    which: list[int] = []
    for constant in constants:
        digest = constant_digest(constant)
        at = number.setdefault((constant.type, digest), len(distinct))
        which.append(at)
        if at == len(distinct):
            distinct.append(constant if constant.digest else constant.digested(digest))
            digests.append(digest)
        elif distinct[at].data is None:
            distinct[at] = constant.digested(digest)
    return distinct, digests, which


def _depth_first(classes: Sequence[int], edges: Sequence[Sequence[int]]) -> list[int]:
    """Returns the state met first of each class that state 0 reaches, in order of first encounter."""
    met: set[int] = set()
    order: list[int] = []
    stack = [0]
    while stack:
        state = stack.pop()
        if classes[state] not in met:
            met.add(classes[state])
            order.append(state)
            stack.extend(reversed(edges[state]))
    return order
