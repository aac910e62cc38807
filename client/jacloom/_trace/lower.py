"""The walk from jaxprs to the functions of a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np
from jax.extend import core
from jax.extend.core import primitives

from jacloom._trace.activity import Activity, Flags
from jacloom._trace.closures import variable, with_inputs
from jacloom._trace.fingerprint import ParameterNumbers
from jacloom._trace.known import KnownOperands, Specialised, known_operands
from jacloom._trace.once import Once
from jacloom._trace.params import attributes
from jacloom._trace.source import nearest_line, user_line
from jacloom._trace.types import Unrepresentable, constant, type_of
from jacloom._trace.uses import Uses
from jacloom_graph.attrs import REFERENCES, AttrKind
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.ops import TABLE
from jacloom_graph.types import AttrValue, Constant, Function, Node, Rule, Type


@dataclass
class Body:
    """A function being written: its nodes so far, and which operand each variable is."""

    inputs: tuple[Type, ...]
    env: dict[Any, int] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    """JAX's source information of each node."""
    alive: Set[Any] = frozenset()
    """The variables that a tangent can reach."""
    values: int = 0

    def __post_init__(self) -> None:
        self.values = len(self.inputs)

    def emit(self, op: str, operands: Sequence[int], attrs: Mapping[str, AttrValue], eqn: core.JaxprEqn) -> list[int]:
        """Adds the node that stands for an equation and returns the numbers of its results.

        An equation without results is there for an effect. What a graph cannot have was refused before; the rest has no node.
        """
        if not eqn.outvars:
            return []
        types = tuple([type_of(var.aval) for var in eqn.outvars])
        self.nodes.append(Node(op, tuple(operands), attrs, len(types), types))
        self.sources.append(eqn.source_info)
        first = self.values
        self.values += len(types)
        return [first] if len(types) == 1 else list(range(first, self.values))


class Lowering:
    """Functions, rules and constants of one graph while it is written."""

    def __init__(self, handlers: Mapping[str, Handler], otherwise: Handler, max_rule_order: int, specialise: bool = False) -> None:
        """Starts an empty graph.

        Args:
            handlers: How equations that hold functions are lowered, by the primitive's name.
            otherwise: What to do with a primitive that neither ``handlers`` nor the op table know.
            max_rule_order: How many times a custom rule that calls ever new functions is followed.
            specialise: Whether functions are written anew for the constants that they are called with, so that what is within can read them.
        """
        self.handlers = handlers
        self.otherwise = otherwise
        self.max_rule_order = max_rule_order
        self.specialise = specialise
        self.functions: list[Function | None] = []
        self.sources: list[list[Any]] = []
        self.rules: list[Rule | None] = []
        self.constants: list[Constant] = []
        self.notes: dict[str, None] = {}
        """What was dropped on the way, in order, each once."""
        self.checks: dict[int, str] = {}
        """Functions that stand for error checks that fail, by number, and what the check says; empty where that is not known."""
        self.activity = Activity()
        self.uses = Uses()
        self.once = Once()
        self.parameter_numbers: ParameterNumbers = {}
        self._specialised = Specialised()
        self._meant: dict[Any, Any] = {}
        """Of inputs that stand for variables further out, those variables."""
        self.open_rules: dict[object, int] = {}
        """Rules whose derivative is being lowered, by content: a call that comes back to one of them refers to it."""
        self.closed_rules: dict[object, int] = {}
        """Rules whose derivative has been lowered, by content and by the rules that were open around them."""
        self._constant_number: dict[object, int] = {}
        self._literals: dict[object, int] = {}
        self._attrs: dict[object, Mapping[str, AttrValue]] = {}
        self._function_number: dict[object, int] = {}
        self._alive: list[Any] = []  # keys hold ids, which must not be used again while they count

    def function(self, jaxpr: core.ClosedJaxpr | core.Jaxpr, active: Flags, name: str = "") -> int:
        """Returns the number of the function that a jaxpr becomes.

        Args:
            jaxpr: With its constants, or without any.
            active: One flag per input: can a tangent reach it?
            name: For people.

        Raises:
            Fault: UNSUPPORTED_OP if an equation has no counterpart in the op table.
        """
        closed = jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())
        # How deep in rules we are decides what a rule inside refuses, and where tangents go which transposes it has: both belong to the key.
        key = (id(closed.jaxpr), tuple(id(value) for value in closed.consts), active, len(self.open_rules), self.uses.inside(closed.jaxpr))
        if key not in self._function_number:
            self._alive.append(closed)
            self._function_number[key] = self._lower(closed, active, name)
        return self._function_number[key]

    def known(self, operands: Sequence[int]) -> KnownOperands:
        """Returns the arrays of those operands that are constants."""
        return known_operands(operands, self.constants)

    def called(self, jaxpr: core.ClosedJaxpr | core.Jaxpr, operands: Sequence[int]) -> core.ClosedJaxpr:
        """Returns what a call with these first operands evaluates: where functions are specialised, the constants are in it."""
        closed = jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else core.ClosedJaxpr(jaxpr, ())
        return self._specialised.of(closed, self.known(operands)) if self.specialise else closed

    def opened(self, program: core.ClosedJaxpr, values: Sequence[Any], at: int) -> core.ClosedJaxpr:
        """Returns a program that takes traced values as inputs from number ``at`` on; what is within may close over them still."""
        found = with_inputs(program, values, at)
        self._meant.update(zip(found.jaxpr.invars[at:], map(variable, values), strict=False))
        return found

    def remember(self, content: object, number: int, programs: Iterable[core.ClosedJaxpr]) -> None:
        """Keeps the number of a rule that is complete, and the programs whose parts its content names by their ids."""
        self._alive += programs
        self.closed_rules[content] = number

    def _lower(self, closed: core.ClosedJaxpr, active: Flags, name: str) -> int:
        number = len(self.functions)
        self.functions.append(None)
        self.sources.append([])
        jaxpr = closed.jaxpr
        body = Body(tuple(type_of(var.aval) for var in jaxpr.invars))
        body.env = {var: index for index, var in enumerate(jaxpr.invars)}
        if self._meant:
            body.env |= {self._meant[var]: index for index, var in enumerate(jaxpr.invars) if var in self._meant}
        for var, value in zip(jaxpr.constvars, closed.consts, strict=True):
            body.env[var] = self.constant(value, weak=bool(getattr(var.aval, "weak_type", False)))
        body.alive = self.activity.inside(jaxpr, active)
        env = body.env
        for eqn in jaxpr.eqns:
            operands = [self.operand(body, atom) if isinstance(atom, core.Literal) else env[atom] for atom in eqn.invars]
            results = self.equation(body, eqn, operands)
            env.update(zip(eqn.outvars, results, strict=True))
        outputs = tuple(self.operand(body, atom) for atom in jaxpr.outvars)
        self.functions[number] = Function(name, body.inputs, tuple(body.nodes), outputs)
        self.sources[number] = body.sources
        return number

    def operand(self, body: Body, atom: Any) -> int:
        """Returns the operand that a variable or literal is."""
        if not isinstance(atom, core.Literal):
            return body.env[atom]
        aval: Any = atom.aval
        weak, key = bool(getattr(aval, "weak_type", False)), None
        if getattr(atom.val, "dtype", None) == aval.dtype and aval.shape == ():
            # Every fourth operand is a literal, and most have been met before.
            key = aval.dtype, weak, np.asarray(atom.val).tobytes()
            known = self._literals.get(key)
            if known is not None:
                return known
        operand = self.constant(atom.val, weak=weak, dtype=aval.dtype)
        if key is not None:
            self._literals[key] = operand
        return operand

    def constant(self, value: Any, *, weak: bool, dtype: Any = None) -> int:
        """Returns the operand (below zero) that a constant is; equal scalars share one."""
        try:
            stored = constant(value if dtype is None or getattr(value, "dtype", None) == dtype else dtype.type(value), weak=weak)
        except Unrepresentable as error:
            raise Fault(Reason.UNSUPPORTED_OP, f"an array that the function closes over cannot be part of a graph: {error}") from error
        key: object = id(value) if stored.type.size > 1 or stored.data is None else (stored.type, stored.data.tobytes())
        if key not in self._constant_number:
            self._alive.append(value)
            self._constant_number[key] = len(self.constants)
            self.constants.append(stored)
        return -1 - self._constant_number[key]

    def equation(self, body: Body, eqn: core.JaxprEqn, operands: list[int]) -> list[int]:
        """Writes one equation into ``body`` and returns the operands that its results are."""
        handler = self.handlers.get(eqn.primitive.name)
        try:
            if handler is None:
                op = _plain(eqn.primitive)
                if op is not None:
                    return body.emit(op, operands, self._attributes(op, eqn.params), eqn)
                handler = self.otherwise
            # Nine equations in ten have no use for the flags.
            active = tuple(not isinstance(atom, core.Literal) and atom in body.alive for atom in eqn.invars)
            return handler(self, body, eqn, operands, active)
        except Unrepresentable as error:
            raise unsupported(eqn, str(error)) from error

    def _attributes(self, op: str, params: Mapping[str, Any]) -> Mapping[str, AttrValue]:
        """Returns the attributes of a plain op; the same object for the same parameters, so that they are converted, checked and encoded once."""
        if not params:
            return _NONE
        try:
            known = self._attrs.get(key := (op, *params.items()))
        except TypeError:  # a parameter without a hash
            return attributes(op, params)
        if known is None:
            known = attributes(op, params)
            if op not in _FLOATING:
                self._attrs[key] = known
        return known


_NONE: Final[Mapping[str, AttrValue]] = {}
_PLAIN = frozenset(name for name, op in TABLE.items() if not any(spec.kind in REFERENCES for spec in op.attrs))
"""Ops whose attributes are all data."""

_FLOATING = frozenset(name for name, op in TABLE.items() if any(spec.kind in (AttrKind.FLOAT, AttrKind.SCALAR) for spec in op.attrs))
"""Ops with attributes that may be floats: 0.0, -0.0 and 0 are equal, and not the same."""

_PUBLIC = {value.name: value for value in vars(primitives).values() if isinstance(value, core.Primitive)}
"""JAX's own primitives: a library may have one of the same name."""


@lru_cache(maxsize=4096)
def _plain(primitive: core.Primitive) -> str | None:
    """Returns the op whose attributes are all data that a primitive is, or None."""
    op = primitive.name.replace("-", "_")
    return op if op in _PLAIN and _PUBLIC.get(primitive.name, primitive) is primitive else None


Handler = Callable[[Lowering, Body, core.JaxprEqn, list[int], Flags], list[int]]
"""Writes one equation, given its operands and which of them are active, and returns the operands that its results are."""


def unsupported(eqn: core.JaxprEqn, reason: str) -> Fault:
    """Returns the error for an equation that cannot travel; it names the user's own line."""
    where = user_line(eqn.source_info) or nearest_line(eqn.source_info)
    place = f" at {where}" if where else ""
    return Fault(Reason.UNSUPPORTED_OP, f"{eqn.primitive.name}{place} cannot be part of a graph: {reason}")
