"""From a computation to a program that runs: traced, checked against the types it promises, lowered and compiled ahead of its first use."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.tensor import nbytes, storage
from jacloom_graph.types import Type
from jacloom_worker.infer import abstract, struct
from jacloom_worker.kernels import Computation
from jacloom_worker.modes import live

_ADDRESSABLE = 1 << 47
"""Bytes of address space of a process. XLA aborts on shapes whose bytes do not fit 63 bits; this refuses them long before."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled computation."""

    executable: jax.stages.Compiled
    constants: tuple[Any, ...]
    arguments: tuple[tuple[np.dtype, tuple[int, ...]], ...]
    """dtype and shape of each argument, as arrays travel (keys as raw data)."""
    leaves: int
    """How many of the arguments are input leaves; seeds follow."""
    seconds: float
    """Wall time of tracing and compiling."""
    nbytes: int
    """Device memory of one call's arguments, results and intermediates; 0 where the backend does not say."""

    def __call__(self, arguments: Sequence[Any]) -> Sequence[jax.Array]:
        """Runs the program on NumPy or JAX arrays of the types in ``arguments``. May return before the results are ready."""
        # The executable and not jit: both take 25 to 35 us a call, and here compiling has its own time and nothing is looked up or traced again.
        results: Sequence[jax.Array] = self.executable(self.constants, *arguments)
        return results


def compile(computation: Computation) -> Compiled:
    """Returns a computation as a compiled program. Whatever tracing and XLA raise passes through.

    Raises:
        Fault: As ``lower``.
    """
    started = time.perf_counter()
    executable = lower(computation).compile()
    return Compiled(
        executable=executable,
        constants=computation.constants,
        leaves=computation.leaves,
        arguments=tuple(storage(type_) for type_ in computation.arguments),
        seconds=time.perf_counter() - started,
        nbytes=memory(executable),
    )


def lower(computation: Computation) -> jax.stages.Lowered:
    """Returns a computation as what XLA compiles: all that can be wrong with it is known then.

    Raises:
        Fault: INTERNAL if the computation does not yield the types it promises, so that precision is never lost in silence; TOO_LARGE if an
            argument or result is larger than any memory.
    """
    require_addressable((*computation.arguments, *computation.results))
    traced = jax.jit(computation.call).trace(abstract(computation.constants), *map(struct, computation.arguments))
    check_results(computation.results, traced.jaxpr.out_avals)
    live(traced.jaxpr)
    lowered: jax.stages.Lowered = traced.lower()
    return lowered


def require_addressable(types: Iterable[Type]) -> None:
    """Checks that there could be arrays of some types.

    Raises:
        Fault: TOO_LARGE for one that is larger than any memory.
    """
    for type_ in types:
        if nbytes(type_) >= _ADDRESSABLE:
            raise Fault(
                Reason.TOO_LARGE, f"the derivative needs an array {type_}, which is larger than any memory; use smaller tiles or fewer leaves"
            )


def check_results(expected: Sequence[Type], got: Sequence[Any]) -> None:
    """Checks that a program yields what it promises; ``got`` are the abstract values of its results.

    Raises:
        Fault: INTERNAL if it does not.
    """
    for index, (type_, aval) in enumerate(zip(expected, got, strict=True)):
        if (type_.dtype, type_.shape) != (aval.dtype.name, aval.shape):
            raise Fault(Reason.INTERNAL, f"result {index} of the derivative should be {type_}, and the program computes {aval.str_short()}")


def memory(executable: jax.stages.Compiled) -> int:
    """Returns the device memory of one call's arguments, results and intermediates; 0 where the backend does not say."""
    analysis = executable.memory_analysis()
    if analysis is None:
        return 0
    return int(analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes)
