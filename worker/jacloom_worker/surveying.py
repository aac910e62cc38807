"""Which derivatives a function has, and what one pass of each costs: found by tracing, without compiling."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from jacloom_graph.errors import Fault, Reason
from jacloom_worker import kernels, requirements, second_order
from jacloom_worker.faults import explain
from jacloom_worker.kernels import Subject
from jacloom_worker.modes import live
from jacloom_worker.price import price
from jacloom_worker.protocol import Cost, Kernel, Kind, Survey

_LOOP_SWEEPS: Final = 2
"""How often a loop of unknown length is run for its rows: on the way there, and once more on the way back, unless it takes more steps than there are
checkpoints. A tile does so for all its rows: measured, 8 rows through 400 steps took as long as one."""


def survey(subject: Subject, wrt: tuple[int, ...], outputs: tuple[int, ...], holomorphic: bool = False, second: bool = False) -> Survey:
    """Returns the cost of a value, a JVP and a VJP; where there is none, why.

    Whether there are second derivatives is in doubt, and with ``second`` looked at, where the function has no JVP but a VJP: forward mode may go
    through that nevertheless, as what a rule computes mostly has a JVP although the function itself has not.

    Raises:
        Fault: INVALID_OPTION if ``wrt`` or ``outputs`` name leaves that are not there or have no derivatives; and what tracing the value finds wrong.
    """
    value = _cost(subject, Kernel("", Kind.VALUE, values=outputs))
    forward = _derivative(subject, Kernel("", Kind.FORWARD, wrt, outputs, width=1, holomorphic=holomorphic), Kind.JVP)
    reverse = _derivative(subject, Kernel("", Kind.REVERSE, wrt, outputs, width=1, holomorphic=holomorphic), Kind.VJP)
    if not (second and isinstance(forward, Fault) and isinstance(reverse, Cost)):
        return Survey(value, forward, reverse)
    tile = Kernel("", Kind.HESSIAN, wrt, outputs, width=1, holomorphic=holomorphic)
    return Survey(value, forward, reverse, second_order.refusal(subject, tile))


def _derivative(subject: Subject, tile: Kernel, single: Kind) -> Cost | Fault:
    try:
        requirements.check(tile, subject.inputs, subject.outputs)
        cost = _cost(subject, Kernel("", single, tile.wrt, tile.outputs))
    except Exception as error:
        fault = explain(error)
        if fault.reason is Reason.INVALID_OPTION:
            raise fault from error
        return fault
    if single is Kind.JVP or subject.reversible is None:
        return cost
    # How often a checkpointed loop takes its steps depends on how many there are, which its program does not say.
    value = _cost(subject, Kernel("", Kind.VALUE, values=tile.outputs))
    return replace(cost, shared_flops=_LOOP_SWEEPS * value.flops, shared_bytes=_LOOP_SWEEPS * value.bytes)


def _cost(subject: Subject, kernel: Kernel) -> Cost:
    traced = kernels.traced(subject, kernel)
    shared = len(subject.constants) + len(subject.inputs)
    seeds = len(traced.in_avals) - shared
    # Of the value every operation counts; of a derivative those that each seed repeats.
    varying = [kernel.kind is Kind.VALUE] * shared + [True] * seeds
    return price(live(traced), varying).cost
