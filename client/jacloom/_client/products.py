"""The methods that multiply with a derivative at a point: at once, or whenever a solver asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from jacloom._argnums import Argnums, normal
from jacloom._client.methods import Methods, label
from jacloom._errors import OptionError
from jacloom._linear import Linear
from jacloom._options import CallOptions, OnProgress, check_flags
from jacloom._pointed import pointed
from jacloom._products import HessianProduct, Pullback, Pushforward, require_primals
from jacloom._session import AnyFunction
from jacloom._transform import Transform

if TYPE_CHECKING:
    from jacloom._operator import DerivativeOperator  # loaded where it is needed: with it comes SciPy's linear algebra

_TUPLES = "Several arguments of the function are one tuple here, as are their vectors: (x, y)."


class Products(Methods):
    """Derivatives times vectors; the matrix is never computed."""

    def jvp(
        self,
        f: AnyFunction,
        primals: Sequence[Any],
        tangents: Sequence[Any],
        has_aux: bool = False,
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[Any, ...]:
        """Returns ``(out, tangent_out)``: the value, and the Jacobian times a vector, as ``jax.jvp``; with ``has_aux``, ``aux`` as well.

        Args:
            f: Any function.
            primals: The point: a tuple with one entry per argument.
            tangents: The vector, in the tree, dtypes and shapes of ``primals``; None or float0 for integer leaves.
            has_aux: Whether ``f`` returns ``(out, aux)``.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> client.jvp(jnp.sin, (0.0,), (2.0,))
            (array(0.), array(2.))
        """
        check_flags(f"client.jvp({label(f)}, primals, tangents)", _TUPLES, has_aux=has_aux)
        pushed: tuple[Any, ...] = self._product(f, Pushforward(has_aux), primals, tangents, CallOptions(timeout, on_progress))
        return pushed

    def vjp(
        self,
        f: AnyFunction,
        primals: Sequence[Any],
        cotangents: Any,
        has_aux: bool = False,
        *,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> tuple[Any, ...]:
        """Returns ``(out, cotangents_in)``: the value, and a vector times the Jacobian, one entry per primal; with ``has_aux``, ``aux`` as well.

        Args:
            f: Any function.
            primals: The point: a tuple with one entry per argument.
            cotangents: The vector, in the tree, dtypes and shapes of the result; None or float0 for integer leaves.
            has_aux: Whether ``f`` returns ``(out, aux)``.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> client.vjp(lambda x, y: x * y, (2.0, 3.0), 1.0)
            (array(6.), (array(3.), array(2.)))
        """
        check_flags(f"client.vjp({label(f)}, primals, cotangents)", _TUPLES, has_aux=has_aux)
        pulled: tuple[Any, ...] = self._product(f, Pullback(has_aux), primals, cotangents, CallOptions(timeout, on_progress))
        return pulled

    def hvp(
        self,
        f: AnyFunction,
        primals: Sequence[Any],
        tangents: Sequence[Any],
        *,
        weights: Any = None,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Any:
        """Returns the Hessian of a scalar function times a vector: bare for one primal, else a tuple. Arguments as for ``jvp``.

        With ``weights``, as for ``hessian``, the function may return anything: the Hessian is that of the weighted sum.

        Example:
            >>> client.hvp(lambda x: (x**3).sum(), (np.array([1.0, 2.0]),), (np.array([1.0, 0.0]),))
            array([6., 0.])
        """
        question = HessianProduct(weights is not None)
        return self._product(f, question, primals, (tangents, weights), CallOptions(timeout, on_progress))

    @pointed(label)
    def linear_operator(
        self,
        f: AnyFunction,
        /,
        *args: Any,
        argnums: Argnums = 0,
        has_aux: bool = False,
        derivative: Literal["jacobian", "hessian"] = "jacobian",
        weights: Any = None,
        holomorphic: bool = False,
        timeout: float | None = None,
        **kwargs: Any,
    ) -> DerivativeOperator:
        """Returns the derivative of ``f`` at a point as a ``scipy.sparse.linalg.LinearOperator``, for SciPy's solvers; the matrix is never computed.

        Its shape is ``(m, n)``: rows are the entries of all output leaves one after the other, each in C order, columns those of all leaves that are
        differentiated. ``matvec`` is a JVP, ``rmatvec`` a VJP; ``matmat`` and ``rmatmat`` send all columns in one call, spread over the workers. With
        complex numbers they are the products with the matrix that ``client.jacobian`` returns, and with its conjugate transpose: of complex inputs
        and real outputs ``matvec`` is no JVP then, which would be the real part. Vectors are converted to the leaves' dtypes. The arguments are
        copied, and large ones are sent once and stay on the service until the operator is closed, as by a ``with`` block, or nobody refers to it any
        more. While they have the room, workers keep what does not depend on the vectors, where that is cheaper than computing the function each time.

        Args:
            f: Any function of floating-point inputs and outputs. Where it has a derivative in one mode only, the other product is refused.
            *args: The point.
            argnums: Which positional arguments to differentiate, as for ``jacobian``.
            has_aux: Whether ``f`` returns ``(out, aux)``; ``aux`` is left alone.
            derivative: ``"jacobian"``; or ``"hessian"`` of a scalar function, shape ``(n, n)``, whose products are those of ``hvp``, from
                either side: second derivatives are symmetric. Where a custom rule makes them otherwise, ``client.linear_operator(jax.grad(f), x)``
                has the transpose, by VJPs of the gradient.
            weights: Of the outputs, as for ``hessian``: the function may then return anything. Copied, as the arguments are.
            holomorphic: Whether ``f`` is a holomorphic function of complex inputs.
            timeout: Seconds for each product; see the class.
            **kwargs: Arguments of ``f`` by name; never differentiated. Options come first, as in ``explain``.

        Example:
            >>> J = client.linear_operator(lambda x: x**2, np.array([1.0, 2.0, 3.0]))
            >>> J @ np.array([1.0, 1.0, 0.0]), J.shape
            (array([2., 4., 0.]), (3, 3))
        """
        from jacloom._operator import DerivativeOperator

        check_flags(f"client.linear_operator({label(f)})", has_aux=has_aux, holomorphic=holomorphic)
        if derivative not in ("jacobian", "hessian"):
            raise OptionError(f"`client.linear_operator({label(f)}, derivative={derivative!r})`: derivative must be 'jacobian' or 'hessian'.")
        if weights is not None and derivative != "hessian":
            text = f"`client.linear_operator({label(f)}, weights=...)`: weights are for derivative='hessian'; of a Jacobian, `rmatvec` applies them."
            raise OptionError(text)
        question = Linear(normal(argnums), has_aux, derivative, holomorphic, weights is not None)
        return DerivativeOperator(self._session, f, args, kwargs, question, weights, timeout)

    def _product(self, f: AnyFunction, transform: Transform, primals: Sequence[Any], vector: Any, options: CallOptions) -> Any:
        point = require_primals(transform.call, label(f), primals)
        return self._session.run(f, point, {}, transform, vector, options)
