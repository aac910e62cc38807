"""Structured ops: calls, loops, branches, combiners and solves, each given to the JAX transformation of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
from jax import lax

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.ops import TABLE
from jacloom_graph.types import Graph, Node
from jacloom_worker import rules
from jacloom_worker.binds import parameters, scatter


class Functions(Protocol):
    """What a structured op needs of the program it is part of; see ``raising.Program``."""

    graph: Graph

    def callable(self, number: int, large: tuple[Any, ...]) -> Callable[..., list[Any]]:
        """Returns a function of the graph, to be traced in place."""

    def call(self, number: int, large: tuple[Any, ...], args: Sequence[Any]) -> list[Any]:
        """Returns the results of a function of the graph."""

    def run(self, number: int, large: tuple[Any, ...], args: Sequence[Any]) -> list[Any]:
        """Returns the results of a function of the graph, evaluated in place."""

    def needed(self, number: int, large: tuple[Any, ...]) -> tuple[Any, ...]:
        """Returns ``large`` where the function reaches a large constant, else nothing."""


Structured = Callable[[Any, Node, list[Any], tuple[Any, ...]], Any]
"""Evaluates one op: ``(program, node, operands, large constants) -> its results``, a sequence."""


def _call(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    return program.call(_attr(node, "function"), large, operands)


def _checkpoint(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    policy = _attr(node, "policy")
    keep = getattr(jax.checkpoint_policies, policy) if policy else None
    function = jax.checkpoint(program.callable(_attr(node, "function"), large), prevent_cse=_attr(node, "prevent_cse"), policy=keep)
    return function(*operands)


def _scan(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    body = program.callable(_attr(node, "function"), large)
    first, last = _attr(node, "num_consts"), _attr(node, "num_consts") + _attr(node, "num_carry")
    constants, carries, arrays = operands[:first], operands[first:last], operands[last:]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        results = body(*constants, *carry, *slices)
        return results[: len(carry)], results[len(carry) :]

    final, stacked = lax.scan(step, carries, arrays, length=_attr(node, "length"), reverse=_attr(node, "reverse"), unroll=_attr(node, "unroll"))
    return [*final, *stacked]


def _while(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    test, body = program.callable(_attr(node, "cond"), large), program.callable(_attr(node, "body"), large)
    first, last = _attr(node, "cond_consts"), _attr(node, "cond_consts") + _attr(node, "body_consts")
    of_test, of_body, carries = operands[:first], operands[first:last], operands[last:]

    def running(carry: list[Any]) -> jax.Array:
        return jax.numpy.asarray(test(*of_test, *carry)[0])

    if jax.eval_shape(running, carries).shape == ():
        return lax.while_loop(running, lambda carry: body(*of_body, *carry), carries)

    def step(carry: list[Any]) -> list[Any]:
        # A batch of loops in one: each goes on by its own predicate, until none does.
        going = running(carry)
        moved = body(*of_body, *carry)
        return [lax.select(lax.broadcast_in_dim(going, new.shape, range(going.ndim)), new, old) for new, old in zip(moved, carry, strict=True)]

    return lax.while_loop(lambda carry: running(carry).any(), step, carries)


def _switch(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    branches = [program.callable(number, large) for number in _attr(node, "branches")]
    return lax.switch(operands[0], branches, *operands[1:])


def _linear_solve(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    names = ("matvec", "vecmat", "solve", "transpose_solve")
    functions: dict[str, Callable[..., list[Any]] | None] = {}
    at = 0
    for name, count in zip(names, _attr(node, "const_lengths"), strict=True):
        number, constants = _attr(node, name), operands[at : at + count]
        functions[name] = None if number is None else _closed(program.callable(number, large), constants)
        at += count
    matvec, solve, transpose_solve = functions["matvec"], functions["solve"], functions["transpose_solve"]
    if matvec is None or solve is None:
        raise Fault(Reason.INVALID_GRAPH, "linear_solve needs the functions matvec and solve")
    return lax.custom_linear_solve(
        lambda x: matvec(*x),
        operands[at:],
        solve=lambda _, b: solve(*b),
        transpose_solve=None if transpose_solve is None else lambda _, b: transpose_solve(*b),
    )


def _closed(function: Callable[..., list[Any]], constants: list[Any]) -> Callable[..., list[Any]]:
    return lambda *args: function(*constants, *args)


def _reduce(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    half = len(operands) // 2
    combine = program.callable(_attr(node, "function"), large)
    return lax.reduce(operands[:half], operands[half:], lambda left, right: combine(*left, *right), _attr(node, "dimensions"))


def _reduce_window(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    half = len(operands) // 2
    combine = program.callable(_attr(node, "function"), large)
    return lax.reduce_window(
        operands[:half],
        operands[half:],
        lambda left, right: combine(*left, *right),
        _attr(node, "window_dimensions"),
        _attr(node, "window_strides"),
        _attr(node, "padding"),
        _attr(node, "base_dilation"),
        _attr(node, "window_dilation"),
    )


def _scatter(program: Functions, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    number = _attr(node, "function")
    combine = None if number is None else program.callable(number, large)
    return [scatter(operands, parameters("scatter", node.attrs), combine)]


def _custom_call(program: Any, node: Node, operands: list[Any], large: tuple[Any, ...]) -> Any:
    return rules.custom_call(program, _attr(node, "rule"), operands, large)


def _attr(node: Node, name: str) -> Any:
    return node.attrs.get(name, TABLE[node.op].specs[name].default)


STRUCTURED: Mapping[str, Structured] = {
    "call": _call,
    "checkpoint": _checkpoint,
    "custom_call": _custom_call,
    "scan": _scan,
    "while": _while,
    "switch": _switch,
    "linear_solve": _linear_solve,
    "reduce": _reduce,
    "reduce_window": _reduce_window,
    "scatter": _scatter,
}
"""How ops that hold functions are evaluated."""
