"""The methods that return a function of the point: the function itself, its gradient, Jacobian and Hessian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jacloom._argnums import Argnums, normal
from jacloom._client.methods import Methods, label
from jacloom._client.options import check_passes, sparse_options
from jacloom._matrices import Hessian, Jacobian
from jacloom._options import CallOptions, Mode, OnProgress, Tile, check_flags
from jacloom._returning import returning
from jacloom._session import AnyFunction
from jacloom._sparsity import Output, Sparsity
from jacloom._transform import Evaluation, Gradient, Transform, ValueAndGradient


class Transforms(Methods):
    """Functions become functions: of the same arguments, computed on the service."""

    @returning(label)
    def evaluate(self, f: AnyFunction, *, timeout: float | None = None, on_progress: OnProgress | None = None) -> Callable[..., Any]:
        """Returns a function that computes ``f`` itself on the service."""
        return self._deferred(f, Evaluation(), CallOptions(timeout, on_progress))

    @returning(label)
    def grad(
        self,
        f: AnyFunction,
        argnums: Argnums = 0,
        has_aux: bool = False,
        *,
        holomorphic: bool = False,
        verify: bool = False,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Callable[..., Any]:
        """Returns a function that computes the gradient of the scalar function ``f``, as ``jax.grad``.

        Args:
            f: Returns a floating-point scalar, or with ``has_aux`` a pair of one and anything else.
            argnums: Which positional arguments to differentiate: one number gives a bare tree, a sequence a tuple.
            has_aux: Whether ``f`` returns ``(out, aux)``; the result is then ``(gradient, aux)``.
            holomorphic: Whether ``f`` is a holomorphic function of complex inputs.
            verify: Whether the gradient is compared with a JVP and with finite differences; ``jl.VerificationError`` if they differ, so wrong custom
                rules are found, and such as bend gradients. At a kink, where several are right, any is returned.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> client.grad(lambda x: (x**2).sum())(np.array([1.0, 2.0]))
            array([2., 4.])
        """
        chosen = _chosen("grad", f, argnums, has_aux=has_aux, holomorphic=holomorphic, verify=verify)
        return self._deferred(f, Gradient(chosen, has_aux, holomorphic), CallOptions(timeout, on_progress, verify))

    @returning(label)
    def value_and_grad(
        self,
        f: AnyFunction,
        argnums: Argnums = 0,
        has_aux: bool = False,
        *,
        holomorphic: bool = False,
        verify: bool = False,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Callable[..., Any]:
        """Returns a function that computes ``(value, gradient)``, or with ``has_aux`` ``((value, aux), gradient)``. Arguments as for ``grad``."""
        chosen = _chosen("value_and_grad", f, argnums, has_aux=has_aux, holomorphic=holomorphic, verify=verify)
        return self._deferred(f, ValueAndGradient(chosen, has_aux, holomorphic), CallOptions(timeout, on_progress, verify))

    @returning(label)
    def jacobian(
        self,
        f: AnyFunction,
        argnums: Argnums = 0,
        has_aux: bool = False,
        *,
        mode: Mode = "auto",
        sparsity: Sparsity = "auto",
        output: Output = "dense",
        holomorphic: bool = False,
        tile: Tile = "auto",
        verify: bool = False,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Callable[..., Any]:
        """Returns a function that computes all first derivatives of ``f``, as ``jax.jacobian``.

        Each block has the shape of the output leaf followed by that of the input leaf; blocks come in the tree of the result, and in each of its
        leaves the tree of the arguments that are differentiated.

        Args:
            f: Any function of floating-point inputs and outputs.
            argnums: Which positional arguments to differentiate: one number gives a bare tree, a sequence a tuple.
            has_aux: Whether ``f`` returns ``(out, aux)``; the result is then ``(jacobian, aux)``.
            mode: ``"forward"`` computes columns by JVPs, ``"reverse"`` rows by VJPs, ``"auto"`` what costs less.
            sparsity: ``"auto"`` finds out which entries are zero for every input and computes only the others, where that costs less; ``"dense"``
                does not; a pattern says it: a sparse matrix or a two-dimensional array, NumPy's or JAX's or nested lists, shape ``(m, n)``, of any
                numbers or booleans. Entries that are not zero, NaN among them, may differ from zero; a zero that a sparse matrix stores counts as
                none. A pattern that is passed is sent and held against the function with every call, which takes one product more: ``"auto"``, whose
                pattern the service finds once and knows to be right, is faster unless it finds more entries than there are. How a pattern is
                checked, see ``verify``.
            output: ``"dense"`` for blocks; ``"csr"``, ``"csc"`` or ``"coo"`` for one sparse SciPy array, shape ``(m, n)``, whose rows are the
                entries of all output leaves one after the other, each in C order, its columns those of all leaves that are differentiated. Its
                dtype holds the entries of all blocks. SciPy has no sparse arrays of float16 or bfloat16: these come as float32, which holds their
                values exactly.
            holomorphic: Whether ``f`` is a holomorphic function of complex inputs.
            tile: Seeds that a worker takes at a time; ``"auto"`` leaves it to the service.
            verify: Whether the result is compared with a JVP and a VJP along random vectors; ``jl.VerificationError`` names an entry that is wrong.
                Custom rules are believed, as both follow them, and kinks are not seen: ``client.check`` looks at the function itself. A pattern that
                is passed as ``sparsity`` is always held against one of them. What it misses is found if it is more than about ``sqrt(eps)`` of the
                absolute values in its row (1.5e-8 of them in float64, 3.5e-4 in float32); by VJPs alone, in its column. Where the result is not
                finite nothing can be compared, and a ``jl.JacloomWarning`` says so.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> f = lambda x: jnp.stack([x[0] ** 2 * x[1], 5 * x[0] + jnp.sin(x[1])])
            >>> client.jacobian(f)(np.array([2.0, 0.0]))
            array([[0., 4.],
                   [5., 1.]])
        """
        asked = _chosen("jacobian", f, argnums, has_aux=has_aux, holomorphic=holomorphic, verify=verify)
        transform = Jacobian(asked, has_aux, holomorphic, tile, *sparse_options("jacobian", f, sparsity, output), mode)
        check_passes(f, transform, mode, tile)
        return self._deferred(f, transform, CallOptions(timeout, on_progress, verify))

    @returning(label)
    def hessian(
        self,
        f: AnyFunction,
        argnums: Argnums = 0,
        has_aux: bool = False,
        *,
        weights: Any = None,
        sparsity: Sparsity = "auto",
        output: Output = "dense",
        holomorphic: bool = False,
        tile: Tile = "auto",
        verify: bool = False,
        timeout: float | None = None,
        on_progress: OnProgress | None = None,
    ) -> Callable[..., Any]:
        """Returns a function that computes all second derivatives of ``f``, as ``jax.hessian``. Arguments as for ``jacobian``.

        There is no ``mode``: second derivatives are taken forward over first ones, whose mode the service chooses. A pattern, and a sparse output,
        are for functions that return one scalar, or that have ``weights``: shape ``(n, n)``. Symmetry saves passes where it is certain. A custom rule
        may be such that there is none; then columns are computed, and what comes back is what JAX returns.

        Args:
            f: Any function.
            argnums: As for ``jacobian``; the same for the options that are not explained here.
            has_aux: As for ``jacobian``.
            weights: One number for each entry of the result, in its tree, dtypes and shapes. Differentiated is then the sum of all entries times
                their weights: of constraints with their multipliers, the part of a Lagrangian's Hessian that they make. Read at each call.
            sparsity: As for ``jacobian``. Of a pattern either triangle is enough: its mirror image is added.
            output: As for ``jacobian``.
            holomorphic: As for ``jacobian``.
            tile: As for ``jacobian``.
            verify: Whether the result is compared with an HVP along a random vector, and symmetric; of several outputs, with finite differences of
                VJPs. Custom rules are believed, and a pattern is checked, as for ``jacobian``.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> client.hessian(lambda x: x**3, weights=np.array([1.0, 10.0]))(np.array([1.0, 2.0]))
            array([[  6.,   0.],
                   [  0., 120.]])
        """
        asked = _chosen("hessian", f, argnums, has_aux=has_aux, holomorphic=holomorphic, verify=verify)
        transform = Hessian(asked, has_aux, holomorphic, tile, *sparse_options("hessian", f, sparsity, output), weights is not None)
        check_passes(f, transform, "auto", tile)
        return self._deferred(f, transform, CallOptions(timeout, on_progress, verify), weights)

    def _deferred(self, f: AnyFunction, transform: Transform, options: CallOptions, given: Any = None) -> Callable[..., Any]:
        def transformed(*args: Any, **kwargs: Any) -> Any:
            return self._session.run(f, args, kwargs, transform, given, options)

        transformed.__name__ = f"{transform.call}_of_{label(f)}"
        transformed.__doc__ = f"Computes `{transform.spelled(label(f))}` at these arguments, on the service."
        return transformed


def _chosen(method: str, f: AnyFunction, argnums: Argnums, **flags: object) -> int | tuple[int, ...]:
    """Returns ``argnums`` as an int or a tuple, having checked the flags of a method that returns a function of the point."""
    call = f"client.{method}({label(f)})"
    check_flags(call, f"A point goes to the function that comes back: `{call}(x)`.", **flags)
    return normal(argnums, call)
