"""Trees and types of every transformation, against what JAX returns for the same call."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.oracle import transformed

from jacloom import ArgumentError, OptionError
from jacloom._matrices import Hessian, Jacobian
from jacloom._products import HessianProduct, Pullback, Pushforward
from jacloom._tracing import bind_callable
from jacloom._transform import Evaluation, Gradient, ValueAndGradient
from jacloom._vectors import FLOAT0
from jacloom_graph.answer import Derivative

State = namedtuple("State", ["position", "speed"])


@jax.tree_util.register_dataclass
@dataclass
class Circle:
    """A container that only JAX knows."""

    centre: Any
    radius: Any


X = np.array([1.0, 2.0, 3.0])
W = np.arange(6.0).reshape(2, 3) / 10


def nested(params: dict[str, Any], x: jax.Array, *, scale: float = 1.0) -> dict[str, Any]:
    y = jnp.tanh(params["w"] @ x) * scale
    return {"y": y, "more": (params["b"] * y.sum(), [x[0]])}


def same(got: Any, expected: Any, *, dtypes: bool = True) -> None:
    """Asserts equal trees, and leaves that are the caller's own arrays."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        theirs = np.asarray(theirs)
        assert type(mine) is np.ndarray
        assert mine.flags.writeable
        assert mine.shape == theirs.shape
        if dtypes:
            assert mine.dtype == theirs.dtype
        if mine.dtype != FLOAT0:
            np.testing.assert_allclose(mine, theirs, rtol=1e-12)


@pytest.fixture(autouse=True)
def _x64() -> Any:
    with jax.enable_x64(True):
        yield


PARAMS = {"w": W, "b": np.float64(0.5)}


@pytest.mark.parametrize("argnums", [0, 1, -1, (0,), (1, 0), (0, -1), [1]], ids=str)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobian_has_jax_tree(argnums: Any, mode: Any) -> None:
    chosen = tuple(argnums) if isinstance(argnums, list) else argnums
    got = transformed(Jacobian(chosen, mode=mode), nested, (PARAMS, X), {"scale": 2.0})
    same(got, jax.jacrev(nested, argnums)(PARAMS, X, scale=2.0))


@pytest.mark.parametrize("argnums", [0, (1, 0)], ids=str)
def test_hessian_has_jax_tree(argnums: Any) -> None:
    same(transformed(Hessian(argnums), nested, (PARAMS, X)), jax.hessian(nested, argnums)(PARAMS, X))


def test_containers_of_every_kind_come_back() -> None:
    def f(state: State, circle: Circle, rest: list[Any]) -> Any:
        return State(state.position * circle.radius, None), Circle(rest[0] + circle.centre, [state.speed])

    args = (State(X, np.array(2.0)), Circle(np.zeros(2), np.array(3.0)), [np.ones(2), None])
    same(transformed(Jacobian((0, 1, 2)), f, args), jax.jacfwd(f, (0, 1, 2))(*args))
    same(transformed(Evaluation(), f, args), f(*args))


@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("argnums", [0, (1, 0)], ids=str)
def test_gradient_and_auxiliary(has_aux: bool, value: bool, argnums: Any) -> None:
    def f(params: dict[str, Any], x: jax.Array) -> Any:
        out = (params["w"] @ x).sum() * params["b"]
        return (out, {"count": jnp.int32(3), "x": x}) if has_aux else out

    transform = jax.value_and_grad if value else jax.grad
    expected = transform(f, argnums, has_aux=has_aux)(PARAMS, X)
    same(transformed((ValueAndGradient if value else Gradient)(argnums, has_aux), f, (PARAMS, X)), expected)


@pytest.mark.parametrize("pair", [tuple, list, lambda parts: State(*parts)], ids=["tuple", "list", "namedtuple"])
def test_any_pair_has_an_auxiliary_part(pair: Callable[[tuple[Any, Any]], Any]) -> None:
    f = lambda x: pair(((x**2).sum(), {"x": x}))  # noqa: E731
    same(transformed(Gradient(has_aux=True), f, (X,)), jax.grad(f, has_aux=True)(X))


@pytest.mark.parametrize(
    ("transform", "of_jax"), [(Jacobian(has_aux=True), jax.jacfwd), (Hessian(has_aux=True), jax.hessian)], ids=["jacobian", "hessian"]
)
def test_auxiliary_of_matrices(transform: Any, of_jax: Callable[..., Any]) -> None:
    def f(x: jax.Array) -> Any:
        return {"out": x[:2] ** 3}, (jnp.arange(4), x.sum())

    same(transformed(transform, f, (X,)), of_jax(f, has_aux=True)(X))


def test_products_equal_jax() -> None:
    tangents = ({"w": W + 1, "b": np.array(2.0)}, X - 1)
    same(transformed(Pushforward(), nested, (PARAMS, X), given=tangents), jax.jvp(nested, (PARAMS, X), tangents))
    out, pull = jax.vjp(nested, PARAMS, X)
    cotangents = jax.tree.map(lambda leaf: np.asarray(leaf) + 1, out)
    same(transformed(Pullback(), nested, (PARAMS, X), given=cotangents), (out, pull(cotangents)))


def test_products_with_integers_have_float0() -> None:
    def f(x: jax.Array, n: jax.Array) -> Any:
        return {"y": x * n, "n": n + 1}

    n = np.array([1, 2, 3])
    nothing = np.zeros(3, FLOAT0)
    expected = jax.jvp(f, (X, n), (X, nothing))
    for empty in (nothing, None):
        got = transformed(Pushforward(), f, (X, n), given=(X, empty))
        same(got, expected)
        assert got[1]["n"].dtype == jax.dtypes.float0
    value, pulled = transformed(Pullback(), f, (X, n), given={"y": X, "n": None})
    same(value, f(X, n))
    same(pulled, jax.vjp(f, X, n)[1]({"y": X, "n": nothing}))


def test_products_with_static_values() -> None:
    def f(x: jax.Array, n: int, name: str | None) -> Any:
        return x**n if name is None else x * 0

    _, tangent = transformed(Pushforward(), f, (X, 3, None), given=(X, None, None))
    np.testing.assert_allclose(tangent, 3 * X**3)
    _, pulled = transformed(Pullback(), f, (X, 3, None), given=np.ones(3))
    np.testing.assert_allclose(pulled[0], 3 * X**2)
    assert pulled[1].dtype == FLOAT0
    assert pulled[2] is None


def test_products_without_anything_to_differentiate() -> None:
    value, tangent = transformed(Pushforward(), lambda n: n + 1, (np.arange(3),), given=(None,))
    same((value, tangent), (np.arange(1, 4), np.zeros(3, FLOAT0)))
    value, pulled = transformed(Pullback(), lambda x: jnp.argmax(x), (X,), given=None)
    assert value == 2
    same(pulled, (np.zeros(3),))


def test_jvp_auxiliary() -> None:
    def f(x: jax.Array) -> Any:
        return x**2, {"n": jnp.arange(2)}

    same(transformed(Pushforward(has_aux=True), f, (X,), given=(X,)), (X**2, 2 * X**2, {"n": np.arange(2)}))
    same(transformed(Pullback(has_aux=True), f, (X,), given=np.ones(3)), (X**2, (2 * X,), {"n": np.arange(2)}))


def test_hvp_is_bare_for_one_primal() -> None:
    def f(x: jax.Array, y: jax.Array | float = 1.0) -> Any:
        return (x**3 * y).sum()

    same(transformed(HessianProduct(), f, (X,), given=((X,), None)), 6 * X * X)
    y = np.array(2.0)
    expected = jax.jvp(jax.grad(f, (0, 1)), (X, y), (X, y))[1]
    same(transformed(HessianProduct(), f, (X, y), given=((X, y), None)), expected)


@pytest.mark.parametrize(
    ("x", "shape"), [(np.zeros((0, 2)), (3, 0, 2)), (np.ones((2, 2)), (3, 2, 2))], ids=["empty", "full"]
)  # fmt: skip
def test_sizes_of_zero(x: np.ndarray, shape: tuple[int, ...]) -> None:
    assert transformed(Jacobian(), lambda x: jnp.full(3, x.sum()), (x,)).shape == shape
    assert transformed(Jacobian(), lambda x: x.reshape(-1)[:0], (x,)).shape == (0, *x.shape)


def test_no_arguments_chosen() -> None:
    assert transformed(Jacobian(()), lambda x: {"y": x}, (X,)) == {"y": ()}


def test_python_floats_are_float64_inputs() -> None:
    jacobian = transformed(Jacobian(), lambda x: x**2, (3.0,))
    same(jacobian, np.array(6.0))


def test_block_dtype_is_the_promoted_one() -> None:
    narrow = np.ones(2, np.float32)
    got = transformed(Jacobian((0, 1)), lambda a, b: (a.sum() * b).astype(jnp.float32), (narrow, X))
    assert [block.dtype for block in got] == [np.float32, np.float64]


@pytest.mark.parametrize(("mode", "f", "x"), [("forward", lambda x: x * 1j, X), ("reverse", lambda z: jnp.abs(z), X + 1j)], ids=["R to C", "C to R"])
def test_complex_leaves_one_mode(mode: str, f: Any, x: Any) -> None:
    binding, _ = bind_callable(f, (x,), {})
    assert Jacobian().prepare(binding).query.mode == mode
    other: Any = {"forward": "reverse", "reverse": "forward"}[mode]
    with pytest.raises(OptionError, match=f"'auto' or '{mode}'"):
        Jacobian(mode=other).prepare(binding)
    same(transformed(Jacobian(), f, (x,)), (jax.jacfwd if mode == "forward" else jax.jacrev)(f)(x))


def test_holomorphic() -> None:
    z = X + 1j
    same(transformed(Jacobian(holomorphic=True), jnp.exp, (z,)), jax.jacfwd(jnp.exp, holomorphic=True)(z))
    with pytest.raises(ArgumentError, match="holomorphic=True if it is"):
        transformed(Jacobian(), jnp.exp, (z,))
    with pytest.raises(ArgumentError, match=r"needs complex inputs and outputs throughout, got float64\[3\]"):
        transformed(Jacobian(holomorphic=True), jnp.exp, (X,))


def test_the_product_of_a_hessian_without_inputs_is_empty() -> None:
    found = transformed(HessianProduct(weighted=True), lambda n: (n * 2.0, n.sum() / 2), (np.arange(2),), given=((None,), (np.ones(2), 1.0)))
    assert (found.dtype, found.shape) == (FLOAT0, (2,))


def test_nothing_to_push_or_pull_is_an_evaluation() -> None:
    pushed = Pushforward().prepare(bind_callable(jnp.argmax, (X,), {})[0]).query
    pulled = Pullback().prepare(bind_callable(lambda i: i * 2.0, (np.arange(3),), {})[0]).query
    for query in (pushed, pulled):
        assert query.derivative is Derivative.EVALUATE
        assert (query.chosen.wrt, query.chosen.outputs, query.chosen.values) == ((), (), (0,))
