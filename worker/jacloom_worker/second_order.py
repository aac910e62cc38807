"""Second derivatives: whether forward mode goes through the derivative in reverse, and what to do where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import jax
import jax.numpy as jnp

from jacloom_graph.errors import Fault, NotRecorded, Reason
from jacloom_worker import kernels
from jacloom_worker.faults import explain
from jacloom_worker.infer import abstract, struct
from jacloom_worker.kernels import Subject
from jacloom_worker.modes import WAYS_OUT, live
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.refusals import LOOP

KINDS: Final = frozenset({Kind.HVP, Kind.HESSIAN})
"""The kinds that differentiate a derivative forward."""
_SUM: Final = "lambda x: sum(jnp.sum(w * y) for w, y in zip(jax.tree.leaves(weights), jax.tree.leaves(f(x))))"
_VARIANT: Final = "a variant of the function that supports forward mode"


def refusal(subject: Subject, kernel: Kernel) -> Fault | None:
    """Returns why there is no second derivative of a kernel's kind, and what to do instead; None if there is one. Nothing is compiled."""
    try:
        live(kernels.traced(subject, kernel))
    except Exception as error:
        return advised(subject, kernel, explain(error))
    return None


def advised(subject: Subject, kernel: Kernel, fault: Fault) -> Fault:
    """Returns the fault of a second derivative, as one that says what to do where forward mode does not go through the first derivative.

    A function with a reverse rule only has first derivatives, of which a rule that calls the function itself again has none forward. Whether it
    has them in reverse is found out by tracing that.
    """
    if fault.reason is not Reason.MODE_UNAVAILABLE or isinstance(fault, NotRecorded) or kernel.inner == "forward":
        return fault
    slope = "grad" if [subject.outputs[index].shape for index in kernel.outputs] == [()] else "jacrev"
    product = f" or client.vjp(jax.{slope}(f), ...) for a product" if kernel.kind is Kind.HVP else ""
    summed = "" if slope == "grad" else f", with weights client.jacobian(jax.grad({_SUM}), mode='reverse')"
    way = f"client.jacobian(jax.{slope}(f), mode='reverse'){product}{summed}, or {_VARIANT}"
    match _twice_in_reverse(subject, kernel):
        case True:
            advice = f"in reverse twice there is one: use {way}"
        case None:
            advice = f"in reverse twice JAX stops at a loop of unknown length, through which the service goes back: try {way}"
        case False:
            advice = f"in reverse twice there is none either: use {_VARIANT}"
    why = fault.message.removesuffix(f"; {WAYS_OUT}")
    return Fault(fault.reason, f"there is no second derivative forward over reverse: {why}; {advice}", place=fault.place)


def _twice_in_reverse(subject: Subject, kernel: Kernel) -> bool | None:
    """Returns whether JAX's own reverse derivative of a function has one itself; None where a loop is in the way, which here is not."""
    # Loops as JAX has them: of the gradient that the caller traces JAX makes the first derivative, and the service only the second.
    plain, rows = replace(subject, reversible=None), Kernel("", Kind.VJP, kernel.wrt, kernel.outputs)
    once = kernels.computation(plain, rows)

    def twice(constants: Sequence[jax.Array], *arguments: jax.Array) -> Sequence[jax.Array]:
        def slopes(*active: jax.Array) -> list[jax.Array]:
            given = dict(zip(kernel.wrt, active, strict=True))
            return once.call(constants, *(given.get(index, argument) for index, argument in enumerate(arguments)))

        results, pullback = jax.vjp(slopes, *(arguments[index] for index in kernel.wrt))
        rows: Sequence[jax.Array] = pullback([jnp.ones_like(result) for result in results])
        return rows

    try:
        live(kernels.traced(plain, rows))
    except Exception:  # whatever JAX or a rule raises, it says that there is none
        return False
    try:
        live(jax.make_jaxpr(twice)(abstract(once.constants), *map(struct, once.arguments)))
    except Exception as error:  # as above
        return None if LOOP in str(error) else False
    return True
