"""Models built with the ecosystem's packages: each brings something to the graph that JAX's own functions do not.

Value, columns and rows are compared with JAX's wherever it has them. Sizes are the smallest at which the point is still made: what such a test
costs is compiling. diffrax and lineax have files of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import optimistix as optx
import pytest
import tinygp
from conformance.compare import FORWARD, REVERSE, assert_close, assert_same
from conformance.roundtrip import flat, through_bytes
from numpyro.infer.util import log_density

from jacloom._trace import trace
from jacloom_graph.errors import Fault, Reason

X = np.array([0.3, 0.5, -1.0])
MATRIX = np.random.default_rng(0).normal(size=(5, 3))
BOTH = ((FORWARD,), (REVERSE,))
HESSIAN = (*BOTH, (REVERSE, FORWARD))

NETWORK = eqx.nn.MLP(3, 2, width_size=4, depth=2, key=jax.random.key(0))
ATTENTION = eqx.nn.MultiheadAttention(num_heads=2, query_size=4, key=jax.random.key(1))
DROPOUT = eqx.nn.Dropout(0.4)


def network(x: jax.Array) -> Any:
    """Weights of 32 bits in the closure, activations of 64, and ReLU's rule, which says what the derivative at 0 is."""
    return DROPOUT(NETWORK(x), key=jax.random.key(2))


def attention(x: jax.Array) -> Any:
    """A batch axis that the layers make for themselves, over heads, and softmax."""
    tokens = jnp.outer(jnp.arange(1.0, 4.0), jnp.concatenate([x, x[:1]]))
    return ATTENTION(tokens, tokens, tokens, mask=jnp.tril(jnp.ones((3, 3), bool)))


def training(x: jax.Array) -> Any:
    """A gradient inside, and an optimizer's state of several dtypes through a scan."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 8)))

    def step(carry: Any, _: None) -> Any:
        weights, state = carry
        update, state = optimizer.update(jax.grad(lambda w: jnp.sum(jnp.tanh(MATRIX @ w) ** 2))(weights), state, weights)
        return (optax.apply_updates(weights, update), state), None

    return jax.lax.scan(step, (x, optimizer.init(x)), None, length=3)[0][0]


def arm(x: jax.Array) -> Any:
    """Lie groups: branches around small angles, whose other side is NaN and must not leak."""
    shoulder, elbow = jaxlie.SO3.exp(x), jaxlie.SE2.exp(x * 0.5)
    return shoulder.apply(jnp.ones(3)), shoulder.log(), elbow.translation()


def schools(x: jax.Array) -> Any:
    """A probabilistic program: handlers that run while it is traced, and transformed distributions."""

    def model() -> None:
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        spread = numpyro.sample("spread", dist.HalfCauchy(5.0))
        with numpyro.plate("school", 4):
            numpyro.sample("effect", dist.StudentT(3.0, mean, spread), obs=jnp.array([2.8, 0.8, -0.3, 0.7]))

    return log_density(model, (), {}, {"mean": x[0], "spread": jnp.exp(x[1])})[0]


def samples(x: jax.Array) -> Any:
    """Samplers with keys: draws that move with their parameters, and a discrete draw that does not. Rejection is among ``test_functions``."""
    key = jax.random.key(3)
    component = dist.Categorical(logits=x).sample(key, (4,))
    return dist.TruncatedNormal(x, 1.0, low=-2.0).sample(key), dist.Weibull(jnp.exp(x), 2.0).sample(key), x[component]


def process(x: jax.Array) -> Any:
    """A Gaussian process in state space: associative products in a scan over a batch of small matrices, and debug callbacks."""
    times = np.array([0.0, 0.3, 0.4, 1.1, 1.5])
    kernel = jnp.exp(x[0]) * tinygp.kernels.quasisep.Matern32(jnp.exp(x[1]))
    return tinygp.GaussianProcess(kernel, times, diag=jnp.exp(x[2])).log_probability(np.sin(times))


def monte_carlo(x: jax.Array) -> Any:
    """A step of Hamiltonian Monte Carlo: gradients in a loop, a choice between two states, and keys that are split again and again."""
    sampler = blackjax.hmc(lambda q: -jnp.sum(q**2 + 0.1 * q**4), step_size=0.1, inverse_mass_matrix=jnp.ones(3), num_integration_steps=3)
    return sampler.step(jax.random.key(4), sampler.init(x))[0].position


def implicit_in_both_modes(x: jax.Array) -> Any:
    """A minimum by a loop of unknown length, error checks by callback, and the implicit derivative by a linear solve."""
    fit = optx.least_squares(lambda y, d: jnp.tanh(MATRIX @ y) - jnp.concatenate([d, d[:2]]), optx.GaussNewton(1e-9, 1e-9), jnp.zeros(3), args=x)
    return fit.value


MODELS: dict[Callable[..., Any], Any] = {
    network: HESSIAN,
    attention: BOTH,
    training: BOTH,
    arm: BOTH,
    schools: HESSIAN,
    samples: BOTH,
    process: BOTH,
    monte_carlo: BOTH,
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_columns_and_rows(model: Callable[..., Any]) -> None:
    assert_same(model, X, transforms=MODELS[model], tolerance=1e-8)


def test_an_implicit_derivative_with_error_checks_in_both_modes() -> None:
    traced = assert_same(implicit_in_both_modes, 0.1 * X, transforms=BOTH, tolerance=1e-6)
    (note,) = traced.notes
    assert f"an error check was replaced at {__file__}:" in note


def test_the_identity_of_a_group_where_logarithms_are_singular() -> None:
    assert_same(arm, np.zeros(3), transforms=((FORWARD,),))


@eqx.filter_custom_vjp
def equilibrium(x: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns ``y`` ``(5,)`` with ``y = tanh(W x + y[::-1] / 3)``."""
    return jax.lax.while_loop(
        lambda c: jnp.max(jnp.abs(c[0] - c[1])) > 1e-13, lambda c: (settle(c[0], x, weights), c[0]), (weights @ x, weights[:, 0])
    )[0]


def settle(y: jax.Array, x: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.tanh(weights @ x + y[::-1] / 3)


@equilibrium.def_fwd
def equilibrium_forward(perturbed: Any, x: jax.Array, weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    y = equilibrium(x, weights)
    return y, y


@equilibrium.def_bwd
def equilibrium_backward(y: jax.Array, given: jax.Array, perturbed: Any, x: jax.Array, weights: jax.Array) -> jax.Array:
    _, pull = jax.vjp(settle, y, x, weights)
    returned = jax.lax.fori_loop(0, 40, lambda _, total: given + pull(total)[0], given)
    return pull(returned)[1]


def test_an_implicit_rule_of_reverse_mode_only() -> None:
    """The rule's backward part iterates too, and closes over arrays. It has rows, and as in JAX no columns."""
    fun = lambda x: equilibrium(x, jnp.asarray(MATRIX))  # noqa: E731
    assert_same(fun, X, transforms=((REVERSE,),), tolerance=1e-8)
    program, _ = through_bytes(fun, (X,))
    with jax.enable_x64(True):
        with pytest.raises(TypeError, match="forward-mode"):
            jax.jacfwd(fun)(X)
        with pytest.raises(Fault, match="reverse rule only") as refusal:
            jax.jacfwd(lambda x: program(x)[0])(X)
    assert refusal.value.reason is Reason.MODE_UNAVAILABLE


@pytest.mark.slow
def test_a_minimizer_that_jax_has_in_forward_mode_only() -> None:
    """A line search loops as long as it needs. JAX has columns, the service rows too, and they are the same entries."""

    def minimum(x: jax.Array) -> Any:
        optimizer = optax.lbfgs(memory_size=2, linesearch=optax.scale_by_zoom_linesearch(4))
        cost = lambda q: jnp.sum((q - jnp.arange(3.0)) ** 2 + 0.1 * q**4)  # noqa: E731
        state = optimizer.init(x)
        value, slope = jax.value_and_grad(cost)(x)
        update, _ = optimizer.update(slope, state, x, value=value, grad=slope, value_fn=cost)
        return optax.apply_updates(x, update)

    program, _ = through_bytes(minimum, (X,))
    with jax.enable_x64(True):
        with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
            jax.jacrev(minimum)(X)
        columns = jax.jit(jax.jacfwd(flat(minimum, (X,))))(X)
        assert_close(jax.jit(jax.jacfwd(lambda x: program(x)))(X), columns, 1e-10)
        assert_close(jax.jit(jax.jacrev(lambda x: program.apply(program.large, (x,), reverse=True)))(X), columns, 1e-10)


@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_a_check_that_fails_yields_nan(on_error: Any) -> None:
    def checked(x: jax.Array) -> Any:
        return eqx.error_if(x, jnp.any(x > 1), "too large", on_error=on_error) ** 2

    program, traced = through_bytes(checked, (X,))
    line = f"{__file__}:{checked.__code__.co_firstlineno + 1} ({checked.__qualname__})"
    text = f"an error check was replaced at {line}: where it would have raised (too large), the result is NaN"
    assert traced.notes == ((text,) if on_error == "raise" else ())
    with jax.enable_x64(True):
        np.testing.assert_array_equal(program(X)[0], X**2)
        np.testing.assert_array_equal(jax.jacrev(lambda x: program(x)[0])(X), np.diag(2 * X))
        assert np.isnan(program(X + 2)[0]).all()
        if on_error == "raise":  # the library's own NaN is a constant, and its derivative zero
            ours = lambda x: program(x)[0]  # noqa: E731
            for derivative in (jax.jacfwd(ours), jax.jacrev(ours), jax.jacfwd(jax.jacrev(ours)), jax.jacfwd(jax.jacfwd(ours))):
                assert np.isnan(np.einsum("ii...->i...", derivative(X + 2)).ravel()).any()
                assert not np.isnan(derivative(X)).any()


def test_derivatives_of_a_solve_that_fails_are_nan() -> None:
    def root(a: jax.Array) -> Any:
        return optx.root_find(lambda y, a: jnp.tanh(y) - a, optx.Newton(1e-10, 1e-10), 0.3 * a, args=a, max_steps=3).value

    program, _ = through_bytes(root, (X,))
    far, near = np.array([0.9, 0.95, -0.99]), np.array([1e-3, -2e-3, 1e-3])
    with jax.enable_x64(True):
        assert np.isnan(program(far)[0]).all()
        assert np.isfinite(program(near)[0]).all()
        for transform in (jax.jacfwd, jax.jacrev):
            derivative = transform(lambda x: program(x)[0])
            assert np.isnan(np.diag(derivative(far))).all()
            np.testing.assert_allclose(derivative(near), np.diag(1 / (1 - near**2)), rtol=1e-8)


def test_prints_are_dropped_with_a_note() -> None:
    def talkative(x: jax.Array) -> Any:
        jax.debug.print("x = {x}", x=x)
        return jnp.tanh(MATRIX @ x)

    assert assert_same(talkative, X).notes == ("debug_print was dropped: a graph has no access to this process; return the value to look at it",)


def test_what_depends_on_the_platform_is_decided_where_it_is_computed() -> None:
    """The graph holds both branches; a worker without a GPU takes the other."""

    def by_platform(x: jax.Array) -> Any:
        return jax.lax.platform_dependent(x, cuda=lambda x: x * jnp.nan, cpu=lambda x: jax.nn.silu(x[::-1]))

    traced = assert_same(by_platform, X)
    (choice,) = (node for function in traced.graph.functions for node in function.nodes if node.op == "platform_index")
    assert set(choice.attrs["platforms"]) == {"cpu", "cuda"}  # type: ignore[arg-type]


def test_ten_thousand_equations() -> None:
    def long(x: jax.Array) -> jax.Array:
        for step in range(3_400):
            x = x + jnp.sin(x[::-1]) * (1e-4 * (step % 7))
        return x

    traced = trace(long, (X,))
    assert sum(len(function.nodes) for function in traced.graph.functions) >= 10_000
