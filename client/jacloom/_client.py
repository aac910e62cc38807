"""The client: the methods that users call, each a few lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from jacloom import _tracing
from jacloom._argnums import Argnums, normal
from jacloom._certificate import Certificate
from jacloom._deadline import Deadline
from jacloom._diagnosis import Diagnosis
from jacloom._errors import ArgumentError, OptionError
from jacloom._examination import Examination
from jacloom._function import Function
from jacloom._jobs.methods import Jobs
from jacloom._linear import Linear
from jacloom._matrices import Hessian, Jacobian
from jacloom._options import CallOptions, Mode, OnProgress, Tile, check_flags, check_mode, check_tile
from jacloom._plan import Plan
from jacloom._products import HessianProduct, Pullback, Pushforward, require_primals
from jacloom._remote import RemoteFunction
from jacloom._returning import returning
from jacloom._session import AnyFunction, Session
from jacloom._signature import display_name, label_of, parse_id
from jacloom._sparsity import Output, Sparsity, check_output, pattern
from jacloom._transform import Evaluation, Gradient, Transform

if TYPE_CHECKING:
    from jacloom._operator import DerivativeOperator  # loaded where it is needed: with it comes SciPy's linear algebra


class Client(Jobs):
    """Derivatives from a service. Made by ``jl.connect``; safe to share between threads, not between forked processes.

    In all methods, ``f`` is a callable that JAX can trace, a ``jl.Function``, a ``jl.RemoteFunction``, or a function's id. Arguments are pytrees of
    arrays and numbers; Python bools, ints and strings that are not differentiated are fixed while tracing. Results have the function's tree, with
    leaves that are NumPy arrays of their own, writable. Every method takes ``timeout`` in seconds (default: no limit), after which the work is
    cancelled and ``jl.DeadlineExceeded`` raised; those that compute take ``on_progress``, which is called with ``jl.Progress`` and replaces the bar
    that long calls show on a terminal. All errors derive from ``jl.JacloomError``.
    """

    def __init__(self, session: Session) -> None:
        """Wraps a session; use ``jl.connect`` instead."""
        self._session = session

    @returning(lambda f: _label(f))
    def evaluate(self, f: AnyFunction, *, timeout: float | None = None, on_progress: OnProgress | None = None) -> Callable[..., Any]:
        """Returns a function that computes ``f`` itself on the service."""
        return self._deferred(f, Evaluation(), CallOptions(timeout, on_progress))

    @returning(lambda f: _label(f))
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
            verify: Whether the gradient is compared with a JVP and with finite differences; ``jl.VerificationError`` if they differ.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> client.grad(lambda x: (x**2).sum())(np.array([1.0, 2.0]))
            array([2., 4.])
        """
        chosen = _chosen("grad", f, argnums, has_aux=has_aux, holomorphic=holomorphic, verify=verify)
        return self._deferred(f, Gradient(chosen, has_aux, holomorphic), CallOptions(timeout, on_progress, verify))

    @returning(lambda f: _label(f))
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
        return self._deferred(f, Gradient(chosen, has_aux, holomorphic, value=True), CallOptions(timeout, on_progress, verify))

    @returning(lambda f: _label(f))
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
                does not; a pattern says it: a sparse matrix or a two-dimensional boolean array, shape ``(m, n)``.
            output: ``"dense"`` for blocks; ``"csr"``, ``"csc"`` or ``"coo"`` for one sparse SciPy array, shape ``(m, n)``, whose rows are the
                entries of all output leaves one after the other, each in C order, its columns those of all leaves that are differentiated. Its
                dtype holds the entries of all blocks. SciPy has no sparse arrays of float16 or bfloat16: these come as float32, which holds their
                values exactly.
            holomorphic: Whether ``f`` is a holomorphic function of complex inputs.
            tile: Seeds that a worker takes at a time; ``"auto"`` leaves it to the service.
            verify: Whether the result is compared with a JVP and a VJP along random vectors; ``jl.VerificationError`` names an entry that is wrong.
                A pattern that is passed as ``sparsity`` is always held against one of them.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> f = lambda x: jnp.stack([x[0] ** 2 * x[1], 5 * x[0] + jnp.sin(x[1])])
            >>> client.jacobian(f)(np.array([2.0, 0.0]))
            array([[0., 4.],
                   [5., 1.]])
        """
        asked = _chosen("jacobian", f, argnums, has_aux=has_aux, holomorphic=holomorphic, verify=verify)
        transform = Jacobian(asked, has_aux, holomorphic, tile, *_sparse("jacobian", f, sparsity, output), mode)
        _check(f, transform, mode, tile)
        return self._deferred(f, transform, CallOptions(timeout, on_progress, verify))

    @returning(lambda f: _label(f))
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

        A pattern, and a sparse output, are for functions that return one scalar, or that have ``weights``: shape ``(n, n)``.

        Args:
            f: Any function.
            argnums: As for ``jacobian``; the same for the options that are not explained here.
            has_aux: As for ``jacobian``.
            weights: One number for each entry of the result, in its tree, dtypes and shapes. Differentiated is then the sum of all entries times
                their weights: of constraints with their multipliers, the part of a Lagrangian's Hessian that they make. Read at each call.
            sparsity: As for ``jacobian``.
            output: As for ``jacobian``.
            holomorphic: As for ``jacobian``.
            tile: As for ``jacobian``.
            verify: As for ``jacobian``.
            timeout: Seconds; see the class.
            on_progress: See the class.

        Example:
            >>> client.hessian(lambda x: x**3, weights=np.array([1.0, 10.0]))(np.array([1.0, 2.0]))
            array([[  6.,   0.],
                   [  0., 120.]])
        """
        asked = _chosen("hessian", f, argnums, has_aux=has_aux, holomorphic=holomorphic, verify=verify)
        transform = Hessian(asked, has_aux, holomorphic, tile, *_sparse("hessian", f, sparsity, output), weights is not None)
        _check(f, transform, "auto", tile)
        return self._deferred(f, transform, CallOptions(timeout, on_progress, verify), weights)

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
        check_flags(f"client.jvp({_label(f)}, primals, tangents)", _TUPLES, has_aux=has_aux)
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
        check_flags(f"client.vjp({_label(f)}, primals, cotangents)", _TUPLES, has_aux=has_aux)
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

    def linear_operator(
        self,
        f: AnyFunction,
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
        differentiated. ``matvec`` is a JVP, ``rmatvec`` a VJP, with complex numbers the product with the conjugate transpose; ``matmat`` and
        ``rmatmat`` send all columns in one call, spread over the workers. Vectors are converted to the leaves' dtypes. The arguments are copied, and
        large ones are sent once and stay on the service until the operator is closed, as by a ``with`` block, or nobody refers to it any more; what
        workers keep besides, so as not to compute the function for each product, goes when they need the room.
        Workers keep what does not depend on the vectors, where that is cheaper than computing the function for each product.

        Args:
            f: Any function of floating-point inputs and outputs. Where it has a derivative in one mode only, the other product is refused.
            *args: The point.
            argnums: Which positional arguments to differentiate, as for ``jacobian``.
            has_aux: Whether ``f`` returns ``(out, aux)``; ``aux`` is left alone.
            derivative: ``"jacobian"``; or ``"hessian"`` of a scalar function, shape ``(n, n)``, whose products are those of ``hvp``.
            weights: Of the outputs, as for ``hessian``: the function may then return anything. Copied, as the arguments are.
            holomorphic: Whether ``f`` is a holomorphic function of complex inputs.
            timeout: Seconds for each product; see the class.
            **kwargs: Arguments of ``f`` by name; never differentiated.

        Example:
            >>> J = client.linear_operator(lambda x: x**2, np.array([1.0, 2.0, 3.0]))
            >>> J @ np.array([1.0, 1.0, 0.0]), J.shape
            (array([2., 4., 0.]), (3, 3))
        """
        from jacloom._operator import DerivativeOperator

        check_flags(f"client.linear_operator({_label(f)})", has_aux=has_aux, holomorphic=holomorphic)
        if derivative not in ("jacobian", "hessian"):
            raise OptionError(f"`client.linear_operator({_label(f)}, derivative={derivative!r})`: derivative must be 'jacobian' or 'hessian'.")
        if weights is not None and derivative != "hessian":
            text = f"`client.linear_operator({_label(f)}, weights=...)`: weights are for derivative='hessian'; of a Jacobian, `rmatvec` applies them."
            raise OptionError(text)
        question = Linear(normal(argnums), has_aux, derivative, holomorphic, weights is not None)
        return DerivativeOperator(self._session, f, args, kwargs, question, weights, timeout)

    def explain(
        self,
        f: AnyFunction,
        *args: Any,
        derivative: Literal["jacobian", "hessian"] = "jacobian",
        argnums: Argnums = 0,
        has_aux: bool = False,
        mode: Mode = "auto",
        weights: Any = None,
        sparsity: Sparsity = "auto",
        output: Output = "dense",
        holomorphic: bool = False,
        tile: Tile = "auto",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Plan:
        """Returns how a derivative would be computed, and why so, without computing it. ``print`` it; ``spy`` draws the pattern, coloured by passes.

        Args:
            f: The function.
            *args: Its arguments, or shapes of them such as ``jax.ShapeDtypeStruct``. Traced and registered functions have types and need none.
            derivative: ``"jacobian"`` or ``"hessian"``.
            argnums: As for the derivative explained; the same for the options that follow.
            has_aux: As for the derivative.
            mode: As for ``jacobian``.
            weights: As for ``hessian``; whether there are any is all that matters.
            sparsity: As for the derivative.
            output: As for the derivative.
            holomorphic: As for the derivative.
            tile: As for the derivative.
            timeout: Seconds; see the class.
            **kwargs: Arguments of ``f`` by name.

        Example:
            >>> plan = client.explain(lambda x: x[1:] - x[:-1], np.ones(1000), output="csr")
            >>> plan.strategy, plan.passes, plan.pattern().nnz
            ('coloured forward', 2, 1998)
        """
        check_flags(f"client.explain({_label(f)})", has_aux=has_aux, holomorphic=holomorphic)
        transform: Transform
        if derivative == "jacobian":
            if weights is not None:
                raise OptionError(f"`client.explain({_label(f)}, weights=...)`: weights are for derivative='hessian'; leave them out.")
            transform = Jacobian(normal(argnums), has_aux, holomorphic, tile, *_sparse("explain", f, sparsity, output), mode)
        elif derivative == "hessian" and mode == "auto":
            transform = Hessian(normal(argnums), has_aux, holomorphic, tile, *_sparse("explain", f, sparsity, output), weights is not None)
        elif derivative == "hessian":
            raise OptionError(f"`client.explain({_label(f)}, derivative='hessian', mode={mode!r})`: a Hessian has no mode; leave it out.")
        else:
            raise OptionError(f"`client.explain({_label(f)}, derivative={derivative!r})`: derivative must be 'jacobian' or 'hessian'.")
        _check(f, transform, mode, tile)
        return self._session.explain(f, args, kwargs, transform, CallOptions(timeout))

    def diagnose(self, f: AnyFunction, *args: Any, argnums: Argnums | None = None, timeout: float | None = None, **kwargs: Any) -> Diagnosis:
        """Returns which operation first made a NaN or an Inf, in the value or in the derivative, and which inputs nothing depends on. ``print`` it.

        What reaches the outputs counts: an Inf that is used up on the way, as by a softmax over a mask of -inf, is in order. Of a NaN the operation
        is named that made it of operands without any, of an Inf the one that made it of finite operands. A derivative is followed forward, along a
        fixed direction. Where that is finite and a gradient is not, the operation is named whose own derivative is not finite: ``sqrt`` at 0, say,
        in front of a ``where`` that drops its result, but not its derivative in reverse.

        Args:
            f: The function.
            *args: Its arguments.
            argnums: Which positional arguments to differentiate, as for ``grad``. Default: all, as far as they have derivatives.
            timeout: Seconds; see the class.
            **kwargs: Arguments of ``f`` by name; never differentiated.

        Example:
            >>> client.diagnose(lambda x: jnp.sqrt(x).sum(), np.array([0.0, 4.0])).derivative.op
            'sqrt'
        """
        chosen = None if argnums is None else normal(argnums)
        return self._session.diagnose(f, args, kwargs, Examination("diagnose", chosen), CallOptions(timeout))

    def check(
        self, f: AnyFunction, *args: Any, argnums: Argnums | None = None, seed: int = 0, timeout: float | None = None, **kwargs: Any
    ) -> Certificate:
        """Returns whether the derivatives of a function at a point are right, in both modes. ``print`` it; it is true if all holds.

        Compared are, along random vectors: finite differences with a JVP, entry by entry; a JVP with a VJP (``<u, J v> = <J^T u, v>``); and the
        values that come with them. That takes five evaluations, a JVP and a VJP; what looks wrong is looked at more closely. Found are rules of
        ``jax.custom_jvp`` and ``jax.custom_vjp`` that are wrong, by more than about half of the dtype's digits, and kinks and jumps at the point.

        Args:
            f: The function.
            *args: Its arguments.
            argnums: Which positional arguments to differentiate, as for ``grad``. Default: all, as far as they have derivatives.
            seed: Of the random vectors.
            timeout: Seconds; see the class.
            **kwargs: Arguments of ``f`` by name; never differentiated.

        Raises:
            ModeUnavailableError: if the function has derivatives in neither mode.

        Example:
            >>> print(client.check(jnp.abs, np.array([1.0, 0.0])).findings[1].verdict.value)
            kink
        """
        chosen = None if argnums is None else normal(argnums)
        return self._session.check(f, args, kwargs, Examination("check", chosen), seed, CallOptions(timeout))

    def register(
        self, f: Callable[..., Any] | Function, *example: Any, name: str | None = None, timeout: float | None = None, **kwargs: Any
    ) -> RemoteFunction:
        """Registers a function for arguments like the examples, and returns it: prepared once, differentiated many times.

        Args:
            f: A callable, or a ``jl.Function``, whose types are fixed already and which takes no examples.
            *example: Arrays, numbers or shapes, as for ``jl.trace``.
            name: For people, at most 128 characters; default: the function's own.
            timeout: Seconds; see the class.
            **kwargs: Further examples by name.

        Raises:
            ArgumentError: if examples are given for a ``jl.Function``, or the name is none.
            GraphError: if the service finds the graph at fault.
        """
        if isinstance(f, Function):
            if example or kwargs:
                raise ArgumentError("`client.register(function)`: the types of a jl.Function are fixed, so it takes no examples.")
            function = f
        elif callable(f):
            function = _tracing.trace(f, *example, **kwargs)
        else:
            raise ArgumentError(f"`client.register(f, *example)`: f must be a callable or a jl.Function, got {type(f).__name__}.")
        return self._session.registry.register(function, display_name(name or _label(f)), Deadline(timeout))

    def function(self, function_id: str, *, timeout: float | None = None) -> RemoteFunction:
        """Returns a registered function by its id.

        Raises:
            FunctionNotFoundError: if the service does not hold it.
        """
        return self._session.registry.get(parse_id(function_id), Deadline(timeout))

    def functions(self, *, timeout: float | None = None) -> list[RemoteFunction]:
        """Returns the functions that the service holds, newest first."""
        return self._session.registry.list(Deadline(timeout))

    def delete(self, function: RemoteFunction | Function | str, *, timeout: float | None = None) -> None:
        """Deletes a function from the service.

        Raises:
            FunctionNotFoundError: if the service does not hold it.
        """
        function_id = function.id if isinstance(function, RemoteFunction | Function) else parse_id(function)
        self._session.registry.delete(function_id, Deadline(timeout))

    def close(self) -> None:
        """Ends the connection, calls under way included; the last client of a local service stops it. Closing twice does nothing."""
        self._session.connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _deferred(self, f: AnyFunction, transform: Transform, options: CallOptions, given: Any = None) -> Callable[..., Any]:
        def transformed(*args: Any, **kwargs: Any) -> Any:
            return self._session.run(f, args, kwargs, transform, given, options)

        transformed.__name__ = f"{transform.call}_of_{_label(f)}"
        transformed.__doc__ = f"Computes `{transform.spelled(_label(f))}` at these arguments, on the service."
        return transformed

    def _product(self, f: AnyFunction, transform: Transform, primals: Sequence[Any], vector: Any, options: CallOptions) -> Any:
        point = require_primals(transform.call, _label(f), primals)
        return self._session.run(f, point, {}, transform, vector, options)


_TUPLES = "Several arguments of the function are one tuple here, as are their vectors: (x, y)."


def _chosen(method: str, f: AnyFunction, argnums: Argnums, **flags: object) -> int | tuple[int, ...]:
    """Returns ``argnums`` as an int or a tuple, having checked the flags of a method that returns a function of the point."""
    call = f"client.{method}({_label(f)})"
    check_flags(call, f"A point goes to the function that comes back: `{call}(x)`.", **flags)
    return normal(argnums, call)


def _label(f: AnyFunction) -> str:
    return "f" if isinstance(f, str | Function | RemoteFunction) else label_of(f)


def _sparse(method: str, f: AnyFunction, sparsity: Sparsity, output: Output) -> tuple[Any, Output]:
    call = f"client.{method}({_label(f)}, ...)"
    given = pattern(call, sparsity)
    check_output(call, output, sparsity)
    return sparsity if given is None else given, output


def _check(f: AnyFunction, transform: Transform, mode: str, tile: object) -> None:
    call = transform.spelled(_label(f))
    check_mode(call, mode)
    check_tile(call, tile)
