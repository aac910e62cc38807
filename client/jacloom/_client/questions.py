"""The methods that tell about a function and its derivatives: how they would be computed, whether they are right, what is wrong."""

from __future__ import annotations

from typing import Any, Literal

from jacloom._argnums import Argnums, normal
from jacloom._certificate import Certificate
from jacloom._client.methods import Methods, label
from jacloom._client.options import check_passes, sparse_options
from jacloom._diagnosis import Diagnosis
from jacloom._errors import OptionError
from jacloom._examination import Checking, Diagnosing
from jacloom._matrices import ExplainedHessian, ExplainedJacobian
from jacloom._options import CallOptions, Mode, Tile, check_flags, check_seed
from jacloom._plan import Plan
from jacloom._pointed import pointed
from jacloom._session import AnyFunction
from jacloom._sparsity import Output, Sparsity
from jacloom._transform import Transform


class Questions(Methods):
    """What there is to know besides the derivative itself."""

    @pointed(label)
    def explain(
        self,
        f: AnyFunction,
        /,
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
            **kwargs: Arguments of ``f`` by name. One that is called like an option of these, such as ``mode``, is that option: of ``f`` it is bound
                with ``functools.partial(f, mode=...)``.

        Example:
            >>> plan = client.explain(lambda x: x[1:] - x[:-1], np.ones(1000), output="csr")
            >>> plan.strategy, plan.passes, plan.pattern().nnz
            ('coloured forward', 2, 1998)
        """
        check_flags(f"client.explain({label(f)})", has_aux=has_aux, holomorphic=holomorphic)
        transform: Transform
        if derivative == "jacobian":
            if weights is not None:
                raise OptionError(f"`client.explain({label(f)}, weights=...)`: weights are for derivative='hessian'; leave them out.")
            transform = ExplainedJacobian(normal(argnums), has_aux, holomorphic, tile, *sparse_options("explain", f, sparsity, output), mode)
        elif derivative == "hessian" and mode == "auto":
            transform = ExplainedHessian(
                normal(argnums), has_aux, holomorphic, tile, *sparse_options("explain", f, sparsity, output), weights is not None
            )
        elif derivative == "hessian":
            raise OptionError(f"`client.explain({label(f)}, derivative='hessian', mode={mode!r})`: a Hessian has no mode; leave it out.")
        else:
            raise OptionError(f"`client.explain({label(f)}, derivative={derivative!r})`: derivative must be 'jacobian' or 'hessian'.")
        check_passes(f, transform, mode, tile)
        return self._session.explain(f, args, kwargs, transform, CallOptions(timeout))

    @pointed(label)
    def diagnose(self, f: AnyFunction, /, *args: Any, argnums: Argnums | None = None, timeout: float | None = None, **kwargs: Any) -> Diagnosis:
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
            **kwargs: Arguments of ``f`` by name; never differentiated. Options come first, as in ``explain``.

        Example:
            >>> client.diagnose(lambda x: jnp.sqrt(x).sum(), np.array([0.0, 4.0])).derivative.op
            'sqrt'
        """
        chosen = None if argnums is None else normal(argnums)
        return self._session.diagnose(f, args, kwargs, Diagnosing(chosen), CallOptions(timeout))

    @pointed(label)
    def check(
        self, f: AnyFunction, /, *args: Any, argnums: Argnums | None = None, seed: int = 0, timeout: float | None = None, **kwargs: Any
    ) -> Certificate:
        """Returns whether the derivatives of a function at a point are right, in both modes. ``print`` it; it is true if all that was compared holds.

        Compared are, along random vectors: finite differences with a JVP, entry by entry of the result; a JVP with a VJP
        (``<u, J v> = <J^T u, v>``); a VJP with that of a multiple of its cotangent; and the values that come with them. That takes five evaluations,
        a JVP and three VJPs; what looks wrong or is not clear is looked at more closely. Found are rules of ``jax.custom_jvp`` and
        ``jax.custom_vjp`` that are wrong or bend gradients, and kinks and jumps at the point. An entry holds only where finite differences tell its
        derivative along the vector to 2 per mille or better, in float32 to a tenth; others are told of as not checked, and if there are only such,
        as in float16, ``ok`` is false and the ``verdict`` is ``NOT_CHECKED``.

        Args:
            f: The function.
            *args: Its arguments.
            argnums: Which positional arguments to differentiate, as for ``grad``. Default: all, as far as they have derivatives.
            seed: Of the random vectors: 0 or more.
            timeout: Seconds; see the class.
            **kwargs: Arguments of ``f`` by name; never differentiated. Options come first, as in ``explain``.

        Raises:
            ModeUnavailableError: if the function has derivatives in neither mode.

        Example:
            >>> print(client.check(jnp.abs, np.array([1.0, 0.0])).findings[1].verdict.value)
            kink
        """
        chosen = None if argnums is None else normal(argnums)
        check_seed(f"client.check({label(f)}, ..., seed={seed!r})", seed)
        return self._session.check(f, args, kwargs, Checking(chosen), seed, CallOptions(timeout))
