"""From a Python function and example arguments to a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np

from jacloom._errors import ArgumentError, TraceError
from jacloom._trace.activity import Flags
from jacloom._trace.explain import explain
from jacloom._trace.foreign import lower_foreign
from jacloom._trace.known import ValueWanted
from jacloom._trace.lines import Lines
from jacloom._trace.lower import Lowering
from jacloom._trace.source import defining_line, raising_line
from jacloom._trace.structured import STRUCTURED
from jacloom._trace.treedef import tree_of
from jacloom._trace.types import example, inexact
from jacloom._version import VERSION
from jacloom_graph import identity
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Graph

_Part = TypeVar("_Part")

MAX_RULE_ORDER = 4
"""How many derivatives deep a custom rule that calls ever new functions is followed."""


@dataclass(frozen=True)
class Traced:
    """A function as data, with what only this process knows of it."""

    graph: Graph
    id: str
    """SHA-256 of the graph's canonical form, 64 hex digits."""
    out_treedef: Any
    """JAX tree definition of the result."""
    notes: tuple[str, ...]
    """What was left out of the graph, for people."""
    lines: Lines
    """Where its nodes came from."""


def trace(
    fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    active: Collection[int] | None = None,
    x64: bool | None = None,
) -> Traced:
    """Returns the graph of ``fun`` at arguments of the given types.

    Args:
        fun: A function of pytrees of arrays that JAX can trace.
        args: Example arguments: pytrees of arrays, numbers or ``jax.ShapeDtypeStruct``; values are not read.
        kwargs: Further arguments by name.
        active: Input leaves, by number, that will be differentiated; custom rules are traced for these. Default: every
            leaf of floating or complex dtype.
        x64: Whether 64-bit types are kept while tracing. Default: if JAX's flag is on or any input leaf has 64 bits (a
            Python float counts). Off, JAX computes what the function's author sees without the flag.

    Raises:
        TraceError: if JAX cannot trace the function.
        Fault: UNSUPPORTED_OP if it uses an operation that cannot be part of a graph.
    """
    leaves, in_treedef = jax.tree.flatten((args, dict(kwargs or {})))
    wide = x64 if x64 is not None else _is_on("jax_enable_x64") or any(map(_has_64_bits, leaves))
    with jax.enable_x64(wide):
        closed, out_treedef = _make_jaxpr(fun, in_treedef, leaves)
        chosen = range(len(leaves)) if active is None else active
        flags = tuple(index in chosen and inexact(var.aval) for index, var in enumerate(closed.jaxpr.invars))
        lowering = _lowered(closed, flags, getattr(fun, "__name__", "function"))
        _require_partitionable(lowering)
    in_tree = tree_of(in_treedef)
    graph = Graph(
        tuple(map(_written, lowering.functions)),
        tuple(map(_written, lowering.rules)),
        tuple(lowering.constants),
        in_tree if kwargs else in_tree.children[0],
        tree_of(out_treedef),
        producer=f"jacloom {VERSION}, jax {jax.__version__}",
    )
    canonical = identity.canonicalize(graph)
    lines = Lines(graph, canonical.functions, lowering.sources, lowering.checks, defining_line(fun))
    return Traced(canonical.graph, canonical.id, out_treedef, (*lowering.notes, *lines.notes()), lines)


def _lowered(closed: Any, active: Flags, name: str) -> Lowering:
    """Returns the functions of a program; they are written for the constants they are called with only if they need these, to be shared by calls."""
    lowering = Lowering(STRUCTURED, lower_foreign, MAX_RULE_ORDER)
    try:
        lowering.function(closed, active, name)
    except ValueWanted:
        lowering = Lowering(STRUCTURED, lower_foreign, MAX_RULE_ORDER, specialise=True)
        lowering.function(closed, active, name)
    return lowering


def _written(part: _Part | None) -> _Part:
    assert part is not None, "every function and rule that was begun is finished"
    return part


def _make_jaxpr(fun: Callable[..., Any], in_treedef: Any, leaves: list[Any]) -> tuple[Any, Any]:
    """Returns the closed jaxpr of the flat function and the tree of its result."""
    structs = [leaf if isinstance(leaf, jax.ShapeDtypeStruct) else example(jax.typeof(_as_value(leaf))) for leaf in leaves]
    args, kwargs = jax.tree.unflatten(in_treedef, structs)

    # Under the user's own name, file and line, which JAX's errors give. Attributes are not copied: a callable object may have any.
    @functools.wraps(fun, updated=())
    def traced_anew(*args: Any, **kwargs: Any) -> Any:
        # JAX remembers what it has traced by the function object, and would not see that a global which it reads has changed.
        return fun(*args, **kwargs)

    try:
        closed, shape = jax.make_jaxpr(traced_anew, return_shape=True)(*args, **kwargs)
    except (Fault, ArgumentError):  # what functions of ours refuse while they are traced
        raise
    except Exception as error:
        raise TraceError(explain(fun, error), source=raising_line(error)) from error
    return closed, jax.tree.structure(shape)


def _as_value(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray) and not leaf.dtype.isnative:
        return leaf.astype(leaf.dtype.newbyteorder("="))
    return leaf


def _require_partitionable(lowering: Lowering) -> None:
    """Refuses random numbers that workers would draw in another way.

    Raises:
        Fault: UNSUPPORTED_OP.
    """
    drawn = {node.op for function in lowering.functions if function is not None for node in function.nodes} & {"random_bits", "random_split"}
    if drawn and not _is_on("jax_threefry_partitionable"):
        message = "jax_threefry_partitionable is off in this process, so the service would draw other random numbers; switch it on (JAX's default)"
        raise Fault(Reason.UNSUPPORTED_OP, message)


def _is_on(flag: str) -> bool:
    return bool(getattr(jax.config, flag))


def _has_64_bits(leaf: Any) -> bool:
    if isinstance(leaf, (bool, int)):
        return False
    if isinstance(leaf, (float, complex)):
        return True
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return False
    return np.dtype(dtype).name in {"int64", "uint64", "float64", "complex128"}
