"""Floating-point operations of one equation of a jaxpr: published counts for linear algebra, rough weights for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from jax.extend.core import JaxprEqn

MOVES = frozenset(
    (
        *("broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "dynamic_slice", "dynamic_update_slice", "split", "concatenate", "pad"),
        *("gather", "rev", "copy", "iota", "select_n", "convert_element_type", "bitcast_convert_type", "reduce_precision", "real", "imag"),
        *("complex", "stop_gradient", "device_put", "name", "empty", "random_wrap", "random_unwrap", "optimization_barrier"),
    )
)
"""Ops that move elements and compute nothing."""

LOOPS = frozenset(("random_gamma", "igamma", "igammac", "igamma_grad_a", "regularized_incomplete_beta"))
"""Ops of single elements that are loops to a compiler, which go on until the last element is done: never part of another operation."""

WEIGHTS: Mapping[str, float] = {
    **dict.fromkeys(("div", "rem", "sqrt", "rsqrt", "exp2", "integer_pow"), 8.0),
    **dict.fromkeys(("exp", "expm1", "logistic", "tanh", "sinh", "cosh", "erf", "erfc"), 40.0),
    **dict.fromkeys(("log", "log1p", "sin", "cos", "tan", "cumsum", "cumprod", "cummax", "cummin"), 150.0),
    **dict.fromkeys(("asin", "acos", "atan", "atan2", "asinh", "acosh", "atanh", "cbrt", "pow", "erf_inv", "nextafter"), 250.0),
    **dict.fromkeys(("lgamma", "digamma", "bessel_i0e", "bessel_i1e", "cumlogsumexp"), 600.0),
    **dict.fromkeys(("threefry2x32", "random_bits", "rng_bit_generator", "rng_uniform", "random_fold_in", "random_split", "random_seed"), 60.0),
    **dict.fromkeys(("polygamma", "zeta"), 3500.0),
    "random_gamma": 16_000.0,
    **dict.fromkeys(("igamma", "igammac", "regularized_incomplete_beta"), 45_000.0),
    "igamma_grad_a": 75_000.0,
}
"""Operations per element of the result where they are far from one. Measured for float64 on one core of an x86-64 CPU, in twentieths of a nanosecond,
which is what a multiplication takes among others: `exp` 1.8 ns, `tanh` 1.4, `sin` 9.5, `log` 7.9, `pow` 14, `lgamma` 30; and the loops behind
`zeta` 160, `random_gamma` 790, `igamma` 2300 and its derivative 3700, of 200 000 parameters between 0.5 and 5. Random bits were not."""


def flops(eqn: JaxprEqn) -> float:
    """Returns the operations of an equation that holds no sub-jaxpr. Integer and boolean operations count as floating-point ones."""
    name = eqn.primitive.name
    if name in MOVES:
        return 0.0
    if name in _COUNTS:
        return _COUNTS[name](eqn)
    results = sum(size(variable) for variable in eqn.outvars)
    if name.startswith(("reduce_", "cum", "arg", "scatter", "select_and_")):
        # Each element of the (largest) operand takes part once.
        results = max([results, *(size(operand) for operand in eqn.invars)])
    return results * WEIGHTS.get(name, 1.0)


def size(atom: Any) -> int:
    """Returns the elements of a variable or literal; 0 for what is not an array."""
    return math.prod(getattr(atom.aval, "shape", (0,)))


def _shape(atom: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = atom.aval.shape
    return shape


def nbytes(atom: Any) -> int:
    """Returns the bytes of a variable or literal."""
    return size(atom) * int(getattr(getattr(atom.aval, "dtype", None), "itemsize", 8))


def _dot_general(eqn: JaxprEqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    shape = _shape(eqn.invars[0])
    return float(2.0 * _complexity(eqn) * size(eqn.outvars[0]) * math.prod(shape[axis] for axis in contracted))


def _convolution(eqn: JaxprEqn) -> float:
    kernel = _shape(eqn.invars[1])
    features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
    return float(2.0 * _complexity(eqn) * size(eqn.outvars[0]) * math.prod(kernel) / max(1, features))


def _fft(eqn: JaxprEqn) -> float:
    points = math.prod(eqn.params["fft_lengths"])
    return 5.0 * max(size(eqn.invars[0]), size(eqn.outvars[0])) * math.log2(max(2, points))


def _sort(eqn: JaxprEqn) -> float:
    shape = _shape(eqn.invars[0])
    along = shape[eqn.params.get("dimension", -1)] if shape else 1
    return _COMPARISON * sum(map(size, eqn.invars)) * math.log2(max(2, along))


_COMPARISON = 100.0
"""What one step of a sort counts, which branches: 95 ns an element of 20 000."""


def _triangular_solve(eqn: JaxprEqn) -> float:
    order = _shape(eqn.invars[0])[-1]
    return _complexity(eqn) * float(order) * size(eqn.invars[1])


def _factorization(factor: float) -> Callable[[JaxprEqn], float]:
    """Returns the count ``factor * m * n * min(m, n)`` for each matrix of a batch."""

    def count(eqn: JaxprEqn) -> float:
        *batch, rows, columns = _shape(eqn.invars[0])
        return factor * _complexity(eqn) * math.prod(batch) * rows * columns * min(rows, columns)

    return count


def _complexity(eqn: JaxprEqn) -> float:
    """Returns 4 for complex operands, whose products are four real ones, else 1."""
    return 4.0 if getattr(getattr(eqn.invars[0].aval, "dtype", None), "kind", "f") == "c" else 1.0


# Golub and Van Loan, Matrix Computations, 4th ed.: Cholesky 4.2.5, LU 3.2.7, QR 5.2.2, symmetric eigenproblem 8.3.3, SVD 8.6.3, Schur 7.5.6.
_COUNTS: Mapping[str, Callable[[JaxprEqn], float]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "fft": _fft,
    "sort": _sort,
    "top_k": _sort,
    "triangular_solve": _triangular_solve,
    "tridiagonal_solve": lambda eqn: 8.0 * size(eqn.invars[-1]),
    "cholesky": _factorization(1 / 3),
    "lu": _factorization(2 / 3),
    "qr": _factorization(4 / 3),
    "geqrf": _factorization(4 / 3),
    "householder_product": _factorization(4 / 3),
    "eigh": _factorization(9.0),
    "svd": _factorization(21.0),
    "hessenberg": _factorization(10 / 3),
    "tridiagonal": _factorization(4 / 3),
    "schur": _factorization(25.0),
    "eig": _factorization(25.0),
}
