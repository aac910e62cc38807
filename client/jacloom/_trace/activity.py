"""Which values of a jaxpr a tangent can reach.

Custom rules are traced for the inputs that are really perturbed: many rules refuse others, and some give a wrong derivative
when told that nothing is perturbed. The analysis is forward, over-approximate and exact enough for rules: a value is active
if it is inexact and some active value flows into it through an op whose derivative is not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.extend import core

from jacloom._trace.types import inexact
from jacloom_graph.ops import TABLE

Flags = tuple[bool, ...]


class Activity:
    """Activity of jaxprs, remembered per (jaxpr, active inputs) for one trace."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Flags], tuple[frozenset[Any], Flags]] = {}
        self._alive: list[Any] = []  # a jaxpr's id is its key, so it must not be freed and its id reused

    def inside(self, jaxpr: core.Jaxpr, active: Flags) -> frozenset[Any]:
        """Returns the active variables of a jaxpr whose inputs are active as flagged."""
        return self._analyse(jaxpr, active)[0]

    def outputs(self, jaxpr: core.Jaxpr, active: Flags) -> Flags:
        """Returns which outputs of a jaxpr are active, given which inputs are."""
        return self._analyse(jaxpr, active)[1]

    def carries(self, jaxpr: core.Jaxpr, constants: Flags, carries: Flags, slices: Flags = ()) -> Flags:
        """Returns which carries of a loop body are active once activity has gone round the loop."""
        while True:
            found = self.outputs(jaxpr, (*constants, *carries, *slices))[: len(carries)]
            widened = tuple(old or new for old, new in zip(carries, found, strict=True))
            if widened == carries:
                return carries
            carries = widened

    def _analyse(self, jaxpr: core.Jaxpr, active: Flags) -> tuple[frozenset[Any], Flags]:
        key = (id(jaxpr), active)
        if key not in self._known:
            self._alive.append(jaxpr)
            variables = {var for var, flag in zip(jaxpr.invars, active, strict=True) if flag and inexact(var.aval)}
            for eqn in jaxpr.eqns:
                flags = tuple([not isinstance(atom, core.Literal) and atom in variables for atom in eqn.invars])
                if True in flags:
                    found = self.through(eqn, flags)
                    variables.update([var for var, flag in zip(eqn.outvars, found, strict=True) if flag and inexact(var.aval)])
            outputs = tuple(not isinstance(atom, core.Literal) and atom in variables for atom in jaxpr.outvars)
            self._known[key] = (frozenset(variables), outputs)
        return self._known[key]

    def through(self, eqn: core.JaxprEqn, flags: Flags) -> Flags:
        """Returns which results of an equation are active, given which of its operands are."""
        name = eqn.primitive.name
        rule = _RULES.get(name)
        if rule is not None:
            return rule(self, eqn.params, flags)
        reached = name not in _CONSTANT and True in flags
        return (reached,) * len(eqn.outvars)


_CONSTANT = frozenset(name.replace("_", "-") for name, op in TABLE.items() if op.zero_derivative) | {
    name for name, op in TABLE.items() if op.zero_derivative
}
"""Primitives whose derivative is zero everywhere; some names of JAX's have hyphens where the table's have underscores."""


_Rule = Callable[[Activity, Mapping[str, Any], Flags], Flags]


def _call(activity: Activity, params: Mapping[str, Any], flags: Flags) -> Flags:
    return activity.outputs(open_jaxpr(callee(params)), flags)


def callee(params: Mapping[str, Any]) -> Any:
    """Returns the jaxpr that a call evaluates; JAX has three names for it."""
    return next(params[name] for name in ("jaxpr", "call_jaxpr", "call") if name in params)


def _scan(activity: Activity, params: Mapping[str, Any], flags: Flags) -> Flags:
    constants, carries, slices = split(flags, *scan_counts(params))
    carries = activity.carries(open_jaxpr(params["jaxpr"]), constants, carries, slices)
    return activity.outputs(open_jaxpr(params["jaxpr"]), (*constants, *carries, *slices))


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """Returns how many of a scan's operands are constants and how many are carries."""
    if "ft_in" in params:  # JAX 0.11 keeps the three groups of operands in one record
        constants, carries, _ = params["ft_in"].unpack()
        return len(constants), len(carries)
    return params["num_consts"], params["num_carry"]


def _while(activity: Activity, params: Mapping[str, Any], flags: Flags) -> Flags:
    _, constants, carries = split(flags, params["cond_nconsts"], params["body_nconsts"])
    return activity.carries(open_jaxpr(params["body_jaxpr"]), constants, carries)


def _cond(activity: Activity, params: Mapping[str, Any], flags: Flags) -> Flags:
    found = [activity.outputs(open_jaxpr(branch), flags[1:]) for branch in params["branches"]]
    return tuple(any(column) for column in zip(*found, strict=True))


def _optimization_barrier(activity: Activity, params: Mapping[str, Any], flags: Flags) -> Flags:
    return flags


_RULES: Mapping[str, _Rule] = {
    "jit": _call,
    "pjit": _call,
    "closed_call": _call,
    "composite": _call,
    "core_call": _call,
    "eval_jaxpr": _call,
    "custom_vmap_call": _call,
    "remat2": _call,
    "checkpoint": _call,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "optimization_barrier": _optimization_barrier,
}


def open_jaxpr(jaxpr: Any) -> core.Jaxpr:
    """Returns the jaxpr of a closed jaxpr, or the jaxpr itself."""
    opened: core.Jaxpr = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    return opened


def split(flags: Sequence[Any], *counts: int) -> tuple[tuple[Any, ...], ...]:
    """Returns ``flags`` cut into parts of the given lengths, and the rest."""
    parts, at = [], 0
    for count in counts:
        parts.append(tuple(flags[at : at + count]))
        at += count
    return (*parts, tuple(flags[at:]))
