"""Linear solves of lineax as the graph's own: their derivative follows from what they solve, not from how.

The primitive of lineax cuts its operator off from differentiation and brings rules instead, so the trace of its implementation
alone would have a derivative without the operator's part. JAX's ``custom_linear_solve`` has the rules that are wanted here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax

Params = Mapping[str, Any]


class PseudoInverse(Exception):
    """A solve that need not satisfy its equation, whose derivative is not that of a solve."""


def is_solve(primitive: Any, params: Params) -> bool:
    """Returns whether a primitive is lineax's solve, or a batch of it."""
    if primitive.name == "vprim":
        return is_solve(params["prim"], dict(params["params"]))
    return bool(primitive.name == "linear_solve" and "treedef" in params)


def solve(primitive: Any, params: Params) -> Callable[..., list[Any]]:
    """Returns the function that lineax's primitive computes, with JAX's solve for the solution.

    Raises:
        PseudoInverse: when called, if the solver takes operators that are not square or not of full rank.
    """
    if primitive.name == "vprim":
        each = solve(params["prim"], dict(params["params"]))
        return jax.vmap(each, in_axes=tuple(params["__batch_axes"]), axis_size=params["__axis_size"], axis_name=params["__axis_name"])
    return lambda *dynamic: _solve(primitive, params, dynamic)


def _solve(primitive: Any, params: Params, dynamic: tuple[Any, ...]) -> list[Any]:
    operator, state, vector, options, solver, _ = _arguments(params, dynamic)
    if not solver.assume_full_rank() or operator.in_structure() != operator.out_structure():
        raise PseudoInverse
    right, tree = jax.tree.flatten(vector)
    slots = [slot.index for slot in jax.tree.leaves(_arguments(params, [_Slot(index) for index in range(len(dynamic))])[2])]
    # The implementation that the primitive itself shows refuses to be batched.
    implementation = _equinox(params)._vprim_impl_registry[primitive]

    def evaluate(b: list[Any]) -> list[Any]:
        replaced = list(dynamic)
        for slot, value in zip(slots, b, strict=True):
            replaced[slot] = value
        return list(implementation(*replaced, **params))

    def transposed(_: Any, b: list[Any]) -> list[Any]:
        state_of, options_of = solver.transpose(state, options)
        found: list[Any] = jax.tree.leaves(solver.compute(state_of, jax.tree.unflatten(tree, b), options_of)[0])
        return found

    solution = lax.custom_linear_solve(
        lambda x: jax.tree.leaves(operator.mv(jax.tree.unflatten(tree, x))),
        right,
        solve=lambda _, b: evaluate(b)[: len(b)],
        transpose_solve=transposed,
    )
    # What else lineax returns, a result code and statistics, has no derivative.
    return [*solution, *evaluate([lax.stop_gradient(b) for b in right])[len(right) :]]


def _equinox(params: Params) -> Any:
    """Returns the module of equinox that made the primitive: this package does not depend on equinox, but a solve brings it along."""
    return sys.modules[type(params["flatten"]).__module__]


class _Slot:
    """Stands for an array, to find where it goes."""

    def __init__(self, index: int) -> None:
        self.index = index


def _arguments(params: Params, dynamic: Any) -> tuple[Any, ...]:
    """Returns (operator, state, vector, options, solver, throw) as lineax wrote them."""
    found: list[tuple[Any, ...]] = []
    keep = _equinox(params).filter_primitive_def(lambda *args: found.append(args))
    keep(*dynamic, treedef=params["treedef"], static=params["static"], flatten=lambda _: None)
    return found[0]
