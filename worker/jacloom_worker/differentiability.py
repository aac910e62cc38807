"""In which modes a function can be differentiated, leaf by leaf: found by tracing derivatives, never by compiling or computing any."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from jacloom_graph.errors import Fault, NotRecorded, Reason
from jacloom_graph.tensor import INEXACT
from jacloom_worker import kernels, modes, requirements
from jacloom_worker.faults import explain
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Availability, DerivativeReport, Kernel, Kind, LeafModes
from jacloom_worker.pruning import pruned

MOST_TRACES: Final = 64
"""Derivatives traced for one mode. What is not decided then stays open: whoever asks keeps the process that reads graphs from reading others."""
MOST_SECONDS: Final = 5.0
"""Seconds for one mode after which no further trace is begun, except for the first: large functions take most of a second each."""

_AVAILABLE: Final = Availability(True)
_NOT_REFUSALS: Final = frozenset({Reason.INTERNAL, Reason.OUT_OF_MEMORY, Reason.INVALID_OPTION})
"""Faults that say nothing about the function."""


def derivatives(subject: Subject, most: int = MOST_TRACES, seconds: float = MOST_SECONDS) -> DerivativeReport:
    """Returns in which modes all differentiable outputs can be differentiated with respect to each input leaf by itself.

    Each mode is asked for all leaves at once. Only if that is refused, halves of them are asked for by themselves, then halves of those: with fewer
    leaves perturbed, nothing is refused that was not refused before. So ``n`` leaves cost two traces where all is well, and each leaf that is not
    costs about ``2 log2(n)`` more. Where a function without a JVP is the reason, one trace mostly tells which leaves reach it.

    Args:
        subject: The function; of its constants only types matter.
        most: Traces for one mode, at least 1.
        seconds: Time for one mode, after which the first trace is the last.

    Raises:
        Fault: What tells nothing about the function, such as a want of memory.
    """
    outputs = tuple(leaf for leaf, type_ in enumerate(subject.outputs) if type_.dtype in INEXACT)
    forward, traced_forward = _mode(subject, Kind.FORWARD, outputs, most, seconds)
    reverse, traced_reverse = _mode(subject, Kind.REVERSE, outputs, most, seconds)
    leaves = tuple(LeafModes(*each) for each in zip(forward, reverse, strict=True))
    return DerivativeReport(leaves, outputs, traced_forward + traced_reverse)


def _mode(subject: Subject, kind: Kind, outputs: tuple[int, ...], most: int, seconds: float) -> tuple[list[Availability], int]:
    """Returns one answer per input leaf, and the traces that they took."""
    found: dict[int, Availability] = {}
    for leaf in range(len(subject.inputs)):
        refusal = _convention(subject, kind, leaf, outputs)
        if refusal is not None:
            found[leaf] = Availability(False, refusal)
    traces, until = 0, time.monotonic() + seconds
    asked: list[tuple[Sequence[int], Fault | None]] = [([leaf for leaf in range(len(subject.inputs)) if leaf not in found], None)]
    while asked:
        group, before = asked.pop()
        if not group:
            continue
        if before is not None and (traces >= most or time.monotonic() > until):
            text = f"not found out for this leaf by itself in {traces} traces for it and others; for some of them: {before.message}"
            found |= dict.fromkeys(group, Availability(None, Fault(before.reason, text, place=before.place)))
            continue
        traces += 1
        refusal, refused = _asked(subject, kind, tuple(group), outputs)
        if refusal is None:
            found |= dict.fromkeys(group, _AVAILABLE)
        elif refused or len(group) == 1:
            found |= {leaf: _refused(refusal) if leaf in refused or len(group) == 1 else _AVAILABLE for leaf in group}
        else:
            half = len(group) // 2
            asked += [(group[half:], refusal), (group[:half], refusal)]
    return [found[leaf] for leaf in range(len(subject.inputs))], traces


def _convention(subject: Subject, kind: Kind, leaf: int, outputs: tuple[int, ...]) -> Fault | None:
    """Returns why a derivative cannot be, whatever the function computes: because of its types."""
    type_ = subject.inputs[leaf]
    if type_.dtype not in INEXACT:
        return Fault(Reason.MODE_UNAVAILABLE, f"no derivative: {type_.dtype}")
    if not outputs:
        return Fault(Reason.MODE_UNAVAILABLE, "no derivative: none of the outputs is floating-point or complex")
    try:
        requirements.check(Kernel("", kind, (leaf,), outputs, width=1), subject.inputs, subject.outputs)
    except Fault as fault:
        return fault
    return None


def _asked(subject: Subject, kind: Kind, leaves: tuple[int, ...], outputs: tuple[int, ...]) -> tuple[Fault | None, frozenset[int]]:
    """Returns why a derivative is refused, or None, and which of the leaves are to blame by themselves; none where one trace does not tell."""
    single = Kind.JVP if kind is Kind.FORWARD else Kind.VJP
    try:
        jaxpr = pruned(kernels.traced(subject, Kernel("", single, leaves, outputs)).jaxpr)
    except Exception as error:
        fault = explain(error)
        if fault.reason in _NOT_REFUSALS:
            raise fault from error
        return fault, frozenset()
    refusal = modes.reverse_only(jaxpr)
    if refusal is None:
        return None, frozenset()
    flags = modes.reaching_reverse_only(jaxpr) if single is Kind.JVP else None
    if flags is None:
        return refusal, frozenset()
    seeds = flags[len(flags) - len(leaves) :]
    return refusal, frozenset(leaf for leaf, flag in zip(leaves, seeds, strict=True) if flag)


def _refused(refusal: Fault) -> Availability:
    """Returns what a refusal says of a leaf: a rule that this graph does not have may be there where the function is traced for the leaf."""
    return Availability(None if isinstance(refusal, NotRecorded) else False, refusal)
