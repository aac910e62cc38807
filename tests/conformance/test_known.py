"""Implementations that read the value of an operand in Python, which is a constant where a function around them is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import FORWARD, REVERSE, assert_close, assert_same
from conformance.roundtrip import through_bytes
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jacloom_graph.errors import Fault

X = np.array([0.5, -1.0, 2.0])
FUNCTIONS = [lambda x: x * x, lambda x: 3 * x]
LINEAR = np.array(1)


def _by_number() -> Primitive:
    """Calls one of ``FUNCTIONS`` by its number; its rule and its transpose know them, too."""
    primitive = Primitive("by_number")

    def jvp(primals: Any, tangents: Any) -> Any:
        (which, x), (_, dx) = primals, tangents
        tangent = primitive.bind(LINEAR, dx)
        return primitive.bind(which, x), tangent if which.item() == LINEAR else 2 * x * tangent / 3

    def transpose(cotangent: Any, which: Any, x: Any) -> Any:
        assert which.item() == LINEAR
        return None, primitive.bind(which, cotangent)

    primitive.def_impl(lambda which, x: FUNCTIONS[which.item()](x))
    primitive.def_abstract_eval(lambda which, x: x)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = lambda args, dims: (primitive.bind(*args), dims[1])
    return primitive


BY_NUMBER = _by_number()
Called = Callable[[Any, Any], Any]


def _with_jvp(called: Called) -> Called:
    fun = jax.custom_jvp(lambda which, x: called(which, x))
    fun.defjvp(lambda primals, tangents: (called(*primals), 5 * jnp.cos(called(*primals)) * tangents[1]))
    return fun


def _with_vjp(called: Called) -> Called:
    fun = jax.custom_vjp(lambda which, x: called(which, x))
    fun.defvjp(lambda which, x: (called(which, x), (which, x)), lambda kept, cotangent: (None, 5 * cotangent * called(*kept)))
    return fun


def _solve(called: Called) -> Called:
    def solve(which: Any, b: Any) -> Any:
        return jax.lax.custom_linear_solve(lambda x: x / 2, called(which, b), lambda _, b: 2 * b + 0 * called(which, b), symmetric=True)

    return solve


WITHIN: dict[str, Callable[[Called], Called]] = {
    "a compiled function": lambda called: jax.jit(lambda which, x: called(which, x) * x),
    "a compiled function in another": lambda called: jax.jit(lambda which, x: jax.jit(called)(which, x) * x),
    "a checkpoint": jax.checkpoint,
    "a branch": lambda called: lambda which, x: jax.lax.cond(x[0] > 0, called, lambda _, x: x, which, x),
    "a scan": lambda called: lambda which, x: jax.lax.scan(lambda carry, _: (called(which, carry), None), x, None, length=3)[0],
    "a loop": lambda called: (
        lambda which, x: jax.lax.while_loop(lambda state: jnp.sum(called(which, state)) < 9.0, lambda state: called(which, state) + 2.0, x)
    ),
    "a function with a forward rule": _with_jvp,
    "a function with a reverse rule": _with_vjp,
    "a solve": _solve,
    "a batch": lambda called: lambda which, x: jax.vmap(called, in_axes=(None, 0))(which, x),
}
MODES: dict[str, Any] = {"a loop": ((FORWARD,),), "a function with a reverse rule": ((REVERSE,),)}


@pytest.mark.parametrize("number", range(len(FUNCTIONS)))
@pytest.mark.parametrize("name", WITHIN)
def test_a_constant_is_read_within(name: str, number: int) -> None:
    fun = jax.jit(WITHIN[name](BY_NUMBER.bind))  # JAX cannot evaluate it: only its caller knows the number
    plain = WITHIN[name](lambda _, x: FUNCTIONS[number](x))
    program, _ = through_bytes(lambda x: fun(np.array(number), x), [X])
    with jax.enable_x64(True):
        ours, theirs = lambda x: program(x)[0], lambda x: plain(np.array(number), x)
        for chain in ((), *MODES.get(name, ((FORWARD,), (REVERSE,), (REVERSE, FORWARD)))):
            mine, expected = ours, theirs
            for transform in chain:
                mine, expected = transform(mine), transform(expected)
            assert_close(mine(X), expected(X), 1e-12)


def test_one_function_called_with_two_constants_is_two() -> None:
    fun = jax.jit(BY_NUMBER.bind)
    program, _ = through_bytes(lambda x: fun(np.array(0), x) + fun(np.array(1), x), [X])
    with jax.enable_x64(True):
        assert_close(program(X)[0], X * X + 3 * X, 1e-12)


def test_functions_are_shared_by_calls_with_different_constants_as_long_as_none_is_read() -> None:
    scaled = jax.jit(lambda factor, x: factor * x)
    _, traced = through_bytes(lambda x: scaled(2.0, x) + scaled(3.0, x), [X])
    assert len(traced.graph.functions) == 2


def test_an_operand_that_is_no_constant_is_refused() -> None:
    with pytest.raises(Fault, match=r"by_number at .*test_known.* reads the value of an operand in Python.*closes over"):
        through_bytes(jax.jit(lambda which, x: BY_NUMBER.bind(which, x)), [np.array(0), X])


class Layer(eqx.Module):
    """Holds a function as a network holds its activation."""

    weights: Any
    activation: Any

    def __call__(self, x: Any) -> Any:
        return self.activation(self.weights * x)


APART = eqxi.noinline(lambda x: jnp.sin(x) * x)
LAYER = Layer(jnp.array([1.0, 2.0, 3.0]), APART)


@eqx.filter_jit
def applied(fun: Any, x: Any) -> Any:
    return fun(x)


def _steps(fun: Any, x: Any) -> Any:
    return eqxi.while_loop(lambda s: s[1] < 2, lambda s: (fun(s[0]), s[1] + 1), (x, 0), kind="checkpointed", max_steps=4)[0]


BY_EQUINOX: dict[str, Any] = {
    "alone": APART,
    "compiled": eqx.filter_jit(APART),
    "within a module": eqx.filter_jit(LAYER),
    "as an argument": lambda x: applied(LAYER, x),
    "in a batch": lambda x: jax.vmap(lambda row: applied(LAYER, row))(jnp.stack([x, 2 * x])),
    "in a scan": lambda x: jax.lax.scan(lambda carry, _: (applied(APART, carry), None), x, None, length=3)[0],
    "in a checkpoint": eqx.filter_jit(jax.tree_util.Partial(lambda fun, x: eqx.filter_checkpoint(fun)(x), LAYER)),
}


@pytest.mark.parametrize("name", BY_EQUINOX)
def test_functions_that_equinox_does_not_inline(name: str) -> None:
    assert_same(BY_EQUINOX[name], X, transforms=((FORWARD,), (REVERSE,), (REVERSE, FORWARD)))


def test_functions_that_equinox_does_not_inline_in_a_loop_that_it_checkpoints() -> None:
    assert_same(eqx.filter_jit(jax.tree_util.Partial(_steps, LAYER)), X, transforms=((REVERSE,),))
