"""What transformations refuse before anything is asked: errors name the user's call, what came, and the way out."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.oracle import transformed

from jacloom import ArgumentError, OptionError
from jacloom._examination import Checking, Diagnosing
from jacloom._linear import Linear
from jacloom._matrices import ExplainedHessian, ExplainedJacobian, Hessian, Jacobian
from jacloom._products import HessianProduct, Pullback, Pushforward
from jacloom._sparsity import pattern
from jacloom._tracing import bind_callable
from jacloom._transform import Gradient, ValueAndGradient

X = np.array([1.0, 2.0, 3.0])
W = np.arange(6.0).reshape(2, 3) / 10
PARAMS = {"w": W, "b": np.float64(0.5)}


@pytest.fixture(autouse=True)
def _x64() -> Any:
    with jax.enable_x64(True):
        yield


class Opaque:
    """What JAX does not look into."""


BAD: dict[str, tuple[Any, Any, Any, str]] = {
    "argnum too large": (
        Jacobian(2),
        lambda x, y: x,
        (X, X),
        "`client.jacobian(f, argnums=2)`: f got 2 positional arguments, so argnums must be 0 or 1",
    ),
    "argnum too small": (
        Gradient(-2),
        jnp.sum,
        (X,),
        "`client.grad(sum, argnums=-2)`: sum got 1 positional argument, so argnums must be 0; got -2",
    ),
    "argnum twice": (Jacobian((0, -2)), lambda x, y: x, (X, X), "names argument 0 twice"),
    "integer array": (Jacobian(), lambda p: p["n"] * 1.0, ({"n": np.arange(2)},), "args[0]['n'] is int64[2], and only floating-point"),
    "function in a container": (
        Gradient(),
        lambda layer: layer["act"](layer["x"]).sum(),
        ({"act": jax.nn.relu, "x": X},),
        "args[0]['act'] is the function relu, and only floating-point and complex inputs have derivatives. Separate the arrays of the argument from "
        "the rest: with equinox, `arrays, rest = eqx.partition(model, eqx.is_array)`, differentiate ",
    ),
    "object": (
        Gradient(),
        lambda model: jnp.sum(X),
        (Opaque(),),
        "args[0] is a Python object of class Opaque, and only floating-point and complex inputs",
    ),
    "Python integer": (Jacobian(1), lambda x, n: x * n, (X, 3), "args[1] is the Python int 3, and only floating-point"),
    "integer output": (
        Jacobian(),
        lambda x: {"k": jnp.argmax(x), "x": x},
        (X,),
        "out['k'] of f is int64[], and only floating-point",
    ),
    "vector gradient": (Gradient(), lambda x: x, (X,), "must return a scalar, it returns float64[3]"),
    "tree gradient": (
        ValueAndGradient(),
        lambda x: (x[0], x[1]),
        (X,),
        "`client.value_and_grad(f)`: f must return one scalar, it returns (array, array)",
    ),
    "no pair": (
        Jacobian(has_aux=True),
        lambda x: {"out": x, "aux": x},
        (X,),
        "`client.jacobian(f, has_aux=True)`: with has_aux=True, f must return a pair (out, aux); it returns {'aux': array, 'out': array}. "
        "Write `return out, aux`, or leave has_aux out.",
    ),
    "three": (Gradient(has_aux=True), lambda x: [x.sum(), x, x], (X,), "must return a pair (out, aux); it returns [array, array, array]"),
    "one": (Gradient(has_aux=True), jnp.sum, (X,), "must return a pair (out, aux); it returns one array"),
    "complex gradient": (Gradient(), lambda x: x.sum() * 1j, (X,), "a gradient needs a real output"),
    "vector product": (
        HessianProduct(),
        lambda x: x,
        (X,),
        "`client.hvp(f, primals, tangents)`: f must return a scalar, it returns float64[3]; use weights=..., one number for each entry",
    ),
    "tree product": (HessianProduct(), lambda x: (x[0], x[1]), (X,), "it returns (array, array); use weights=..., one number"),
    "explained argnum": (
        ExplainedHessian(2),
        lambda x, y: x,
        (X, X),
        "`client.explain(f, ..., derivative='hessian', argnums=2)`: f got 2 positional arguments",
    ),
    "explained integers": (
        ExplainedJacobian(),
        jnp.sin,
        (np.arange(3),),
        "`client.explain(sin, ...)`: args[0] is int64[3], and only floating-point",
    ),
    "sparse Hessian of a vector": (
        Hessian(output="csr"),
        lambda x: x,
        (X,),
        "`client.hessian(f, output='csr')`: output is for a single matrix, and f returns 3 entries, each with a Hessian of its own; pass weights=...",
    ),
    "pattern of the Hessian of a vector": (
        ExplainedHessian(sparsity=pattern("", np.eye(3))),
        lambda x: (x[0], x[1:]),
        (X,),
        "entries>)`: sparsity is for a single matrix, and f returns 3 entries, each with a Hessian of its own; pass weights=..., one number for each "
        "entry of the result, for the second derivatives of the weighted sum, or leave sparsity out.",
    ),
    "no weights": (Hessian(weighted=True), lambda x: x, (np.arange(3),), "`client.hessian(f, weights=...)`: args[0] is int64[3], and only"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_call_and_the_way_out(case: str) -> None:
    transform, f, args, text = BAD[case]
    with pytest.raises((ArgumentError, OptionError)) as caught:
        transformed(transform, f, args)
    assert text in str(caught.value)


def test_an_operator_of_second_derivatives_of_a_vector_asks_for_weights() -> None:
    question = Linear(derivative="hessian")
    with pytest.raises(
        ArgumentError, match=r"derivative='hessian'\)`: f must return a scalar, it returns float64\[3\]; use weights=\.\.\., one number"
    ):
        question.chosen(bind_callable(lambda x: x, (X,), {})[0])


@pytest.mark.parametrize("transform", [Jacobian(), Gradient()], ids=["jacobian", "grad"])
def test_arguments_by_keyword_are_never_differentiated(transform: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        transformed(transform, lambda x, y: (x * y).sum(), (), {"x": X, "y": X})
    assert str(caught.value) == (
        f"`client.{transform.call}(f)`: f got 0 positional arguments, so argnums must be (); got 0. "
        "Keyword arguments are never differentiated: pass x and y by position."
    )


BAD_COTANGENTS: dict[str, tuple[Any, Any, str]] = {
    "tuple of the array": (
        lambda x: x,
        (X,),
        "`client.vjp(f, primals, cotangents)`: cotangents must be float64[3], as what it belongs to; got tuple (array,): "
        "pass its item alone, without the tuple around it.",
    ),
    "list of numbers": (lambda x: x, [1.0, 2.0, 3.0], "got list [1.0, 2.0, 3.0]: pass np.asarray(..., 'float64')."),
    "array for a pair": (lambda x: (x, x.sum()), X, "cotangents must be like the result of f: expected (array, array), got array."),
    "single precision": (lambda x: x, X.astype(np.float32), "got float32[3]: pass it as .astype('float64')."),
}


@pytest.mark.parametrize("case", BAD_COTANGENTS)
def test_cotangents_must_fit(case: str) -> None:
    f, cotangents, text = BAD_COTANGENTS[case]
    with pytest.raises(ArgumentError) as caught:
        transformed(Pullback(), f, (X,), given=cotangents)
    assert str(caught.value).endswith(text)


BAD_SEEDS = {
    "tree": (({"w": W},), "tangents must be like primals"),
    "shape": (({"w": W.T, "b": 1.0}, X), "tangents[0]['w'] must be float64[2,3], as what it belongs to; got float64[3,2]"),
    "dtype": (({"w": W, "b": 1.0}, X.astype(np.float32)), "tangents[1] must be float64[3], as what it belongs to; got float32[3]"),
    "integer": (({"w": W, "b": 1}, X), "tangents[0]['b'] must be float64[], as what it belongs to; got int 1"),
}


@pytest.mark.parametrize("case", BAD_SEEDS)
def test_tangents_must_fit(case: str) -> None:
    tangents, text = BAD_SEEDS[case]
    with pytest.raises(ArgumentError) as caught:
        transformed(Pushforward(), lambda params, x: params["w"] @ x * params["b"], (PARAMS, X), given=tangents)
    assert text in str(caught.value)


IDLE: dict[str, tuple[Any, Any, Any, Any, str]] = {
    "tangents of an integer": (Pushforward(), lambda n: n + 1, np.arange(2), (X,), "tangents[0] belongs to int64[2], which has no derivative"),
    "tangents of another shape": (Pushforward(), jnp.argmax, X, (X[:2],), "tangents[0] must be float64[3], as what it belongs to; got float64[2]"),
    "cotangents of an integer": (Pullback(), jnp.argmax, X, X, "cotangents belongs to int64[], which has no derivative"),
    "cotangents of another shape": (Pullback(), lambda n: n * 2.0, np.arange(2), X, "cotangents must be float64[2], as what it belongs to; got"),
    "tangents of a second derivative": (HessianProduct(), lambda n: n.sum() * 2.0, np.arange(2), ((X,), None), "tangents[0] belongs to int64[2]"),
    "weights": (
        HessianProduct(weighted=True),
        lambda n: (n * 2.0, n.sum() / 2),
        np.arange(2),
        ((None,), (np.ones(3), 1.0)),
        "`client.hvp(f, primals, tangents, weights=...)`: weights[0] must be float64[2], as what it belongs to; got float64[3]",
    ),
    "weights of another tree": (
        HessianProduct(weighted=True),
        lambda n: (n * 2.0, n.sum() / 2),
        np.arange(2),
        ((None,), np.ones(2)),
        "weights must be like the result of f: expected (array, array), got array",
    ),
}


@pytest.mark.parametrize("case", IDLE)
def test_vectors_along_which_nothing_moves_must_fit_as_others(case: str) -> None:
    transform, f, x, given, text = IDLE[case]
    with pytest.raises(ArgumentError) as caught:
        transformed(transform, f, (x,), given=given)
    assert text in str(caught.value)


def test_integer_leaves_take_no_tangent() -> None:
    with pytest.raises(ArgumentError, match=r"tangents\[0\] belongs to int64\[2\], which has no derivative; pass None"):
        transformed(Pushforward(), lambda n, x: x * n.sum(), (np.arange(2), X), given=(np.ones(2), X))


COMPLEX = {
    "inputs": (lambda z: jnp.abs(z).sum(), X + 1j),
    "outputs": (lambda x: (x * 1j).sum(), X),
}


@pytest.mark.parametrize("question", [Hessian(), Linear(derivative="hessian")], ids=["hessian", "linear_operator"])
@pytest.mark.parametrize("where", COMPLEX)
def test_second_derivatives_need_real_numbers_or_a_holomorphic_function(question: Any, where: str) -> None:
    f, x = COMPLEX[where]
    with pytest.raises(ArgumentError) as caught:
        question.chosen(bind_callable(f, (x,), {})[0])
    advice = "pass holomorphic=True if it is a holomorphic function of complex inputs"
    assert str(caught.value) == f"`{question.spelled('f')}`: second derivatives need real {where}; {advice}."


@pytest.mark.parametrize(
    ("question", "call"),
    [
        (Gradient((0, 1), holomorphic=True), "client.grad(f, argnums=(0, 1), holomorphic=True)"),
        (ValueAndGradient(has_aux=True), "client.value_and_grad(f, has_aux=True)"),
        (Hessian(1, output="csr", weighted=True), "client.hessian(f, argnums=1, output='csr', weights=...)"),
        (Linear(derivative="hessian", weighted=True), "client.linear_operator(f, derivative='hessian', weights=...)"),
        (Pushforward(has_aux=True), "client.jvp(f, primals, tangents, has_aux=True)"),
        (Pullback(), "client.vjp(f, primals, cotangents)"),
        (HessianProduct(weighted=True), "client.hvp(f, primals, tangents, weights=...)"),
        (Checking((1,)), "client.check(f, ..., argnums=(1,))"),
        (Diagnosing(), "client.diagnose(f, ...)"),
    ],
    ids=str,
)
def test_a_call_is_spelled_as_the_user_wrote_it(question: Any, call: str) -> None:
    assert question.spelled("f") == call
