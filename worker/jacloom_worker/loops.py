"""Structured ops: calls, loops, branches, combiners and solves, each given to the JAX transformation of its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax import lax

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.ops import TABLE
from jacloom_graph.types import Node
from jacloom_worker import rules, whiles
from jacloom_worker.binds import parameters, scatter
from jacloom_worker.rules import Functions

Structured = Callable[[Functions, Node, list[Any]], Any]
"""Evaluates one op: ``(frame, node, operands) -> its results``, a sequence."""


def _call(frame: Functions, node: Node, operands: list[Any]) -> Any:
    return frame.call(_attr(node, "function"), operands)


def _checkpoint(frame: Functions, node: Node, operands: list[Any]) -> Any:
    policy = _attr(node, "policy")
    keep = getattr(jax.checkpoint_policies, policy) if policy else None
    function = jax.checkpoint(frame.callable(_attr(node, "function")), prevent_cse=_attr(node, "prevent_cse"), policy=keep)
    return function(*operands)


def _scan(frame: Functions, node: Node, operands: list[Any]) -> Any:
    body = frame.callable(_attr(node, "function"))
    first, last = _attr(node, "num_consts"), _attr(node, "num_consts") + _attr(node, "num_carry")
    constants, carries, arrays = operands[:first], operands[first:last], operands[last:]

    def step(carry: list[Any], slices: list[Any]) -> tuple[list[Any], list[Any]]:
        results = body(*constants, *carry, *slices)
        return results[: len(carry)], results[len(carry) :]

    final, stacked = lax.scan(step, carries, arrays, length=_attr(node, "length"), reverse=_attr(node, "reverse"), unroll=_attr(node, "unroll"))
    return [*final, *stacked]


def _while(frame: Functions, node: Node, operands: list[Any]) -> Any:
    test, body, of_test, of_body = (_attr(node, name) for name in ("cond", "body", "cond_consts", "body_consts"))
    large = frame.large_for(test, body)
    loop = whiles.Loop(frame, False, test, body, len(large), of_test)
    first = of_test + of_body
    return whiles.run(loop, [*large, *operands[:first]], operands[first:], reverse=frame.reverse)


def _switch(frame: Functions, node: Node, operands: list[Any]) -> Any:
    branches = [frame.callable(number) for number in _attr(node, "branches")]
    return lax.switch(operands[0], branches, *operands[1:])


def _linear_solve(frame: Functions, node: Node, operands: list[Any]) -> Any:
    names = ("matvec", "vecmat", "solve", "transpose_solve")
    functions: dict[str, Callable[..., list[Any]] | None] = {}
    at = 0
    for name, count in zip(names, _attr(node, "const_lengths"), strict=True):
        number, constants = _attr(node, name), operands[at : at + count]
        functions[name] = None if number is None else _closed(frame.callable(number), constants)
        at += count
    matvec, solve, transpose_solve = functions["matvec"], functions["solve"], functions["transpose_solve"]
    if matvec is None or solve is None:
        raise Fault(Reason.INVALID_GRAPH, "linear_solve needs the functions matvec and solve")
    right = operands[at:]
    extra = node.result_count > len(right)

    def solved(function: Callable[..., list[Any]], b: list[Any]) -> Any:
        results = function(*b)
        return (results[: len(right)], results[len(right) :]) if extra else results

    solution = lax.custom_linear_solve(
        lambda x: matvec(*x),
        right,
        solve=lambda _, b: solved(solve, b),
        transpose_solve=None if transpose_solve is None else lambda _, b: solved(transpose_solve, b),
        # JAX transposes the product by itself, and there may be a loop in it that has no transpose; it need not where the two are one.
        symmetric=_attr(node, "vecmat") is not None and _attr(node, "vecmat") == _attr(node, "matvec"),
        has_aux=extra,
    )
    return [*solution[0], *solution[1]] if extra else solution


def _closed(function: Callable[..., list[Any]], constants: list[Any]) -> Callable[..., list[Any]]:
    return lambda *args: function(*constants, *args)


def _reduce(frame: Functions, node: Node, operands: list[Any]) -> Any:
    half = len(operands) // 2
    combine = frame.callable(_attr(node, "function"))
    return lax.reduce(operands[:half], operands[half:], lambda left, right: combine(*left, *right), _attr(node, "dimensions"))


def _reduce_window(frame: Functions, node: Node, operands: list[Any]) -> Any:
    half = len(operands) // 2
    combine = frame.callable(_attr(node, "function"))
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


def _scatter(frame: Functions, node: Node, operands: list[Any]) -> Any:
    number = _attr(node, "function")
    combine = None if number is None else frame.callable(number)
    return [scatter(operands, parameters("scatter", node.attrs), combine)]


def _custom_call(frame: Functions, node: Node, operands: list[Any]) -> Any:
    return rules.custom_call(frame, _attr(node, "rule"), operands)


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
