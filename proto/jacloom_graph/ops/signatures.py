"""How many inputs and outputs a function must have for a node that refers to it, as far as that follows from counts alone.

Each row takes the node's numbers of operands and results and its attributes, and returns the signature wanted of the function behind
each attribute. A row raises ValueError, saying why, if the counts cannot belong together whatever the functions are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Signature(NamedTuple):
    """Numbers of inputs and outputs of a function."""

    inputs: int
    outputs: int


Signatures = Mapping[str, Signature]
"""By name of the attribute that refers to the function."""


def _call(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    return {"function": Signature(operands, results)}


def _custom_call(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    return {"rule": Signature(operands, results)}


def _scan(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    consts, carry = attrs["num_consts"], attrs["num_carry"]
    _require(consts >= 0 and carry >= 0, "num_consts and num_carry must not be negative")
    _require(consts + carry <= operands, f"num_consts + num_carry is {consts + carry}, but there are {operands} operands")
    _require(carry <= results, f"num_carry is {carry}, but there are {results} results")
    _require(attrs["length"] >= 0, f"length must not be negative, got {attrs['length']}")
    _require(attrs["unroll"] >= 1, f"unroll must be at least 1, got {attrs['unroll']}")
    return {"function": Signature(operands, results)}


def _while(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    cond, body = attrs["cond_consts"], attrs["body_consts"]
    _require(cond >= 0 and body >= 0, "cond_consts and body_consts must not be negative")
    carry = operands - cond - body
    _require(carry == results, f"of {operands} operands, {cond} + {body} are constants, so there must be {carry} results; got {results}")
    return {"cond": Signature(cond + carry, 1), "body": Signature(body + carry, carry)}


def _switch(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    _require(len(attrs["branches"]) > 0, "there must be at least one branch")
    return {"branches": Signature(operands - 1, results)}


def _reduce(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    _require(operands == 2 * results, f"there must be an array and an initial value for each of {results} results, got {operands} operands")
    return {"function": Signature(operands, results)}


def _scatter(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    return {"function": Signature(2, 1)}


def _linear_solve(operands: int, results: int, attrs: Mapping[str, Any]) -> Signatures:
    lengths = attrs["const_lengths"]
    _require(len(lengths) == 4 and min(lengths) >= 0, f"const_lengths must be four numbers of operands, got {lengths}")
    right = operands - sum(lengths)
    _require(0 < right <= results, f"of {operands} operands, {sum(lengths)} are constants; the others must be at most {results}, and at least one")
    matvec, vecmat, solve, transpose = lengths
    # A solve may return more than the solution: results past the number of right-hand sides are by the way.
    return {
        "matvec": Signature(matvec + right, right),
        "vecmat": Signature(vecmat + right, right),
        "solve": Signature(solve + right, results),
        "transpose_solve": Signature(transpose + right, results),
    }


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


SIGNATURES: Mapping[str, Callable[[int, int, Mapping[str, Any]], Signatures]] = MappingProxyType(
    {
        "call": _call,
        "checkpoint": _call,
        "custom_call": _custom_call,
        "linear_solve": _linear_solve,
        "reduce": _reduce,
        "reduce_window": _reduce,
        "scan": _scan,
        "scatter": _scatter,
        "switch": _switch,
        "while": _while,
    }
)
"""One row for each op that refers to functions."""
