"""The Gauss-Newton approximation of a loss, as a function whose second derivatives are those of the approximation."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from jacloom._errors import ArgumentError


def gauss_newton(f: Callable[..., Any], loss: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
    """Returns ``loss(f(x))`` with ``f`` linearized where it is differentiated: value and gradient are exact, the Hessian is Gauss-Newton's.

    That Hessian is ``J^T L J``, with ``J`` the Jacobian of ``f`` and ``L`` the Hessian of ``loss`` at ``f(x)``: no second derivatives of ``f``, and
    positive semidefinite wherever ``loss`` is convex. As the result is a function like any other, ``client.hvp`` gives products with that matrix (a
    JVP and a VJP each), ``client.hessian`` the matrix, sparse if it is, and ``client.linear_operator(..., derivative="hessian")`` an operator.
    Source: N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural Computation 14, 2002.

    Args:
        f: A function that JAX can trace and differentiate forward; it may return any tree.
        loss: From what ``f`` returns to a scalar. Default: half the sum of squares of all entries, so that the matrix is ``J^T J``.

    Raises:
        ArgumentError: if one of them is no callable.

    Example:
        >>> residuals = lambda x: jnp.array([x[0], 10 * (x[1] - x[0] ** 2)])
        >>> client.hessian(jl.gauss_newton(residuals))(np.array([1.0, 1.0]))
        array([[ 401., -200.],
               [-200.,  100.]])
    """
    for name, given in (("f", f), ("loss", loss)):
        if not callable(given) and not (name == "loss" and given is None):
            got = type(given).__name__
            raise ArgumentError(f"`jl.gauss_newton(f, loss)`: {name} must be a Python function that JAX can trace, got {got}.")
    measure = half_squares if loss is None else loss

    @wraps(f)
    def approximated(*args: Any, **kwargs: Any) -> Any:
        import jax
        import jax.numpy as jnp

        def added(value: Any, change: Any) -> Any:
            return value + change if jnp.issubdtype(jnp.result_type(value), jnp.inexact) else value

        fixed, steps = jax.tree.map(jax.lax.stop_gradient, args), jax.tree.map(_step, args)
        value, change = jax.jvp(lambda *point: f(*point, **kwargs), fixed, steps)
        return measure(jax.tree.map(added, value, change))

    return approximated


def half_squares(residuals: Any) -> Any:
    """Returns half the sum of the squares of all entries of a tree, of complex ones of their absolute values."""
    import jax
    import jax.numpy as jnp

    return sum(0.5 * jnp.sum(jnp.real(leaf * jnp.conj(leaf))) for leaf in jax.tree.leaves(residuals))


def _step(leaf: Any) -> Any:
    """Returns a zero whose derivative is that of the leaf: how far the point moves from where ``f`` is linearized."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return np.zeros(np.shape(leaf), jax.dtypes.float0)
    # Not the difference alone: of an infinite entry that would be NaN.
    return jnp.where(jnp.isfinite(leaf), leaf - jax.lax.stop_gradient(leaf), 0)
