"""Lowering of equations that hold functions: calls, loops, branches, custom rules, solves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jacloom._trace.activity import Flags, callee, open_jaxpr, scan_counts, split
from jacloom._trace.callbacks import check_text, is_passing_branch, is_raising_branch, lower_raising_branch, poisoning
from jacloom._trace.lower import Body, Handler, Lowering, unsupported
from jacloom._trace.params import attributes
from jacloom._trace.rules import MISSING_JVP, custom_jvp, custom_vjp
from jacloom._trace.source import nearest_line, user_line
from jacloom._trace.types import inexact, key_implementation
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.ops import TABLE
from jacloom_graph.types import AttrValue


def _call(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    function = lowering.function(lowering.called(callee(eqn.params), operands), active, str(eqn.params.get("name", "")))
    return body.emit("call", operands, {"function": function}, eqn)


def _checkpoint(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    attrs: dict[str, AttrValue] = {"function": lowering.function(lowering.called(eqn.params["jaxpr"], operands), active)}
    policy = eqn.params["policy"]
    if policy is not None:
        # Some policies are functions and some objects, which of them differs between versions of JAX; their public names do not.
        names = (name for name in TABLE["checkpoint"].specs["policy"].members if getattr(jax.checkpoint_policies, name) == policy)
        name = next(names, None)
        if name is not None:
            attrs["policy"] = name
        else:
            lowering.notes[f"checkpoint policy {getattr(policy, '__name__', policy)} was dropped: values are the same, memory may differ"] = None
    if not eqn.params["prevent_cse"]:
        attrs["prevent_cse"] = False
    return body.emit("checkpoint", operands, attrs, eqn)


def _scan(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    params = eqn.params
    counts = scan_counts(params)
    constants, carries, slices = split(active, *counts)
    carries = lowering.activity.carries(open_jaxpr(params["jaxpr"]), constants, carries, slices)
    function = lowering.function(lowering.called(params["jaxpr"], operands[: len(constants)]), (*constants, *carries, *slices))
    attrs: dict[str, AttrValue] = {"function": function, "length": int(params["length"])}
    found = {"num_consts": counts[0], "num_carry": counts[1], "reverse": bool(params["reverse"]), "unroll": int(params["unroll"])}
    specs = TABLE["scan"].specs
    attrs.update({name: value for name, value in found.items() if value != specs[name].default})
    return body.emit("scan", operands, attrs, eqn)


def _while(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    params = eqn.params
    tests, constants, carries = split(active, params["cond_nconsts"], params["body_nconsts"])
    carries = lowering.activity.carries(open_jaxpr(params["body_jaxpr"]), constants, carries)
    given, kept, _ = split(operands, len(tests), len(constants))
    attrs: dict[str, AttrValue] = {
        "cond": lowering.function(lowering.called(params["cond_jaxpr"], given), (*tests, *carries)),
        "body": lowering.function(lowering.called(params["body_jaxpr"], kept), (*constants, *carries)),
    }
    attrs.update({name: count for name, count in (("cond_consts", len(tests)), ("body_consts", len(constants))) if count})
    return body.emit("while", operands, attrs, eqn)


def _cond(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    raising = tuple(map(is_raising_branch, eqn.params["branches"]))
    passing = next(filter(is_passing_branch, eqn.params["branches"]), None)
    branches = tuple(
        lower_raising_branch(lowering, branch, passing) if raises else lowering.function(lowering.called(branch, operands[1:]), active[1:])
        for branch, raises in zip(eqn.params["branches"], raising, strict=True)
    )
    results = body.emit("switch", operands, {"branches": branches}, eqn)
    if not any(raising):
        return results
    alive = lowering.activity.through(eqn, active)
    poisoned = lowering.function(poisoning(eqn, raising), (False, *alive))
    lowering.checks[poisoned] = check_text(eqn.params["branches"][raising.index(True)])
    return body.emit("call", [operands[0], *results], {"function": poisoned}, eqn)


def _linear_solve(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    jaxprs, counts = eqn.params["jaxprs"], eqn.params["const_lengths"]
    parts = split(active, *counts)
    # The solution's activity is the right-hand side's or the operator's, so x and b count as active wherever they can.
    attrs: dict[str, AttrValue] = {"const_lengths": tuple(int(count) for count in counts)}
    given = split(operands, *counts)
    for name, constants, known in zip(("matvec", "vecmat", "solve", "transpose_solve"), parts[:4], given[:4], strict=True):
        jaxpr = getattr(jaxprs, name)
        if jaxpr is not None:
            rest = jaxpr.jaxpr.invars[len(constants) :]
            attrs[name] = lowering.function(lowering.called(jaxpr, known), (*constants, *(inexact(var.aval) for var in rest)))
    return body.emit("linear_solve", operands, attrs, eqn)


def _with_function(op: str, param: str, consts: str = "consts") -> Handler:
    """Lowers an op whose only function is a combiner, whose constants are in the parameter ``consts``."""

    def lower(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
        combiner = eqn.params[param]
        plain = {name: value for name, value in eqn.params.items() if name not in {param, consts}}
        attrs = dict(attributes(op, plain))
        if combiner is not None:
            if isinstance(combiner, core.Jaxpr):
                combiner = core.ClosedJaxpr(combiner, eqn.params.get(consts, ()))
            flags = (any(active),) * len(open_jaxpr(combiner).invars)
            attrs["function"] = lowering.function(combiner, flags)
        return body.emit(op, operands, attrs, eqn)

    return lower


def _alias(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Placement: the result is the operand."""
    return operands


def _empty(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """Any number will do: JAX fills in what the branch that was not taken would have kept for the backward pass, and never reads it."""
    aval: Any = eqn.outvars[0].aval
    dtype = aval.dtype
    value = jax.random.key(0, impl=key_implementation(dtype)) if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.zeros((), dtype)
    return [lowering.constant(value, weak=False)]


def _psum(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    """A sum over an axis of the operand, which is what ``vmap`` leaves of one over an axis that it names."""
    axes = eqn.params["axes"]
    if not all(isinstance(axis, int) for axis in axes):
        raise unsupported(eqn, _DEVICES)
    return body.emit("reduce_sum", operands, {"axes": tuple(axes)}, eqn)


def _random_seeded(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    return body.emit(eqn.primitive.name, operands, {"impl": str(eqn.params["impl"].name)}, eqn)


def _refuse(reason: str) -> Handler:
    def lower(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
        raise unsupported(eqn, reason)

    return lower


def _drop(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    lowering.notes[f"{eqn.primitive.name} was dropped: a graph has no access to this process; return the value to look at it"] = None
    return []


def _reverse_only(lowering: Lowering, body: Body, eqn: core.JaxprEqn, operands: list[int], active: Flags) -> list[int]:
    where = user_line(eqn.source_info) or nearest_line(eqn.source_info)
    raise Fault(
        Reason.MODE_UNAVAILABLE,
        f"forward mode, which jl.gauss_newton needs as jax.jvp and jax.jacfwd do, comes{f' at {where}' if where else ''} to a function that has a "
        "reverse rule only (jax.custom_vjp); give that function a forward rule (jax.custom_jvp), of which JAX makes the reverse one itself",
    )


_CALLBACK = "it calls back into this Python process; write it in jnp or jax.lax, or compute the value beforehand and pass it as an argument"
_COMPILED = "it is compiled code of this machine; use the operation's version in jnp, jax.lax or jax.scipy instead"
_STATE = "it changes state in place; return the new value instead"
_DEVICES = "it is tied to the devices of this process; the service places work itself"

STRUCTURED: Mapping[str, Handler] = {
    "jit": _call,
    "pjit": _call,
    "closed_call": _call,
    "core_call": _call,
    "eval_jaxpr": _call,
    "composite": _call,
    "custom_vmap_call": _call,
    "remat2": _checkpoint,
    "checkpoint": _checkpoint,
    "scan": _scan,
    "while": _while,
    "cond": _cond,
    "custom_linear_solve": _linear_solve,
    "custom_jvp_call": custom_jvp,
    "custom_vjp_call": custom_vjp,
    "reduce": _with_function("reduce", "jaxpr"),
    "reduce_window": _with_function("reduce_window", "jaxpr"),
    "scatter": _with_function("scatter", "update_jaxpr", "update_consts"),
    "empty2": _empty,
    "random_seed": _random_seeded,
    "random_wrap": _random_seeded,
    "device_put": _alias,
    "sharding_constraint": _alias,
    "layout_constraint": _alias,
    "reshard": _alias,
    "debug_callback": _drop,
    "debug_print": _drop,
    "inspect_sharding": _drop,
    "pure_callback": _refuse(_CALLBACK),
    "io_callback": _refuse(_CALLBACK),
    "ffi_call": _refuse(_COMPILED),
    "get": _refuse(_STATE),
    "swap": _refuse(_STATE),
    "addupdate": _refuse(_STATE),
    "new_ref": _refuse(_STATE),
    "shard_map": _refuse(_DEVICES),
    "psum": _psum,
    "axis_index": _refuse(_DEVICES),
    **dict.fromkeys(MISSING_JVP, _reverse_only),
}
"""How each equation that is not a plain op is lowered, by the primitive's name."""
