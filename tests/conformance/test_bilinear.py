"""Primitives of libraries that are linear in each of two operands, and transposed in another way in each.

What they compute goes through the bits of their operands, where JAX finds no derivative: only the rules that come with them can give one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import FORWARD, REVERSE
from conformance.roundtrip import through_bytes
from jax.extend.core import Primitive
from jax.interpreters import ad, batching

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import JvpRule
from jacloom_worker.raising import Program

Product = Callable[[Any, Any], Any]
"""``(a: [.., m, k], b: [.., n, k]) -> a @ b.T: [.., m, n]``."""

RNG = np.random.default_rng(0)
A = RNG.normal(size=(2, 3))
B = RNG.normal(size=(4, 3))
STACK = RNG.normal(size=(5, 2, 3))


def opaque(x: Any) -> Any:
    return jax.lax.bitcast_convert_type(jax.lax.bitcast_convert_type(x, jnp.uint64), jnp.float64)


def product(a: Any, b: Any) -> Any:
    return jnp.einsum("...mk,...nk->...mn", a, b)


def turned(x: Any) -> Any:
    return jnp.swapaxes(x, -1, -2)


def by_hand(primitive: Primitive) -> None:
    def jvp(primals: Any, tangents: Any) -> Any:
        (a, b), (da, db) = primals, tangents
        parts = [] if isinstance(da, ad.Zero) else [primitive.bind(da, b)]
        parts += [] if isinstance(db, ad.Zero) else [primitive.bind(a, db)]
        return primitive.bind(a, b), sum(parts)

    def transpose(cotangent: Any, a: Any, b: Any) -> Any:
        assert ad.is_undefined_primal(a) != ad.is_undefined_primal(b)
        if ad.is_undefined_primal(a):
            return primitive.bind(cotangent, turned(b)), None
        return None, primitive.bind(turned(cotangent), turned(a))

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


def by_jax(primitive: Primitive) -> None:
    ad.defbilinear(
        primitive, lambda cotangent, a, b: primitive.bind(cotangent, turned(b)), lambda cotangent, a, b: primitive.bind(turned(cotangent), turned(a))
    )


def within_a_loop(primitive: Primitive) -> None:
    """Tangents reach the primitive within a loop of its rule, and a compiled function there."""
    by_hand(primitive)

    def jvp(primals: Any, tangents: Any) -> Any:
        (a, b), given = primals, [tangent for tangent in tangents if not isinstance(tangent, ad.Zero)]

        def step(total: Any, tangent: Any) -> Any:
            return total + jax.jit(primitive.bind)(*((tangent, b) if given[0] is tangents[0] else (a, tangent))), None

        if len(given) == 2:
            return primitive.bind(a, b), jvp(primals, [given[0], ad.Zero(b.aval)])[1] + jvp(primals, [ad.Zero(a.aval), given[1]])[1]
        zeros = jnp.zeros_like(primitive.bind(a, b))
        return primitive.bind(a, b), jax.lax.scan(step, zeros, given[0][None])[0]

    ad.primitive_jvps[primitive] = jvp


@pytest.fixture
def primitive(request: pytest.FixtureRequest) -> Iterator[Primitive]:
    """Returns the product, registered by the function that is the fixture's parameter, or by hand."""
    made = Primitive("product")
    made.def_impl(lambda a, b: opaque(product(opaque(a), opaque(b))))
    made.def_abstract_eval(lambda a, b: jax.core.ShapedArray((*a.shape[:-1], b.shape[-2]), a.dtype))

    def batch(args: Any, axes: Any) -> Any:
        (size,) = {arg.shape[axis] for arg, axis in zip(args, axes, strict=True) if axis is not None}
        moved = [
            jnp.broadcast_to(arg, (size, *arg.shape)) if axis is None else jnp.moveaxis(arg, axis, 0) for arg, axis in zip(args, axes, strict=True)
        ]
        return made.bind(*moved), 0

    batching.primitive_batchers[made] = batch
    getattr(request, "param", by_hand)(made)
    yield made
    del ad.primitive_jvps[made], ad.primitive_transposes[made], batching.primitive_batchers[made]


def scanned(times: Product, a: Any, b: Any) -> Any:
    def step(state: Any, row: Any) -> Any:
        new = jnp.tanh(times(times(state, b), b.T) + row)
        return new, times(new, row[None])

    return jax.lax.scan(step, a, a)


USES: dict[str, Callable[..., Any]] = {
    "both operands": lambda times, a, b: times(jnp.sin(a), jnp.cos(b)),
    "the first only": lambda times, a, b: times(jnp.sin(a), B) + 0 * jnp.sum(b),
    "the second only": lambda times, a, b: times(A, jnp.sin(b)) + 0 * jnp.sum(a),
    "the same twice": lambda times, a, b: times(a, a) @ times(a, b),
    "in a row": lambda times, a, b: times(times(times(a, b), b.T), b),
    "vmap of both": lambda times, a, b: jax.vmap(times)(STACK * a, jnp.stack([jnp.sin(k * b) for k in range(5)])),
    "vmap of one": lambda times, a, b: jax.vmap(times, (0, None))(STACK * a, b) * jax.vmap(times, (None, 0))(a, jnp.stack([jnp.sin(b)] * 5)),
    "in a scan": scanned,
    "in a branch": lambda times, a, b: jax.lax.cond(a[0, 0] > b[0, 0], times, lambda a, b: 2 * times(a, b * b), a, b),
}
"""Functions of two matrices and of the product to use."""


def programs(name: str, primitive: Primitive) -> tuple[Any, Any]:
    """Returns a function with the primitive, as a worker has it, and the same in plain JAX."""
    program: Program = through_bytes(partial(USES[name], primitive.bind), [A, B])[0]
    return lambda a, b: program(a, b), lambda a, b: jax.tree.leaves(USES[name](product, a, b))


@pytest.mark.parametrize("name", USES)
def test_each_operand_has_its_own_transpose(primitive: Primitive, name: str) -> None:
    ours, theirs = programs(name, primitive)
    assert_equal(ours, theirs, (FORWARD,))
    assert_equal(ours, theirs, (REVERSE,))


@pytest.mark.parametrize("argnum", [0, 1])
def test_one_operand_of_two_is_differentiated(primitive: Primitive, argnum: int) -> None:
    assert_equal(*programs("both operands", primitive), (REVERSE,), (argnum,))


@pytest.mark.parametrize("chain", [(REVERSE, FORWARD), (FORWARD, REVERSE), (REVERSE, REVERSE)], ids=["JVP of VJP", "VJP of JVP", "VJP of VJP"])
@pytest.mark.parametrize("name", ["both operands", "the same twice"])
def test_second_order(primitive: Primitive, name: str, chain: Any) -> None:
    assert_equal(*programs(name, primitive), chain)


@pytest.mark.parametrize("primitive", [by_jax, within_a_loop], ids=lambda register: register.__name__, indirect=True)
def test_however_it_is_registered(primitive: Primitive) -> None:
    ours, theirs = programs("the same twice", primitive)
    for chain in ((FORWARD,), (REVERSE,), (REVERSE, FORWARD)):
        assert_equal(ours, theirs, chain)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(USES) - {"both operands", "the same twice"}))
def test_second_order_of_the_others(primitive: Primitive, name: str) -> None:
    assert_equal(*programs(name, primitive), (REVERSE, FORWARD))


def assert_equal(ours: Any, theirs: Any, chain: Any, argnums: tuple[int, ...] = (0, 1)) -> None:
    for transform in chain:
        ours, theirs = transform(ours, argnums), transform(theirs, argnums)
    with jax.enable_x64(True):
        found, expected = jax.jit(ours)(A, B), jax.jit(theirs)(A, B)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), jax.tree.leaves(found), jax.tree.leaves(expected))


def test_the_rules_of_a_product_end(primitive: Primitive) -> None:
    # Transposes of a product are products of other shapes, and so are theirs: six shapes, each in a rule with two transposes.
    _, traced = through_bytes(primitive.bind, [A, B])
    derivatives = [rule.derivative for rule in traced.graph.rules if not isinstance(rule.derivative, str)]
    assert {tuple(each.inputs for each in derivative.transposes) for derivative in derivatives if isinstance(derivative, JvpRule)} == {((0,), (1,))}
    shapes = {tuple(each.shape for each in traced.graph.functions[rule.function].inputs) for rule in traced.graph.rules}
    assert len(shapes) == 6
    assert len(traced.graph.rules) <= 13


def test_a_primitive_that_is_linear_only_in_rules_of_others(primitive: Primitive) -> None:
    """Its own rule says the same in JAX's words, which do not tell that it is linear in each operand."""
    ad.primitive_jvps[primitive] = lambda primals, tangents: (
        primitive.bind(*primals),
        product(ad.instantiate_zeros(tangents[0]), primals[1]) + product(primals[0], ad.instantiate_zeros(tangents[1])),
    )

    @jax.custom_jvp
    def first(a: Any, b: Any) -> Any:
        return product(jnp.sin(a), b)

    @first.defjvp
    def _first(primals: Any, tangents: Any) -> Any:
        (a, b), (da, db) = primals, tangents
        return first(a, b), primitive.bind(jnp.cos(a) * da, b) + jax.jit(primitive.bind)(jnp.sin(a), db)

    program, _ = through_bytes(first, [A, B])
    for chain in ((FORWARD,), (REVERSE,), (REVERSE, FORWARD)):
        assert_equal(lambda a, b: program(a, b), lambda a, b: [product(jnp.sin(a), b)], chain)


def test_one_compiled_function_in_rules_that_are_linear_in_other_operands_of_it(primitive: Primitive) -> None:
    # Its own rule does not tell that it is linear, so each use of the one compiled function needs what its rule says.
    ad.primitive_jvps[primitive] = lambda primals, tangents: (
        primitive.bind(*primals),
        product(ad.instantiate_zeros(tangents[0]), primals[1]) + product(primals[0], ad.instantiate_zeros(tangents[1])),
    )
    compiled = jax.jit(primitive.bind)

    @jax.custom_jvp
    def first(a: Any, b: Any) -> Any:
        return product(jnp.sin(a), jax.lax.stop_gradient(b))

    @jax.custom_jvp
    def second(a: Any, b: Any) -> Any:
        return product(jax.lax.stop_gradient(a), jnp.sin(b))

    first.defjvp(lambda primals, tangents: (first(*primals), compiled(jnp.cos(primals[0]) * tangents[0], primals[1])))
    second.defjvp(lambda primals, tangents: (second(*primals), compiled(primals[0], jnp.cos(primals[1]) * tangents[1])))
    for fun in (lambda a, b: first(a, b) * second(a, b), lambda a, b: second(a, b) * first(a, b)):
        program, _ = through_bytes(fun, [A, B])
        for chain in ((FORWARD,), (REVERSE,)):
            assert_equal(lambda a, b, program=program: program(a, b), lambda a, b, fun=fun: [_plainly(a, b)], chain)


def _plainly(a: Any, b: Any) -> Any:
    return product(jnp.sin(a), jax.lax.stop_gradient(b)) * product(jax.lax.stop_gradient(a), jnp.sin(b))


def test_an_operand_without_a_transpose_refuses_alone() -> None:
    primitive = Primitive("half")
    primitive.def_impl(lambda a, b: opaque(product(opaque(a), opaque(b))))
    primitive.def_abstract_eval(lambda a, b: jax.core.ShapedArray((a.shape[0], b.shape[0]), a.dtype))
    ad.defbilinear(primitive, lambda cotangent, a, b: primitive.bind(cotangent, b.T), None)
    program, _ = through_bytes(lambda a, b: primitive.bind(jnp.sin(a), b), [A, B])
    with jax.enable_x64(True):
        ours = lambda a, b: program(a, b)[0]  # noqa: E731
        expected = jax.jacrev(lambda a: product(jnp.sin(a), B))(A)
        np.testing.assert_allclose(jax.jacrev(ours)(A, B), expected, rtol=1e-12)
        with pytest.raises(Fault, match=r"says nothing of how to go back through its operands \[1\]; use forward mode") as caught:
            jax.jacrev(ours, 1)(A, B)
    assert caught.value.reason is Reason.MODE_UNAVAILABLE
