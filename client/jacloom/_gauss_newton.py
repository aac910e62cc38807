"""The Gauss-Newton approximation of a loss, as a function whose second derivatives are those of the approximation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from jacloom._errors import ArgumentError
from jacloom._outline import outline


def gauss_newton(f: Callable[..., Any], loss: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
    """Returns ``loss(f(x))`` with ``f`` linearized where it is differentiated: value and gradient are exact, the Hessian is Gauss-Newton's.

    That Hessian is ``J^T L J``, with ``J`` the Jacobian of ``f`` and ``L`` the Hessian of ``loss`` at ``f(x)``: no second derivatives of ``f``, and
    positive semidefinite wherever ``loss`` is convex. As the result is a function like any other, ``client.hvp`` gives products with that matrix (a
    JVP and a VJP each), ``client.hessian`` the matrix, sparse if it is, and ``client.linear_operator(..., derivative="hessian")`` an operator. Make
    it once and keep it: like any function, it is traced when it is first used.
    Source: N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural Computation 14, 2002.

    Args:
        f: A function that JAX can trace and differentiate forward; it may return any tree.
        loss: From what ``f`` returns to a scalar. Default: half the sum of squares of all entries, so that the matrix is ``J^T J``; of complex
            entries that of their absolute values, so that of real arguments the matrix is the real part of ``J^H J``.

    Raises:
        ArgumentError: if one of them is no callable; when it is traced, if ``loss`` returns no scalar.

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

        leaves, structure = jax.tree.flatten(args)
        moving = [at for at, leaf in enumerate(leaves) if _moves(leaf)]
        still, moved = _rules()

        def around(*point: Any) -> Any:
            given = dict(zip(moving, point, strict=True))
            return f(*jax.tree.unflatten(structure, [given.get(at, leaf) for at, leaf in enumerate(leaves)]), **kwargs)

        point = [leaves[at] for at in moving]
        value, change = jax.jvp(around, tuple(map(jax.lax.stop_gradient, point)), tuple(map(still, point)))
        measured = measure(jax.tree.map(lambda one, other: moved(one, other) if _moves(one) else one, value, change))
        if not jax.tree_util.treedef_is_leaf(jax.tree.structure(measured)) or jax.numpy.shape(measured):
            raise ArgumentError(
                f"`jl.gauss_newton(f, loss)`: loss must return one scalar, it returns {_returned(measured)}; sum it, or take its mean."
            )
        return measured

    return approximated


def _returned(value: Any) -> str:
    return f"an array of shape {tuple(value.shape)}" if hasattr(value, "shape") else outline(value)


def half_squares(residuals: Any) -> Any:
    """Returns half the sum of the squares of all entries of a tree, of complex ones of their absolute values."""
    import jax
    import jax.numpy as jnp

    return sum(0.5 * jnp.sum(jnp.real(leaf * jnp.conj(leaf))) for leaf in jax.tree.leaves(residuals))


def _moves(leaf: Any) -> bool:
    """Returns whether a leaf has tangents: others, such as numbers of steps and names of methods, are left as they are."""
    import jax.numpy as jnp

    return isinstance(leaf, float | complex) or (hasattr(leaf, "dtype") and bool(jnp.issubdtype(leaf.dtype, jnp.inexact)))


@cache
def _rules() -> tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]:
    """Returns two functions for linearizing: a leaf's zero that moves as the leaf does, and a value that moves as its change does.

    Differences and sums would do as well, but of infinite entries, or entries with an infinite slope, they make NaN.
    """
    import jax
    import jax.numpy as jnp

    @jax.custom_jvp
    def still(leaf: Any) -> Any:
        return jnp.zeros_like(leaf)

    @still.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return still(*primals), tangents[0]

    @jax.custom_jvp
    def moved(value: Any, change: Any) -> Any:
        return value

    @moved.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return moved(*primals), tangents[1]

    return still, moved
