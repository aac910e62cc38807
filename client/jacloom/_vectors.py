"""What comes with a point besides: tangents, cotangents and weights, each checked against what it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jacloom import _leaves
from jacloom._binding import Binding
from jacloom._errors import ArgumentError
from jacloom._outline import described
from jacloom._signature import inexact
from jacloom._structure import Structure, require_match
from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Type

FLOAT0 = np.dtype([("float0", np.void, 0)])
"""JAX's dtype of tangents and cotangents of integer values: there is nothing in them."""


def tangents(call: str, binding: Binding) -> Callable[[Any], list[np.ndarray]]:
    """Returns what makes arrays of tangents, which are in the tree of the arguments; it raises ArgumentError if they are not."""
    types = [None if slot is None else binding.signature.inputs[slot] for slot in binding.slots]
    paths = [path.replace("args", "tangents", 1) for path in binding.paths]

    def arrays(given: Any) -> list[np.ndarray]:
        given = tuple(given) if isinstance(given, list) else given
        leaves = require_match(binding.arguments, given, f"`{call}`: tangents must be like primals")
        return _checked(call, leaves, paths, types)

    return arrays


def like_result(call: str, binding: Binding, result: Structure, outputs: Sequence[int], what: str) -> Callable[[Any], list[np.ndarray]]:
    """Returns what makes arrays of cotangents or weights, which are in the tree of the result; it raises ArgumentError if they are not.

    Args:
        call: The user's call.
        binding: The function with its arguments.
        result: Structure of the part of the function's result that they belong to.
        outputs: The leaves of that part.
        what: ``"cotangents"`` or ``"weights"``.
    """
    types = [binding.signature.outputs[leaf] for leaf in outputs]

    def arrays(given: Any) -> list[np.ndarray]:
        leaves = require_match(result, given, f"`{call}`: {what} must be like the result of {binding.signature.label}")
        return _checked(call, leaves, result.paths(what), types)

    return arrays


def _checked(call: str, leaves: Sequence[Any], paths: Sequence[str], types: Sequence[Type | None]) -> list[np.ndarray]:
    """Returns the tangents or cotangents of those leaves that have any.

    Raises:
        ArgumentError: if one is not of its primal's type, or an integer leaf has one.
    """
    arrays = []
    for at, (leaf, type_) in enumerate(zip(leaves, types, strict=True)):
        if type_ is None or not inexact(type_):
            if leaf is not None and getattr(leaf, "dtype", None) != FLOAT0:
                raise ArgumentError(
                    f"`{call}`: {paths[at]} belongs to {type_ or 'a fixed value'}, which has no derivative; "
                    "pass None or np.zeros(shape, jax.dtypes.float0)."
                )
            continue
        if type(leaf) in (float, complex) and not type_.shape and (type(leaf) is float or type_.dtype.startswith("complex")):
            # A Python number takes the dtype of the scalar that it belongs to.
            arrays.append(np.asarray(leaf, DTYPES[type_.dtype]))
            continue
        if type(leaf) is not np.ndarray and _leaves.is_array(leaf):
            _leaves.key(leaf)  # refuses what JAX is tracing
            leaf = _leaves.to_array(leaf)
        if not isinstance(leaf, np.ndarray) or leaf.dtype != DTYPES[type_.dtype] or leaf.shape != type_.shape:
            got = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" if isinstance(leaf, np.ndarray) else described(leaf)
            remedy = _leaves.remedy(leaf, type_)
            raise ArgumentError(f"`{call}`: {paths[at]} must be {type_}, as what it belongs to; got {got}{remedy and f': {remedy}'}.")
        arrays.append(leaf)
    return arrays
