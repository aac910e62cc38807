"""The weighted sum of a function's outputs, as a function: what a Lagrangian's second derivatives are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jacloom_graph import leaves
from jacloom_graph.tensor import DTYPES, promote
from jacloom_graph.types import Type
from jacloom_worker.infer import Apply
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Kernel


def weighted(subject: Subject, kernel: Kernel) -> tuple[Subject, Kernel]:
    """Returns what a kernel differentiates: for a weighted one the function with the weights as further inputs and the sum as a further output.

    Args:
        subject: The function.
        kernel: Of that function. One without weights comes back as it is, and so does the function.

    Raises:
        Fault: INVALID_OPTION for outputs that are not there or have no derivative.
    """
    if not kernel.weighted:
        return subject, kernel
    weights = leaves.choose(kernel.outputs, subject.outputs, "outputs", differentiated=True)
    dtype = promote(*(type_.dtype for type_ in weights))
    count = len(subject.inputs)

    def with_sum(apply: Apply) -> Apply:
        def applied(constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
            results = list(apply(constants, arguments[:count]))
            pairs = zip(kernel.outputs, arguments[count:], strict=True)
            terms = [jnp.sum(results[leaf] * weight).astype(DTYPES[dtype]) for leaf, weight in pairs]
            return [*results, sum(terms[1:], terms[0])]

        return applied

    reversible = None if subject.reversible is None else with_sum(subject.reversible)
    summed = replace(
        subject,
        apply=with_sum(subject.apply),
        inputs=(*subject.inputs, *weights),
        outputs=(*subject.outputs, Type(dtype)),
        reversible=reversible,
    )
    return summed, replace(kernel, outputs=(len(subject.outputs),), weighted=False)
