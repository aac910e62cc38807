"""Derivatives with respect to some arguments of functions whose custom rules refuse others, through a real service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacloom as jl

X = np.array([0.5, 1.5, 1.25])
KNOTS = np.array([0.0, 1.0, 4.0, 2.0])
SCALE = np.array([2.0, 3.0])


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def interpolated(x: jax.Array, knots: jax.Array) -> jax.Array:
    return jnp.interp(x, jnp.arange(4.0), knots) ** 2


def forward_rule() -> Any:
    """Returns a custom_jvp that refuses tangents of the knots."""
    table = jax.custom_jvp(interpolated)

    def rule(primals: Any, tangents: Any) -> Any:
        if not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
            raise NotImplementedError("the knots are data")
        return table(*primals), 10.0 * tangents[0] * primals[0]

    table.defjvp(rule, symbolic_zeros=True)
    return table


def reverse_rule() -> Any:
    """Returns a custom_vjp whose forward part asserts that the knots are not perturbed."""
    table = jax.custom_vjp(interpolated)

    def forward(x: Any, knots: Any) -> Any:
        assert not knots.perturbed, "the knots are data"
        return interpolated(x.value, knots.value), x.value

    table.defvjp(forward, lambda x, given: (10.0 * given * x, None), symbolic_zeros=True)
    return table


def library_rule() -> Any:
    """Returns a rule in the style of diffrax's default adjoint: equinox tells it what is perturbed, and it wants less than everything."""

    @eqx.filter_custom_vjp
    def table(x: Any, *, knots: Any) -> Any:
        return interpolated(x, knots)

    @table.def_fwd
    def forward(perturbed: Any, x: Any, *, knots: Any) -> Any:
        return interpolated(x, knots), x

    @table.def_bwd
    def backward(residuals: Any, given: Any, perturbed: Any, x: Any, *, knots: Any) -> Any:
        return 10.0 * given * residuals

    return lambda x, knots: table(x, knots=knots)


RULES = {"custom_jvp": forward_rule, "custom_vjp": reverse_rule, "equinox": library_rule}


def model(table: Any) -> Any:
    """Returns a function of three arguments; only the knots may not be differentiated."""

    def f(scale: jax.Array, x: jax.Array, knots: jax.Array) -> dict[str, jax.Array]:
        return {"y": jnp.outer(scale, table(x, knots)), "total": jnp.sum(scale) * table(x, knots).sum()}

    return f


ARGS = (SCALE, X, KNOTS)


def same(got: Any, expected: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-10)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("how", ["callable", "traced", "registered", "id"])
def test_every_set_of_the_other_arguments(client: jl.Client, rule: str, how: str) -> None:
    f = model(RULES[rule]())
    fun: Any = f
    if how == "traced":
        fun = jl.trace(f, *ARGS)
    elif how in ("registered", "id"):
        registered = client.register(f, *ARGS)  # while it is here, its graph is found by its id too
        fun = registered if how == "registered" else registered.id
    with jax.enable_x64(True):
        for argnums in (1, 0, (0, 1), (1, 0)):
            same(client.jacobian(fun, argnums)(*ARGS), jax.jacrev(f, argnums)(*ARGS))
        total = lambda *args: f(*args)["total"]  # noqa: E731
        same(client.grad(total, 1)(*ARGS), jax.grad(total, 1)(*ARGS))
        same(client.hessian(total, (0, 1))(*ARGS), jax.hessian(total, (0, 1))(*ARGS))
    for argnums in (2, (0, 2)):
        with pytest.raises(jl.ModeUnavailableError):
            client.jacobian(fun, argnums)(*ARGS)
    same(client.jacobian(fun, 1)(*ARGS), client.jacobian(f, 1)(*ARGS))  # a refusal leaves no trace


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_function_is_what_it_was_traced_for(client: jl.Client, rule: str, tmp_path: Path) -> None:
    f = model(RULES[rule]())
    jl.trace(f, *ARGS).save(tmp_path / "f.jacloom")
    loaded = jl.load(tmp_path / "f.jacloom")
    with jax.enable_x64(True):
        same(client.evaluate(loaded)(*ARGS), f(*ARGS))
        # The scale does not go through the rule, so it is differentiated; x does, where the knots were active too.
        same(client.jacobian(loaded, 0)(*ARGS), jax.jacrev(f, 0)(*ARGS))
    with pytest.raises(jl.ModeUnavailableError):
        client.jacobian(loaded, 1)(*ARGS)


def test_argnums_narrower_than_traced_need_no_other_function(client: jl.Client) -> None:
    f = lambda scale, x: jnp.outer(scale, jax.nn.softplus(x) * jnp.sinc(x))  # noqa: E731
    before = {function.id for function in client.functions()}
    with jax.enable_x64(True):
        for argnums in ((0, 1), 1, 0):
            same(client.jacobian(f, argnums)(SCALE, X), jax.jacrev(f, argnums)(SCALE, X))
    assert len({function.id for function in client.functions()} - before) == 1


@pytest.mark.slow
def test_a_differential_equation_for_any_of_its_arguments(client: jl.Client) -> None:
    def final(rate: jax.Array, initial: jax.Array) -> jax.Array:
        term = diffrax.ODETerm(lambda t, y, rate: -y * jnp.sin(t) + rate * y**2)
        solution = diffrax.diffeqsolve(term, diffrax.Tsit5(), 0.0, 0.5, 0.05, initial, args=rate, max_steps=32)
        assert solution.ys is not None
        return solution.ys[-1]

    rate, initial = np.array([0.3]), np.array([0.5, 0.2])
    with jax.enable_x64(True):
        with pytest.warns(jl.JacloomWarning, match="error check"):  # when it is traced, which is once
            got = [client.jacobian(final, argnums)(rate, initial) for argnums in (0, 1, (0, 1))]
        for mine, argnums in zip(got, (0, 1, (0, 1)), strict=True):
            same(mine, jax.jacrev(final, argnums)(rate, initial))
