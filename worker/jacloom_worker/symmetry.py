"""Whether second derivatives are symmetric whatever the point, by the operations of a function.

What JAX makes of its own operations is symmetric: a gradient's derivative is that of the function's. Where a person wrote the derivative it may be
anything. A gradient that is clipped, say, is the gradient of no function.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, jaxprs_in_params

from jacloom_worker import gradients, kernels
from jacloom_worker.kernels import Subject
from jacloom_worker.modes import rule_of
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.pruning import pruned

_WRITTEN: Final = {
    "custom_jvp_call": "a custom rule",
    "custom_vjp_call": "a custom rule",
    "linear_rules": "a custom rule",
    # Its solver is anyone's, and may stop early.
    "custom_linear_solve": "a linear solve",
    # These look at one triangle of their operand, and are differentiated as if both were alike.
    "cholesky": "a Cholesky factorization",
    "eigh": "eigenvalues",
}
"""Operations after which second derivatives may be asymmetric, in the user's words."""
_CALLS: Final = frozenset({"jit", "pjit", "closed_call", "remat2", "checkpoint"})


@dataclass(frozen=True, eq=False)
class Suspect:
    """An operation after which second derivatives may be asymmetric."""

    jaxpr: Jaxpr
    """Its equation alone. The inputs are what that takes, each once."""
    active: tuple[int, ...]
    """The inputs that are differentiated."""

    @property
    def named(self) -> str:
        """What it is, in the user's words."""
        return _WRITTEN[self.jaxpr.eqns[0].primitive.name]

    @property
    def key(self) -> Hashable:
        """Equal of calls by the same rule of the graph with operands of the same types: one is looked at for all."""
        (eqn,) = self.jaxpr.eqns
        rule = rule_of(eqn)
        numbers = {var: at for at, var in enumerate(self.jaxpr.invars)}
        operands = tuple(numbers[atom] if isinstance(atom, Var) else str(atom) for atom in eqn.invars)
        return id(eqn) if rule is None else rule, operands, tuple(str(var.aval) for var in self.jaxpr.invars), self.active

    def harmless(self) -> bool:
        """Returns whether second derivatives are symmetric all the same."""
        if self.jaxpr.eqns[0].primitive.name != "custom_jvp_call":
            return False
        avals: list[Any] = [var.aval for var in self.jaxpr.invars]
        types = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        return gradients.symmetric(jaxpr_as_fun(ClosedJaxpr(self.jaxpr, [])), types, self.active)


def suspects(subject: Subject, kernel: Kernel) -> list[Suspect]:
    """Returns the operations between a function's differentiated leaves and outputs after which second derivatives may be asymmetric.

    Args:
        subject: The function.
        kernel: Names the leaves and outputs.
    """
    closed = kernels.traced(subject, Kernel("", Kind.VALUE, values=kernel.outputs))
    first = len(subject.constants)
    found: list[Suspect] = []
    _walk(pruned(closed.jaxpr), [place - first in kernel.wrt for place in range(len(closed.in_avals))], found)
    return found


def doubt(found: Sequence[Suspect]) -> str:
    """Returns why second derivatives may be asymmetric, in the user's words; empty if they are symmetric."""
    bad = next((suspect for suspect in {suspect.key: suspect for suspect in found}.values() if not suspect.harmless()), None)
    return "" if bad is None else f"symmetry is not known after {bad.named}"


def _walk(jaxpr: Jaxpr, flags: Sequence[bool], found: list[Suspect]) -> list[bool]:
    """Collects suspects; returns which outputs tangents reach, given which inputs they start from."""
    moving = {var for var, flag in zip(jaxpr.invars, flags, strict=True) if flag and _inexact(var)}
    for eqn in _handing_on(jaxpr):
        active = [isinstance(operand, Var) and operand in moving for operand in eqn.invars]
        if not any(active):
            continue
        reached = _through(eqn, active, jaxpr, found)
        moving.update(out for out, flag in zip(eqn.outvars, reached, strict=True) if flag and _inexact(out))
    return [isinstance(out, Var) and out in moving for out in jaxpr.outvars]


def _handing_on(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """Returns the equations through which tangents reach an output. What is rounded, compared or stopped is a constant then."""
    wanted = {out for out in jaxpr.outvars if isinstance(out, Var) and _inexact(out)}
    found = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.primitive.name != "stop_gradient" and any(out in wanted for out in eqn.outvars):
            wanted.update(operand for operand in eqn.invars if isinstance(operand, Var) and _inexact(operand))
            found.append(eqn)
    return found[::-1]


def _through(eqn: JaxprEqn, active: list[bool], jaxpr: Jaxpr, found: list[Suspect]) -> list[bool]:
    """Returns which results of an equation tangents reach."""
    name, everything = eqn.primitive.name, [True] * len(eqn.outvars)
    if name in _WRITTEN:
        found.append(_suspect(eqn, active, jaxpr))
        return everything
    bodies = list(jaxprs_in_params(eqn.params))
    if name in _CALLS:
        return _walk(bodies[0], active, found)
    if name == "cond":
        branches = [_walk(body, active[1:], found) for body in bodies]
        return [any(flags) for flags in zip(*branches, strict=True)]
    for body in bodies:
        # Round after round, what enters a loop may reach anything in it.
        _walk(body, [True] * len(body.invars), found)
    return everything


def _suspect(eqn: JaxprEqn, active: Sequence[bool], jaxpr: Jaxpr) -> Suspect:
    operands = {var: flag for var, flag in zip(eqn.invars, active, strict=True) if isinstance(var, Var)}
    names = jaxpr.debug_info.with_unknown_names()
    alone = jaxpr.replace(constvars=[], invars=list(operands), outvars=list(eqn.outvars), eqns=[eqn], effects=eqn.effects, debug_info=names)
    return Suspect(alone, tuple(place for place, flag in enumerate(operands.values()) if flag))


def _inexact(var: Any) -> bool:
    return bool(jax.dtypes.issubdtype(getattr(var.aval, "dtype", np.dtype(bool)), np.inexact))
