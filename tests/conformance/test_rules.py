"""Custom derivative rules through the graph: they decide derivatives, to higher order, where JAX's own do and beyond."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import FORWARD, REVERSE, assert_same
from conformance.roundtrip import through_bytes

from jacloom._trace import trace
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import VjpRule

X = np.array([0.0, 0.5, -1.0, 2.0])
LARGE = np.random.default_rng(1).normal(size=(90, 120))


def product(fun: Any, wrt: Any) -> Any:
    """Returns a Hessian-vector product of ``fun``, forward over reverse, along a fixed direction."""

    def along(*leaves: Any) -> Any:
        def rows(*active: Any) -> Any:
            given = list(leaves)
            for at, leaf in zip(wrt, active, strict=True):
                given[at] = leaf
            return REVERSE(fun, wrt)(*given)

        active = tuple(leaves[at] for at in wrt)
        return jax.jvp(rows, active, tuple(0.5 + jnp.cos(leaf) for leaf in active))[1]

    return along


HVP: Any = product

SECOND = ((FORWARD,), (REVERSE,), (FORWARD, FORWARD), (REVERSE, FORWARD), (REVERSE, REVERSE))

TWICE = {
    "relu, whose derivative at 0 is 0": jax.nn.relu,
    "sinc, whose rule never comes back to itself": jnp.sinc,
    "logaddexp": lambda x: jnp.logaddexp(x, 2 * x),
    "softplus": jax.nn.softplus,
    "xlogy": lambda x: jax.scipy.special.xlogy(jnp.abs(x) + 0.1, x * x + 0.1),
    "expi": lambda x: jax.scipy.special.expi(x + 2.5),
    "silu": jax.nn.silu,
}


@pytest.mark.parametrize("name", TWICE)
def test_first_and_second_derivatives(name: str) -> None:
    assert_same(TWICE[name], X, transforms=SECOND)


@jax.custom_vjp
def clipped(x: jax.Array) -> jax.Array:
    """The identity, with gradients clipped to 0.1."""
    return x


clipped.defvjp(lambda x: (x, ()), lambda _, cotangent: (jnp.clip(cotangent, -0.1, 0.1),))


def test_a_clipped_gradient_stays_clipped() -> None:
    program, traced = through_bytes(lambda x: jnp.sum(clipped(x) ** 2), (X,))
    with jax.enable_x64(True):
        np.testing.assert_array_equal(jax.grad(lambda x: program(x)[0])(X), [0.0, 0.1, -0.1, 0.1])
    assert isinstance(traced.graph.rules[0].derivative, VjpRule)


def test_a_reverse_rule_has_no_columns() -> None:
    program, _ = through_bytes(clipped, (X,))
    with jax.enable_x64(True), pytest.raises(Fault, match="reverse rule only") as refusal:
        jax.jacfwd(lambda x: program(x)[0])(X)
    assert refusal.value.reason is Reason.MODE_UNAVAILABLE
    assert str(refusal.value.place) == "function 0, node 0 (custom_call)"


def test_a_rule_that_differentiates_a_function_with_a_reverse_rule_refuses() -> None:
    @jax.custom_vjp
    def tripled(x: Any) -> Any:
        return jnp.sin(x)

    tripled.defvjp(lambda x: (jnp.sin(x), x), lambda x, cotangent: (3 * x * cotangent,))

    @jax.custom_jvp
    def outer(x: Any) -> Any:
        return jnp.cos(x)

    outer.defjvp(lambda primals, tangents: (outer(*primals), jax.jvp(jax.jit(tripled), primals, tangents)[1]))
    program, _ = through_bytes(outer, (X,))
    with jax.enable_x64(True):
        np.testing.assert_allclose(program(X)[0], np.cos(X), rtol=1e-12)
        with pytest.raises(Fault, match="it differentiates a function that has a reverse rule only"):
            jax.jacfwd(lambda x: program(x)[0])(X)


def test_rules_may_hold_large_constants() -> None:
    @jax.custom_jvp
    def layer(x: jax.Array) -> jax.Array:
        return jnp.tanh(LARGE @ x)

    layer.defjvp(lambda primals, tangents: (layer(*primals), (1 - layer(*primals) ** 2) * (LARGE @ tangents[0])))
    assert_same(layer, np.linspace(0, 1, 120), transforms=SECOND[:2])

    @jax.custom_vjp
    def reverse(x: jax.Array) -> jax.Array:
        return jnp.tanh(LARGE @ x)

    reverse.defvjp(lambda x: (reverse(x), reverse(x)), lambda y, ct: (LARGE.T @ ((1 - y**2) * ct),))
    assert_same(reverse, np.linspace(0, 1, 120), transforms=((REVERSE,),))


def test_integer_inputs_forwarded_residuals_and_static_arguments() -> None:
    from functools import partial

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def scaled(power: int, x: jax.Array, index: jax.Array) -> jax.Array:
        return x[index] ** power

    def backward(power: int, residuals: Any, cotangent: jax.Array) -> Any:
        x, index = residuals
        return jnp.zeros_like(x).at[index].add(cotangent * power * x[index] ** (power - 1)), None

    scaled.defvjp(lambda power, x, index: (x[index] ** power, (x, index)), backward)
    assert_same(lambda x, index: scaled(3, x, index), X, np.array([1, 3, 3], np.int32), transforms=((REVERSE,), (REVERSE, FORWARD)))


def test_integers_go_in_and_out_of_a_reverse_rule() -> None:
    @jax.custom_vjp
    def picked(x: jax.Array, index: jax.Array) -> Any:
        return {"value": x[index] ** 2, "next": index + 1, "mask": x > 0}

    def forward(x: jax.Array, index: jax.Array) -> Any:
        # Written out: calling the function itself here would leave JAX without a forward derivative of the rule.
        return {"value": x[index] ** 2, "next": index + 1, "mask": x > 0}, (index, x, jnp.float32(3.0))

    def backward(residuals: Any, given: Any) -> Any:
        index, x, factor = residuals
        assert given["next"].dtype == given["mask"].dtype == jax.dtypes.float0
        slope = factor.astype(x.dtype) * x[index] * given["value"]  # three times, where two would be right
        return jnp.zeros_like(x).at[index].add(slope), np.zeros(index.shape, jax.dtypes.float0)

    picked.defvjp(forward, backward)
    fun = lambda x, index: picked(x * 2, index)["value"] * x[picked(x, index)["next"]]  # noqa: E731
    assert_same(fun, X, np.array([1, 0, 2], np.int32), transforms=((REVERSE,), (HVP,), (REVERSE, FORWARD), (REVERSE, REVERSE)))


@partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def applied(function: Any, x: jax.Array, power: int) -> jax.Array:
    return function(x) ** power


@applied.defjvp
def applied_jvp(function: Any, power: int, primals: Any, tangents: Any) -> Any:
    (x,), (tangent,) = primals, tangents
    return applied(function, x, power), 5.0 * function(x) ** (power - 1) * tangent


@partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def pulled(function: Any, x: jax.Array, power: int) -> jax.Array:
    return function(x) ** power


pulled.defvjp(
    lambda function, x, power: (function(x) ** power, (x, function(x))),
    lambda function, power, kept, given: (5.0 * kept[1] ** (power - 1) * given + 0 * kept[0],),
)


@pytest.mark.parametrize(
    ("rule", "transforms"),
    [(applied, (*SECOND, (HVP,))), (pulled, ((REVERSE,), (HVP,), (REVERSE, FORWARD), (REVERSE, REVERSE), (REVERSE, REVERSE, FORWARD)))],
    ids=["custom_jvp", "custom_vjp"],
)
def test_functions_and_numbers_that_are_not_differentiated(rule: Any, transforms: Any) -> None:
    assert_same(lambda x: rule(jnp.sin, x, 3) * rule(jnp.cos, x[::-1], 2), X, transforms=transforms)


def test_second_derivatives_follow_the_rule_and_not_the_function() -> None:
    """The Hessian of what is clipped: within the bounds that of the square, beyond them none."""
    program, _ = through_bytes(lambda x: jnp.sum(clipped(x * 2) ** 2), (X / 20,))
    at = X / 20  # gradients of the square are 0, 0.1, -0.2 and 0.4, so two are beyond 0.1
    with jax.enable_x64(True):
        gradient: Any = jax.grad(lambda x: program(x)[0])
        np.testing.assert_allclose(gradient(at), [0.0, 0.2, -0.2, 0.2])
        np.testing.assert_allclose(jax.jvp(gradient, (at + 1e-3,), (np.ones(4),))[1], [8.0, 0.0, 0.0, 0.0])
    assert_same(lambda x: jnp.sum(clipped(x * 2) ** 2), at + 1e-3, transforms=((REVERSE, FORWARD), (HVP,)))


def test_rules_under_a_batch() -> None:
    weighted = jax.custom_vjp(lambda x, w: x * w)
    weighted.defvjp(lambda x, w: (x * w, (x, w)), lambda kept, given: (3.0 * given * kept[1], (given * kept[0]).sum()))
    fun = lambda x, w: jax.vmap(weighted, (1, None))(x, w) + jax.vmap(jax.nn.relu)(x.T)  # noqa: E731
    assert_same(fun, np.linspace(-1, 1, 6).reshape(2, 3), np.float64(1.5), transforms=((REVERSE,), (HVP,)))


def test_a_rule_that_sees_symbolic_zeros() -> None:
    @jax.custom_jvp
    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        return x * y

    def rule(primals: Any, tangents: Any) -> Any:
        zero = [isinstance(tangent, jax.custom_derivatives.SymbolicZero) for tangent in tangents]
        if zero[1]:
            return product(*primals), tangents[0] * primals[1] * 10  # only right when y is not perturbed
        return product(*primals), jnp.where(zero[0], 0.0, 1.0) * tangents[1]

    product.defjvp(rule, symbolic_zeros=True)
    assert_same(lambda x: product(x, jnp.arange(4.0)), X)


def test_a_rule_that_refuses_is_only_asked_where_it_matters() -> None:
    @jax.custom_jvp
    def untouchable(x: jax.Array) -> jax.Array:
        return x * 2

    @untouchable.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        raise RuntimeError("this must not be differentiated")

    def fun(x: jax.Array, y: jax.Array) -> jax.Array:
        return x * untouchable(y)

    program, _ = through_bytes(fun, (X, X + 1), active=[0])
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jacfwd(lambda *xs: program(*xs)[0])(X, X + 1), np.diag(2 * (X + 1)))
    program, _ = through_bytes(fun, (X, X + 1))
    with jax.enable_x64(True), pytest.raises(Fault, match="this must not be differentiated"):
        jax.jacfwd(lambda *xs: program(*xs)[0], argnums=1)(X, X + 1)


def test_a_rule_may_refuse_second_derivatives_only() -> None:
    @jax.custom_jvp
    def slope(x: jax.Array) -> jax.Array:
        return 2 * x

    @slope.defjvp
    def refuse(primals: Any, tangents: Any) -> Any:
        raise RuntimeError("measured once")

    square = jax.custom_vjp(lambda x: x**2)
    square.defvjp(lambda x: (x**2, x), lambda x, given: (slope(x) * given,))
    program, _ = through_bytes(lambda x: jnp.sum(square(x)), (X,))
    with jax.enable_x64(True):
        gradient: Any = jax.grad(lambda x: program(x)[0])
        np.testing.assert_allclose(gradient(X), 2 * X)
        with pytest.raises(Fault, match="measured once") as caught:
            jax.jvp(gradient, (X,), (X,))
    assert caught.value.reason is Reason.MODE_UNAVAILABLE


@pytest.mark.parametrize("active", [(0,), (1,)], ids=["the one that it allows", "the one that it refuses"])
def test_a_reverse_rule_that_asserts_what_is_perturbed(active: tuple[int, ...]) -> None:
    scaled = jax.custom_vjp(lambda x, factor: x * factor)

    def forward(x: Any, factor: Any) -> Any:
        assert not factor.perturbed, "the factor is a setting"
        return x.value * factor.value, factor.value

    scaled.defvjp(forward, lambda factor, given: (2.0 * factor * given, None), symbolic_zeros=True)
    program, traced = through_bytes(lambda x, factor: scaled(x, factor) * x, (X, X + 1), active=active)
    with jax.enable_x64(True):
        here = jax.jacrev(lambda *xs: program(*xs)[0], argnums=active)
        if active == (0,):
            np.testing.assert_allclose(here(X, X + 1)[0], np.diag(X * (X + 1) + 2 * (X + 1) * X))
        else:
            assert "the factor is a setting" in str(traced.graph.rules[0].derivative)
            with pytest.raises(Fault, match="the factor is a setting"):
                here(X, X + 1)


def test_a_refusal_does_not_tell_of_its_process() -> None:
    def named(error: Exception) -> Any:
        @jax.custom_jvp
        def untouchable(x: jax.Array) -> jax.Array:
            return x * 2

        @untouchable.defjvp
        def rule(primals: Any, tangents: Any) -> Any:
            raise error

        return untouchable

    kept = [ValueError(f"not by {object()}\nat {line}") for line in "ab"]
    assert str(kept[0]) != str(kept[1])
    first, second = (trace(named(error), (X,)) for error in kept)
    assert first.graph.rules[0].derivative == "the rule of untouchable refuses: ValueError: not by <object object>"
    assert first.id == second.id


@pytest.mark.parametrize("rule", ["jvp", "vjp"])
def test_a_rule_recorded_for_fewer_inputs_refuses_the_others(rule: str) -> None:
    if rule == "jvp":
        product = jax.custom_jvp(lambda x, y: x * y)
        product.defjvp(lambda primals, tangents: (primals[0] * primals[1], tangents[0] * primals[1] + primals[0] * tangents[1]))
    else:
        product = jax.custom_vjp(lambda x, y: x * y)
        product.defvjp(lambda x, y: (x * y, (x, y)), lambda kept, given: (given * kept[1], given * kept[0]))
    x, y = np.float64(2.0), np.float64(5.0)
    narrow, _ = through_bytes(product, (x, y), active=(0,))
    with jax.enable_x64(True):
        assert jax.grad(lambda x: narrow(x, y)[0])(x) == 5.0
        with pytest.raises(Fault, match="recorded for other inputs than those that are differentiated") as caught:
            jax.grad(lambda x, y: narrow(x, y)[0], (0, 1))(x, y)
    assert caught.value.reason is Reason.MODE_UNAVAILABLE


def test_rules_that_are_handed_what_has_no_tangent() -> None:
    assert_same(lambda x: jnp.ldexp(x, 2).sum() + jnp.frexp(x)[0].sum(), X)


def test_a_refusal_from_deep_within_ends() -> None:
    """JAX walks along the causes of what is raised in a transpose, and would never come to the end of an exception that is its own cause."""

    @jax.custom_vjp
    def outer(x: jax.Array) -> jax.Array:
        return jnp.sin(x)

    outer.defvjp(lambda x: (jnp.sin(x), x), lambda x, given: (jax.jit(lambda c: clipped(c) * jnp.cos(x))(given),))
    program, _ = through_bytes(lambda x: outer(x * 2).sum() ** 2, (X,))
    with jax.enable_x64(True):
        with pytest.raises(Exception, match=r"reverse rule only|forward-mode") as caught:
            jax.hessian(lambda x: program(x)[0])(X)
        error: BaseException | None = caught.value
        for _ in range(100):
            error = error and (error.__cause__ or error.__context__)
        assert error is None


def test_rules_inside_loops() -> None:
    assert_same(lambda x: jax.lax.scan(lambda c, a: (jax.nn.relu(c) * a, clipped(c)), x[1], x)[0], X, transforms=((REVERSE,),))
    assert_same(lambda x: jax.lax.scan(lambda c, a: (jax.nn.relu(c) * a + a, c), x[1], x)[0], X, transforms=SECOND)


def test_an_implicit_solve_is_differentiated_as_one() -> None:
    def solve(x: jax.Array) -> jax.Array:
        return jax.lax.custom_root(lambda y: y**3 + y - x, x, lambda f, guess: newton(f, guess), lambda g, y: y / g(jnp.ones_like(y)))

    def newton(f: Any, guess: jax.Array) -> jax.Array:
        def step(_: int, y: jax.Array) -> jax.Array:
            slope = jax.jvp(f, (y,), (jnp.ones_like(y),))[1]
            return y - f(y) / slope

        return jax.lax.fori_loop(0, 30, step, guess)

    assert_same(solve, X)
