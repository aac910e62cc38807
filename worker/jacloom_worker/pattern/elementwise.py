"""Operations whose outputs depend entry by entry on their operands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jacloom_worker.pattern.detection import Footprint, Scope, rule
from jacloom_worker.pattern.ranges import Equation
from jacloom_worker.pattern.sets import Ids


@rule(
    *[
        "abs",
        "acos",
        "acosh",
        "add",
        "add_any",
        "and",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "bessel_i0e",
        "bessel_i1e",
        "cbrt",
        "ceil",
        "clamp",
        "complex",
        "conj",
        "convert_element_type",
        "copy",
    ],
    *[
        "copy_p",
        "cos",
        "cosh",
        "digamma",
        "div",
        "eq",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "exp2",
        "expm1",
        "floor",
        "ge",
        "gt",
        "igamma",
        "igammac",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "lgamma",
        "log",
    ],
    *[
        "log1p",
        "logistic",
        "lt",
        "max",
        "min",
        "ne",
        "neg",
        "nextafter",
        "not",
        "optimization_barrier",
        "or",
        "polygamma",
        "pow",
        "real",
        "reduce_precision",
        "rem",
        "round",
        "rsqrt",
    ],
    *[
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "sin",
        "sinh",
        "sqrt",
        "square",
        "stop_gradient",
        "sub",
        "tan",
        "tanh",
        "xor",
        "zeta",
    ],
)
def _elementwise(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    if len(eqn.outvars) > 1:  # optimization_barrier: each output is an operand
        return list(operands)
    return [scope.union([spread(operand, eqn.outvars[0].aval.shape) for operand in operands])]


@rule("mul")
def _multiply(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of a product: nothing where one of the factors is known to be zero."""
    (result,) = _elementwise(scope, eqn, operands)
    for factor, operand in zip(eqn.invars, operands, strict=True):
        value = scope.values.of(factor) if operand is None else None
        if value is not None and result is not None:
            result = np.where(value == 0, 0, result)
    return [result]


@rule("select_n")
def _select(scope: Scope, eqn: Equation, operands: Sequence[Footprint]) -> list[Footprint]:
    """Returns the footprint of a choice among cases: of the one chosen where that is known."""
    shape = eqn.outvars[0].aval.shape
    which, cases = operands[0], operands[1:]
    chosen = scope.values.range(eqn.invars[0]) if which is None else None
    if chosen is None:
        return [scope.union([spread(operand, shape) for operand in operands])]
    low, high = (np.broadcast_to(side.astype(np.int64), shape) for side in (chosen.low, chosen.high))
    possible = [np.where((low <= place) & (place <= high), 0 if case is None else case, 0) for place, case in enumerate(cases)]
    return [scope.union(possible)]


def spread(operand: Footprint, shape: tuple[int, ...]) -> Footprint:
    """Returns a footprint in an output's shape: scalars go with every entry."""
    return operand if operand is None or operand.shape == shape else np.broadcast_to(operand, shape)


def filled(operand: Footprint, shape: tuple[int, ...]) -> Ids:
    """Returns a footprint as an array, of empty sets if there was none."""
    return np.zeros(shape, np.int64) if operand is None else operand
