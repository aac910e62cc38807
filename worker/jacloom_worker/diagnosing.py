"""What is wrong with a function at a point: first whether anything is, by the same programs that compute it for users, then where it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Type
from jacloom_worker import dependence, origins
from jacloom_worker.infer import enter
from jacloom_worker.kernels import Subject
from jacloom_worker.observing import MOST_NODES, Observer
from jacloom_worker.origins import Sort
from jacloom_worker.protocol import Answer, Diagnosis, Done, Kernel, Kind, NonFinite, Task, Verdict
from jacloom_worker.raising import Program

_REFUSALS: Final = frozenset({Reason.MODE_UNAVAILABLE, Reason.OUT_OF_MEMORY, Reason.TOO_LARGE})
"""Faults of a derivative that are a finding about it; others are about the call."""


def diagnose(
    run: Callable[..., Answer], subject: Subject, program: Callable[[], Program], task: Task, arrays: Sequence[np.ndarray], most: int = MOST_NODES
) -> Diagnosis:
    """Returns what is not finite in a function's value and derivatives, and the operation where that begins.

    Only what reaches the outputs counts. An Inf that is used up on the way, as by a softmax over a mask of -inf, is no finding, and if the outputs
    are finite there is none. If one of them has a NaN, the finding is the first operation on the way to it that made a NaN of operands without
    any, with the origin of the Inf where it was made of one; if they only have Inf, the first that made an Inf of finite operands.

    Of the derivative the same is said for a JVP along a fixed dense direction. Where that is finite or does not exist, and a VJP is not finite,
    the finding is the first operation whose own derivative is not finite, as that of ``sqrt`` at 0: a ``where`` behind it drops what comes of that
    going forward, but in reverse it is a zero times an Inf. If its operands are not finite already, their origin is the finding.

    Args:
        run: Computes a task, as ``Engine.run``.
        subject: The function.
        program: Makes the program of the function, where it has to be looked into.
        task: Its kernel names the function, the leaves to differentiate and the outputs; of which kind it is does not matter.
        arrays: One per input leaf.
        most: Node evaluations after which loops are no longer watched.

    Raises:
        Fault: Whatever keeps the value from being computed.
    """
    wrt, outputs = task.kernel.wrt, task.kernel.outputs
    every = tuple(range(len(subject.outputs)))
    directions, weights = _dense([subject.inputs[leaf] for leaf in wrt]), _dense([subject.outputs[leaf] for leaf in outputs])
    forward = reverse = Verdict()
    values: tuple[np.ndarray, ...] | None = None
    derived: tuple[np.ndarray, ...] = ()
    pulled: tuple[np.ndarray, ...] = ()
    if wrt and outputs:
        forward, pushed = _verdict(run(_of(task, Kind.JVP, every), *arrays, *directions), outputs)
        if pushed:
            derived, values = pushed[: len(outputs)], pushed[len(outputs) :]
        reverse, pulled = _verdict(run(_of(task, Kind.VJP), *arrays, *weights), wrt)
    if values is None:
        values = _arrays(run(_of(task, Kind.VALUE, every), *arrays))
    failing = any(map(origins.census, values))
    unused = dependence.unused(subject)
    constant = dependence.constant(subject, wrt, outputs) if wrt and outputs else ()
    found = Diagnosis(None, None, forward, reverse, unused, tuple(leaf for leaf in constant if leaf not in unused))
    if not failing and forward.finite is not False and reverse.finite is not False:
        return found

    observer = Observer(program(), probing=reverse.finite is False and forward.finite is not False, most=most)
    tangents: dict[int, Any] = dict(zip(wrt, directions, strict=True)) if outputs else {}
    entered = [enter(type_, array) for type_, array in zip(subject.inputs, arrays, strict=True)]
    watched = observer.watch(0, [observer.enter(leaf, value, tangents.get(leaf)) for leaf, value in enumerate(entered)])
    value = (origins.chosen(each.origins for each in watched) or _somewhere(values)) if failing else None
    derivative = None
    if forward.finite is False:
        derivative = origins.chosen(watched[leaf].slopes for leaf in outputs) or value or _somewhere(derived)
    elif reverse.finite is False:
        derivative = value or observer.steep or _somewhere(pulled)
    return replace(found, value=value, derivative=derivative, unwatched=observer.unwatched)


def _dense(types: Sequence[Type]) -> list[np.ndarray]:
    """Returns an array of each type with entries between 0.5 and 1.5 in absolute value, always the same ones."""
    random = np.random.default_rng(0)

    def entries(shape: tuple[int, ...]) -> Any:
        return random.uniform(0.5, 1.5, shape) * random.choice([-1.0, 1.0], shape)

    def of(type_: Type) -> np.ndarray:
        imaginary = 1j * entries(type_.shape) if type_.dtype.startswith("complex") else 0
        return np.asarray(entries(type_.shape) + imaginary, DTYPES[type_.dtype])

    return list(map(of, types))


def _of(task: Task, kind: Kind, values: tuple[int, ...] = ()) -> Task:
    kernel = task.kernel
    wrt, outputs = ((), ()) if kind is Kind.VALUE else (kernel.wrt, kernel.outputs)
    return replace(task, kernel=Kernel(kernel.function, kind, wrt, outputs, values))


def _verdict(answer: Answer, leaves: Sequence[int]) -> tuple[Verdict, tuple[np.ndarray, ...]]:
    """Returns whether the derivatives that an answer begins with, one for each of some leaves, are finite; and the answer's arrays."""
    if isinstance(answer, Fault) and answer.reason in _REFUSALS:
        return Verdict(refusal=answer), ()
    arrays = _arrays(answer)
    bad = tuple(leaf for leaf, array in zip(leaves, arrays, strict=False) if origins.census(array))
    return Verdict(not bad, bad), arrays


def _arrays(answer: Answer) -> tuple[np.ndarray, ...]:
    if isinstance(answer, Fault):
        raise answer
    assert isinstance(answer, Done)
    return answer.arrays


def _somewhere(arrays: Sequence[np.ndarray]) -> NonFinite:
    """Returns the finding for arrays that are not all finite as compiled, but are operation by operation: the compiler combines and reorders."""
    array, found = next((array, found) for array in arrays if (found := origins.census(array)))
    sort = Sort.NAN if Sort.NAN in found else next(iter(found))
    return NonFinite(sort.kind, origins.amount(found, sort), array.size)
