"""Second derivatives through a real service, against JAX: known sparse ones, Lagrangians by weights, Gauss-Newton's."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import rosen, rosen_hess, rosen_hess_prod

import jacloom as jl

RANDOM = np.random.default_rng(11)
SIZE = 200
X = RANDOM.normal(size=SIZE)


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def banded(x: Any) -> Any:
    """Its Hessian has two diagonals on either side."""
    return jnp.sum(jnp.sin(x[:-2] * x[1:-1]) + x[2:] * x[:-2] ** 3)


def arrowhead(x: Any) -> Any:
    return jnp.sum(jnp.exp(0.1 * x[0] * x)) + jnp.sum(x**4)


def network(params: Any, inputs: Any, targets: Any) -> Any:
    hidden = jnp.tanh(inputs @ params["w"] + params["b"])
    return jnp.mean((hidden @ params["v"] - targets) ** 2)


def motion(unknowns: Any) -> Any:
    """The equations of motion of a pendulum with a torque, step by step, and where it starts: a tree of constraints on one vector."""
    angle, speed, torque = jnp.split(unknowns, 3)
    step = 0.1
    return {
        "moves": angle[1:] - angle[:-1] - step * speed[1:],
        "turns": speed[1:] - speed[:-1] - step * (torque[:-1] * jnp.cos(angle[1:]) - jnp.sin(angle[1:])),
        "start": angle[0] ** 2 + speed[0] ** 2,
    }


UNKNOWNS = RANDOM.normal(size=60)
MULTIPLIERS = {"moves": RANDOM.normal(size=19), "turns": RANDOM.normal(size=19), "start": np.array(0.5)}


def summed(f: Callable[..., Any], weights: Any) -> Callable[..., Any]:
    """Returns the weighted sum, as users of JAX would write it."""
    return lambda *args: sum(jnp.sum(leaf * weight) for leaf, weight in zip(jax.tree.leaves(f(*args)), jax.tree.leaves(weights), strict=True))


def of_jax(derivative: Callable[..., Any], *args: Any) -> Any:
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, derivative(*jax.tree.map(jnp.asarray, args)))


def same(got: Any, expected: Any, **tolerances: float) -> None:
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, **{"rtol": 1e-10, "atol": 1e-12} | tolerances), got, expected)


def test_the_rosenbrock_chain(client: jl.Client) -> None:
    plan = client.explain(rosenbrock, X, derivative="hessian", output="csr")
    assert (plan.strategy, plan.passes) == ("star-coloured", 3)
    np.testing.assert_allclose(client.evaluate(rosenbrock)(X), rosen(X))
    found = client.hessian(rosenbrock, output="csr", verify=True)(X)
    assert found.nnz == 3 * SIZE - 2
    np.testing.assert_allclose(found.toarray(), rosen_hess(X), rtol=1e-11)
    np.testing.assert_allclose(client.hvp(rosenbrock, (X,), (X[::-1].copy(),)), rosen_hess_prod(X, X[::-1]), rtol=1e-11)


@pytest.mark.parametrize(("f", "passes", "entries"), [(banded, 5, 5 * SIZE - 9), (arrowhead, 2, 3 * SIZE - 2)])
def test_sparse_hessians(client: jl.Client, f: Callable[..., Any], passes: int, entries: int) -> None:
    plan = client.explain(f, X, derivative="hessian", output="csr")
    assert (plan.strategy, plan.passes) == ("star-coloured", passes)
    found, expected = client.hessian(f, output="csr")(X), of_jax(jax.hessian(f), X)
    assert found.nnz == entries
    same(found.toarray(), expected)
    same(client.hessian(f)(X), expected)


def test_the_loss_of_a_network(client: jl.Client) -> None:
    params = {"w": RANDOM.normal(size=(3, 5)), "b": RANDOM.normal(size=5), "v": RANDOM.normal(size=5)}
    inputs, targets = RANDOM.normal(size=(20, 3)), RANDOM.normal(size=20)
    expected = of_jax(jax.hessian(network), params, inputs, targets)
    same(client.hessian(network)(params, inputs, targets), expected)
    along = jax.tree.map(lambda leaf: RANDOM.normal(size=leaf.shape), params)
    product = client.hvp(lambda params: network(params, inputs, targets), (params,), (along,))
    flat = {row: sum(np.tensordot(block, along[column], along[column].ndim) for column, block in blocks.items()) for row, blocks in expected.items()}
    same(product, flat)


class TestWeights:
    def test_the_lagrangian_of_optimal_control(self, client: jl.Client) -> None:
        expected = of_jax(jax.hessian(summed(motion, MULTIPLIERS)), UNKNOWNS)
        plan = client.explain(motion, UNKNOWNS, derivative="hessian", weights=MULTIPLIERS, output="csr")
        assert (plan.strategy, plan.passes) == ("star-coloured", 1)
        found = client.hessian(motion, weights=MULTIPLIERS, output="csr", verify=True)(UNKNOWNS)
        same(found.toarray(), expected)
        same(client.hessian(motion, weights=MULTIPLIERS)(UNKNOWNS), expected)
        same(client.hessian(motion, weights=MULTIPLIERS, sparsity="dense", verify=True)(UNKNOWNS), expected)
        same(client.hvp(motion, (UNKNOWNS,), (UNKNOWNS + 1,), weights=MULTIPLIERS), expected @ (UNKNOWNS + 1))
        with client.linear_operator(motion, UNKNOWNS, derivative="hessian", weights=MULTIPLIERS) as hessian:
            same(hessian @ np.eye(60, 7), expected[:, :7])
            same(hessian @ UNKNOWNS, expected @ UNKNOWNS)

    def test_each_weight_is_that_of_its_call(self, client: jl.Client) -> None:
        for scale in (1.0, -2.0, 0.0):
            weights = jax.tree.map(lambda leaf, scale=scale: scale * leaf, MULTIPLIERS)
            expected = of_jax(jax.hessian(summed(motion, weights)), UNKNOWNS)
            same(client.hessian(motion, weights=weights, output="csr")(UNKNOWNS).toarray(), expected)

    def test_trees_of_arguments_and_what_comes_along(self, client: jl.Client) -> None:
        def f(point: Any, scale: Any) -> Any:
            return (point["a"] ** 2 * point["b"] * scale, point["b"] ** 3), point["a"] * scale

        point, scale = {"a": np.array([1.0, 2.0]), "b": np.array(3.0)}, np.array(2.0)
        weights = (np.array([1.0, -1.0]), np.array(0.5))
        blocks, aux = client.hessian(f, (0, 1), has_aux=True, weights=weights)(point, scale)
        same(blocks, of_jax(jax.hessian(summed(lambda *args: f(*args)[0], weights), (0, 1)), point, scale))
        same(aux, point["a"] * 2)

    def test_large_weights_travel_as_blobs(self, client: jl.Client) -> None:
        x, weights = RANDOM.normal(size=300_000), RANDOM.normal(size=300_000)
        with client.linear_operator(lambda x: x**3, x, derivative="hessian", weights=weights) as hessian:
            same(hessian @ np.ones(x.size), 6 * x * weights)
        same(client.hvp(lambda x: x**3, (x,), (np.ones(x.size),), weights=weights), 6 * x * weights)

    def test_registered_functions_take_weights(self, client: jl.Client) -> None:
        remote = client.function(client.register(motion, UNKNOWNS).id)
        same(client.hessian(remote, weights=MULTIPLIERS)(UNKNOWNS), of_jax(jax.hessian(summed(motion, MULTIPLIERS)), UNKNOWNS))

    def test_loops_of_unknown_length_are_gone_back_through(self, client: jl.Client) -> None:
        def f(x: Any) -> Any:
            return jax.lax.while_loop(lambda state: state[0] < 4 + (state[1][0] > 99), lambda state: (state[0] + 1, jnp.sin(state[1]) * x), (0, x))[1]

        def unrolled(x: Any) -> Any:
            state = x
            for _ in range(4):
                state = jnp.sin(state) * x
            return state

        weights = np.array([1.0, 2.0, -1.0])
        found = client.hessian(f, weights=weights)(X[:3])
        same(found, of_jax(jax.hessian(summed(unrolled, weights)), X[:3]))

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            (np.ones(3), "weights must be like the result of motion"),
            ({"moves": np.ones(19), "turns": np.ones(19)}, "weights must be like the result of motion"),
            (MULTIPLIERS | {"turns": np.ones(18)}, "weights['turns'] must be float64[19], as what it belongs to; got float64[18]"),
            (MULTIPLIERS | {"turns": np.ones(19, "float32")}, "weights['turns'] must be float64[19], as what it belongs to; got float32[19]"),
        ],
    )
    def test_weights_that_do_not_fit(self, client: jl.Client, weights: Any, message: str) -> None:
        calls = (
            lambda: client.hessian(motion, weights=weights)(UNKNOWNS),
            lambda: client.hvp(motion, (UNKNOWNS,), (UNKNOWNS,), weights=weights),
            lambda: client.linear_operator(motion, UNKNOWNS, derivative="hessian", weights=weights),
        )
        for call in calls:
            with pytest.raises(jl.ArgumentError) as caught:
                call()
            assert message in str(caught.value)

    def test_weights_are_for_second_derivatives(self, client: jl.Client) -> None:
        with pytest.raises(jl.OptionError, match="weights are for derivative='hessian'; of a Jacobian, `rmatvec` applies them"):
            client.linear_operator(motion, UNKNOWNS, weights=MULTIPLIERS)
        with pytest.raises(jl.OptionError, match="weights are for derivative='hessian'; leave them out"):
            client.explain(motion, UNKNOWNS, weights=MULTIPLIERS)
        with pytest.raises(jl.ArgumentError, match="only floating-point and complex outputs"):
            client.hessian(lambda x: jnp.int64(x.sum()), weights=np.array(1.0))(X)


@jax.custom_vjp
def cubed(x: jax.Array) -> jax.Array:
    """A function with a rule for reverse mode only, whose backward pass calls it again: it has no second derivative forward over reverse."""
    return x**3


cubed.defvjp(lambda x: (cubed(x), x), lambda x, g: (3 * x**2 * g,))


class TestAdvice:
    TEXT = r"with weights client\.jacobian\(jax\.grad\(lambda x: .*\), mode='reverse'\), or a variant of the function"

    @pytest.mark.parametrize(
        ("f", "weights", "diagonal"),
        [
            (lambda x: cubed(x)[:2] ** 2, np.array([1.0, -2.0]), [1.0, -2.0, 0.0]),
            (lambda x: (cubed(x) ** 2, {"last": cubed(x)[2] ** 2}), (np.array([1.0, -2.0, 0.5]), {"last": np.array(3.0)}), [1.0, -2.0, 3.5]),
        ],
        ids=["two entries", "two outputs"],
    )
    def test_a_weighted_hessian_that_is_refused_says_what_works(self, client: jl.Client, f: Any, weights: Any, diagonal: Any) -> None:
        for refused in (
            lambda: client.hessian(f, weights=weights)(X[:3]),
            lambda: client.hvp(f, (X[:3],), (X[:3],), weights=weights),
            lambda: client.explain(f, X[:3], derivative="hessian", weights=weights),
        ):
            with pytest.raises(jl.ModeUnavailableError, match=self.TEXT) as caught:
                refused()
        # The sum whose Hessian was asked for, as a function that is differentiated in reverse twice: as the text has it, word for word.
        (advice,) = re.findall(r"with weights (client\..*), or a variant", str(caught.value))
        found = eval(advice, {"client": client, "jax": jax, "jnp": jnp, "f": f, "weights": weights})(X[:3])
        same(found, np.diag(30 * X[:3] ** 4 * diagonal))


@jax.custom_vjp
def gently(x: Any) -> Any:
    """The identity, whose gradient is clipped: the gradient of no function, so its derivative is not symmetric."""
    return x


gently.defvjp(lambda x: (x, None), lambda _, cotangent: (jnp.clip(cotangent, -1.0, 1.0),))


@jax.custom_vjp
def rounded(x: Any) -> Any:
    """Straight through."""
    return jnp.round(x)


rounded.defvjp(lambda x: (jnp.round(x), None), lambda _, cotangent: (cotangent,))


@jax.custom_jvp
def lying(x: Any) -> Any:
    return x


lying.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))


class TestAsymmetric:
    @pytest.mark.parametrize("rule", [gently, rounded, lying])
    @pytest.mark.parametrize("n", [12, 300])
    def test_every_way_gives_the_columns_that_jax_gives(self, client: jl.Client, rule: Any, n: int) -> None:
        f = lambda x: jnp.sum(rule(x)[1:] ** 2 * x[:-1])  # noqa: E731
        x = np.linspace(-2.0, 2.0, n)
        expected = of_jax(jax.hessian(f), x)
        assert abs(expected - expected.T).max() > 1
        band = np.abs(np.subtract.outer(np.arange(n), np.arange(n))) < 2
        same(client.hessian(f)(x), expected)
        same(client.hessian(f, sparsity="dense")(x), expected)
        same(client.hessian(f, output="csr")(x).toarray(), expected)
        same(client.hessian(f, sparsity=band, output="csr")(x).toarray(), expected)

    def test_what_symmetry_would_have_saved_is_told(self, client: jl.Client) -> None:
        plan = client.explain(lambda x: jnp.sum(gently(x)[1:] ** 2 * x[0]), X, derivative="hessian", output="csr")
        assert (plan.strategy, plan.passes) == ("coloured forward", SIZE)
        assert "symmetry is not known after a custom rule" in str(plan)
        plan = client.explain(lambda x: jnp.sum(jax.nn.softplus(x)[1:] ** 2 * x[0]), X, derivative="hessian", output="csr")
        assert (plan.strategy, plan.passes) == ("star-coloured", 2)

    def test_verification_names_what_is_asymmetric(self, client: jl.Client) -> None:
        f = lambda x: jnp.sum(gently(x)[1:] ** 2 * x[:-1])  # noqa: E731
        with pytest.raises(
            jl.VerificationError, match=r"is not symmetric, at args\[0\]\[\d+\] and args\[0\]\[\d+\]: .* a custom rule on the way is no derivative"
        ):
            client.hessian(f, verify=True)(np.linspace(-2.0, 2.0, 12))

    def test_products_with_the_transpose_are_those_of_the_gradients_jacobian(self, client: jl.Client) -> None:
        f = lambda x: jnp.sum(lying(x)[1:] ** 2 * x[:-1])  # noqa: E731
        x = np.linspace(-2.0, 2.0, 12)
        with client.linear_operator(jax.grad(f), x) as operator:
            same(operator.T @ np.eye(12), of_jax(jax.hessian(f), x).T)


@jax.custom_vjp
def clipped(x: jax.Array) -> jax.Array:
    return x


clipped.defvjp(lambda x: (x, None), lambda _, bar: (jnp.clip(bar, -1, 1),))


class TestGaussNewton:
    def residuals(self, x: Any) -> Any:
        return {"chain": 10 * (x[1:] - x[:-1] ** 2), "rest": 1 - x[:-1]}

    def test_matrix_products_gradient_and_value(self, client: jl.Client) -> None:
        f = jl.gauss_newton(self.residuals)
        blocks = of_jax(jax.jacobian(self.residuals), X)
        jacobian = np.concatenate([blocks["chain"], blocks["rest"]])
        value, gradient = client.value_and_grad(f)(X)
        np.testing.assert_allclose(value, rosen(X) / 2)
        plain = of_jax(jax.grad(rosenbrock), X) / 2
        np.testing.assert_allclose(gradient, plain, rtol=1e-10)
        found = client.hessian(f, output="csr", verify=True)(X)
        assert found.nnz == 3 * SIZE - 2
        same(found.toarray(), jacobian.T @ jacobian)
        same(client.hvp(f, (X,), (X + 1,)), jacobian.T @ (jacobian @ (X + 1)))
        with client.linear_operator(f, X, derivative="hessian") as product:
            same(product @ np.eye(SIZE, 3), (jacobian.T @ jacobian)[:, :3])

    def test_a_loss_of_ones_own(self, client: jl.Client) -> None:
        labels = np.array([0, 2, 1, 1])
        inputs = RANDOM.normal(size=(4, 5))

        def logits(w: Any) -> Any:
            return jnp.tanh(inputs @ w)

        def cross_entropy(found: Any) -> Any:
            return -jnp.mean(jax.nn.log_softmax(found)[jnp.arange(4), labels])

        w = RANDOM.normal(size=(5, 3))
        with jax.enable_x64(True):
            jacobian = np.asarray(jax.jacobian(logits)(w)).reshape(12, 15)
            inner = np.asarray(jax.hessian(cross_entropy)(logits(w))).reshape(12, 12)
        found = client.hessian(jl.gauss_newton(logits, cross_entropy))(w)
        same(found.reshape(15, 15), jacobian.T @ inner @ jacobian)

    def test_integers_infinities_and_keywords(self, client: jl.Client) -> None:
        def f(x: Any, n: Any, *, bound: Any) -> Any:
            return jnp.where(x < bound, x * n, 0.0), n

        value = client.hessian(jl.gauss_newton(f, lambda both: jnp.sum(both[0] ** 2)), argnums=0)(
            np.array([1.0, np.inf]), np.arange(2) + 1, bound=5.0
        )
        same(value, np.diag([2.0, 0.0]))

    def test_what_is_no_array_stays_what_it_is(self, client: jl.Client) -> None:
        def f(x: Any, steps: int, scheme: str, twice: bool) -> Any:
            for _ in range(steps):
                x = x * x if scheme == "square" else -x
            return 2 * x if twice else x

        found = client.hessian(jl.gauss_newton(f))(np.array([1.0, 2.0]), 2, "square", True)
        same(found, np.diag((8 * np.array([1.0, 2.0]) ** 3) ** 2))

    def test_a_slope_that_is_infinite_does_not_spoil_the_value(self, client: jl.Client) -> None:
        f = jl.gauss_newton(lambda x: jnp.sqrt(x))
        assert client.evaluate(f)(np.array([0.0, 4.0])) == 2.0
        same(client.hessian(jl.gauss_newton(lambda x: jnp.where(x > 9, 3 * x, x**2)))(np.array([np.inf, 2.0]))[1], np.array([0.0, 16.0]))

    @pytest.mark.parametrize(("args", "what"), [((3,), "f must be"), ((operator.neg, 3), "loss must be")])
    def test_what_is_no_function_is_refused(self, args: Any, what: str) -> None:
        with pytest.raises(jl.ArgumentError, match=what):
            jl.gauss_newton(*args)

    @pytest.mark.parametrize(
        ("loss", "got"),
        [(lambda y: y**2, r"an array of shape \(199,\)"), (lambda y: (y.sum(), y), r"\(array, array\)"), (lambda y: (y.sum(),), r"\(array,\)")],
        ids=["vector", "pair", "tuple"],
    )
    def test_a_loss_that_is_no_scalar_is_refused(self, client: jl.Client, loss: Any, got: str) -> None:
        with pytest.raises(jl.ArgumentError, match=rf"^`jl\.gauss_newton\(f, loss\)`: loss must return one scalar, it returns {got}; sum it"):
            client.hessian(jl.gauss_newton(lambda x: x[1:] * x[:-1], loss))(X)

    @pytest.mark.parametrize("wrapped", [lambda f: f, lambda f: lambda x: 2 * f(x)], ids=["itself", "within"])
    def test_a_function_with_a_reverse_rule_only_is_refused(self, client: jl.Client, wrapped: Any) -> None:
        with pytest.raises(jl.ModeUnavailableError, match=r"forward mode, which jl\.gauss_newton needs .* reverse rule only \(jax\.custom_vjp\)"):
            client.hessian(jl.gauss_newton(wrapped(clipped)))(X)

    def test_of_complex_residuals_it_is_with_the_conjugate_transpose(self, client: jl.Client) -> None:
        A = RANDOM.normal(size=(4, 3)) + 1j * RANDOM.normal(size=(4, 3))
        found = client.hessian(jl.gauss_newton(lambda x: jnp.asarray(A) @ x))(RANDOM.normal(size=3))
        same(found, (A.conj().T @ A).real)
