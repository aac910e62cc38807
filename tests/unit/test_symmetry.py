"""Whether second derivatives are known to be symmetric: of plain operations, of rules that can be shown to be harmless, and of no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy import special

import jacloom as jl
from jacloom_graph.types import Type
from jacloom_worker import gradients, structuring, symmetry
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Kernel, Kind, Prices, Structure
from jacloom_worker.raising import Program

pytestmark = pytest.mark.usefixtures("worker_jax")

FIVE = Type("float64", (5,))
HESSIAN = Kernel("f", Kind.HESSIAN, (0,), (0,))
PRICES = Prices(1.0, None)


@jax.custom_vjp
def gently(x: jax.Array) -> jax.Array:
    """The identity, whose gradient is clipped."""
    return x


gently.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -1.0, 1.0),))


@jax.custom_jvp
def lying(x: jax.Array) -> jax.Array:
    return x


lying.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))


@jax.custom_jvp
def consistent(x: jax.Array) -> jax.Array:
    """Its rule is wrong, and wrong in the same way of the value that it returns."""
    return x


consistent.defjvp(lambda primals, tangents: (consistent(primals[0]), 2 * tangents[0]))


@jax.custom_jvp
def crossed(x: jax.Array) -> jax.Array:
    """The slope of an entry depends on another one."""
    return x


crossed.defjvp(lambda primals, tangents: (crossed(primals[0]), tangents[0] * primals[0][::-1]))


@jax.custom_jvp
def logaddexp(x: jax.Array, y: jax.Array) -> jax.Array:
    """Named and computed as JAX's, with another rule."""
    return jnp.logaddexp(x, y)


logaddexp.defjvp(lambda primals, tangents: (logaddexp(*primals), tangents[0] * primals[1] + tangents[1]))


def scanned(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda carry, _: (jax.nn.softplus(carry) * x, None), x, length=3)[0]


def subject(f: Callable[..., Any], *inputs: Type) -> Subject:
    return Subject(lambda _, leaves: [f(*leaves)], inputs, (Type("float64"),))


def doubt(f: Callable[[jax.Array], jax.Array]) -> str:
    return symmetry.doubt(symmetry.suspects(subject(lambda x: jnp.sum(f(x) ** 2), FIVE), HESSIAN))


@pytest.mark.parametrize(
    "f",
    [
        jnp.sin,
        jax.nn.relu,
        jax.nn.softplus,
        jax.nn.log_sigmoid,
        jax.nn.silu,
        jnp.sinc,
        jax.nn.logsumexp,
        special.entr,
        consistent,
        lambda x: jnp.logaddexp(x[1:], x[:-1] ** 2),
        lambda x: jax.vmap(jnp.logaddexp)(x, x[::-1]),
        lambda x: special.xlogy(x[1:], x[:-1] ** 2 + 1),
        lambda x: special.xlog1py(x[1:], x[:-1] ** 2),
        lambda x: x * jax.lax.stop_gradient(gently(x)),
        lambda x: x * gently(jnp.ones(5)),
        lambda x: jnp.where(gently(x) > 0, x, x**2),
        scanned,
    ],
)
def test_symmetry_that_is_known(f: Any) -> None:
    assert doubt(f) == ""
    x = np.linspace(0.3, 1.4, 5)
    with jax.enable_x64(True):
        found = np.asarray(jax.hessian(lambda x: jnp.sum(jnp.ravel(f(x)) ** 2 * x[-1]))(x))
    np.testing.assert_allclose(found, found.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("f", "why"),
    [
        (gently, "a custom rule"),
        (lying, "a custom rule"),
        (crossed, "a custom rule"),
        (lambda x: logaddexp(x[1:], x[:-1]), "a custom rule"),
        (lambda x: jnp.stack([jax.nn.relu(x), lying(x)]), "a custom rule"),
        (lambda x: jax.jit(lambda y: jax.lax.cond(y[0] > 0, gently, jnp.sin, y))(x), "a custom rule"),
        (lambda x: jax.lax.fori_loop(0, 3, lambda _, y: gently(y) * x, x), "a custom rule"),
        (lambda x: jnp.linalg.solve(jnp.outer(x, x) + jnp.eye(5), x), "a linear solve"),
        (lambda x: jax.lax.linalg.cholesky(jnp.outer(x, x**2) + jnp.eye(5), symmetrize_input=False), "a Cholesky factorization"),
    ],
)
def test_symmetry_that_is_not_known(f: Any, why: str) -> None:
    assert doubt(f) == f"symmetry is not known after {why}"


def test_only_what_is_differentiated_matters() -> None:
    both = subject(lambda x, y: jnp.sum(x**2 * gently(y)), FIVE, FIVE)
    assert symmetry.suspects(both, HESSIAN) == []
    assert len(symmetry.suspects(both, Kernel("f", Kind.HESSIAN, (0, 1), (0,)))) == 1


def test_a_rule_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many layers of a network have it: for each type and each way of differentiating it once."""

    def network(x: jax.Array) -> jax.Array:
        for _ in range(10):
            x = jax.nn.relu(1.1 * x + jnp.logaddexp(x, x[::-1]))
        return jnp.sum(x) + jnp.sum(jax.nn.relu(x[:2]))

    calls = []
    honest = gradients.symmetric
    monkeypatch.setattr(gradients, "symmetric", lambda function, types, active: calls.append(types) or honest(function, types, active))
    program = Program(jl.trace(network, np.ones(5)).graph)
    found = symmetry.suspects(Subject(lambda _, leaves: program(*leaves), (FIVE,), (Type("float64"),)), HESSIAN)
    assert len(found) == 21
    assert symmetry.doubt(found) == ""
    assert len(calls) == 3


def structure(f: Callable[..., Any], **options: Any) -> Structure:
    made = structuring.structure(subject(f, FIVE), HESSIAN, PRICES, **options)
    assert isinstance(made, Structure)
    return made


def test_what_may_be_asymmetric_is_coloured_by_columns() -> None:
    """An arrowhead takes two passes with the help of symmetry, and one for each column without."""
    shape = lambda g: lambda x: jnp.sum(g(x)[1:] ** 2 * x[0])  # noqa: E731
    plain, relu, clipped = structure(shape(jnp.sin)), structure(shape(jax.nn.relu)), structure(shape(gently))
    assert (plain.strategy, plain.passes, plain.doubt) == ("star-coloured", 2, "")
    assert (relu.strategy, relu.passes, relu.doubt) == ("star-coloured", 2, "")
    assert (clipped.strategy, clipped.passes, clipped.doubt) == ("coloured forward", 5, "symmetry is not known after a custom rule")


def test_a_pattern_that_is_asymmetric_keeps_its_shape() -> None:
    """A clipped gradient that is clipped everywhere depends on fewer entries than symmetry would have it."""
    made = structure(lambda x: jnp.sum(gently(x)[1:] * x[:-1]))
    assert (made.strategy, made.passes) == ("coloured forward", 1 if made.entries == 4 else 2)
    lower = (np.array([0, 1, 3, 5, 7, 9], np.int32), np.array([0, 0, 1, 1, 2, 2, 3, 3, 4], np.int32))
    given = structure(lambda x: jnp.sum(gently(x)[1:] ** 2 * x[:-1]), given=lower)
    assert (given.strategy, given.passes, len(given.indices)) == ("coloured forward", 3, 13)
