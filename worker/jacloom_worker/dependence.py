"""Which inputs the outputs of a function depend on, and which with a derivative: found by tracing, whatever the values are."""

from __future__ import annotations

from collections.abc import Sequence

from jacloom_graph.errors import Fault
from jacloom_worker import kernels
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Kernel, Kind
from jacloom_worker.pruning import needed


def unused(subject: Subject) -> tuple[int, ...]:
    """Returns the input leaves that no output depends on."""
    used = _used(subject, Kernel("", Kind.VALUE, values=tuple(range(len(subject.outputs)))))[: len(subject.inputs)]
    return tuple(leaf for leaf, needed in enumerate(used) if not needed)


def constant(subject: Subject, wrt: Sequence[int], outputs: Sequence[int]) -> tuple[int, ...]:
    """Returns those of some input leaves along which the derivative of all outputs is zero by the structure of the function.

    They may be used all the same, by operations like ``floor`` and comparisons. Empty where the function has no forward derivative to be traced.
    """
    try:
        used = _used(subject, Kernel("", Kind.JVP, tuple(wrt), tuple(outputs)))[len(subject.inputs) :]
    except Fault:
        return ()
    return tuple(leaf for leaf, needed in zip(wrt, used, strict=True) if not needed)


def _used(subject: Subject, kernel: Kernel) -> Sequence[bool]:
    """Returns which arguments of a kernel its results depend on: input leaves, then seeds."""
    return needed(kernels.traced(subject, kernel).jaxpr)[len(subject.constants) :]
