"""Primitives with rules of their own, made by hand: what libraries may do that those we know do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conformance.compare import FORWARD, REVERSE, assert_same
from conformance.roundtrip import through_bytes
from jax.experimental import hijax, sparse
from jax.extend.core import Primitive
from jax.interpreters import ad, mlir

from jacloom_graph.errors import Fault

X = np.array([0.5, -1.0, 2.0])


@pytest.fixture
def scaled() -> Iterator[Primitive]:
    """Multiplies by a factor and counts the entries; its implementation gives wrong derivatives, its rules right ones."""
    primitive = Primitive("scaled")
    primitive.multiple_results = True

    def value(x: Any, factor: Any) -> list[Any]:
        return [jax.lax.stop_gradient(x) * factor, jnp.int32(x.size)]

    def jvp(primals: Any, tangents: Any) -> Any:
        (x, factor), (dx, df) = primals, tangents
        applied = jax.jit(lambda dx, factor: primitive.bind(dx, factor))  # rules may well be compiled
        parts = [] if isinstance(dx, ad.Zero) else [applied(dx, factor)[0]]
        parts += [] if isinstance(df, ad.Zero) else [x * df]
        # An integer result has a tangent without a value, which is not always said by the word for zero.
        return primitive.bind(x, factor), [sum(parts), np.zeros((), jax.dtypes.float0)]

    def transpose(cotangents: Any, x: Any, factor: Any) -> Any:
        return [primitive.bind(cotangents[0], factor)[0], None]

    primitive.def_impl(value)
    primitive.def_abstract_eval(lambda x, factor: jax.eval_shape(value, x, factor) and [x, jax.core.ShapedArray((), jnp.int32)])
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    yield primitive
    del ad.primitive_jvps[primitive], ad.primitive_transposes[primitive]


def test_own_rules_count_and_not_the_implementation(scaled: Primitive) -> None:
    expected = jax.jacfwd(lambda x: jnp.sin(x) * jnp.sum(x))
    program, _ = through_bytes(lambda x: scaled.bind(jnp.sin(x), jnp.sum(x)), [X])
    with jax.enable_x64(True):
        ours = lambda x: program(x)[0]  # noqa: E731
        np.testing.assert_allclose(jax.jacfwd(ours)(X), expected(X), rtol=1e-12)
        np.testing.assert_allclose(jax.jacrev(ours)(X), expected(X), rtol=1e-12)
        np.testing.assert_allclose(jax.jacfwd(jax.jacrev(ours))(X), jax.jacfwd(expected)(X), rtol=1e-12)
        assert program(X)[1] == 3


def test_a_transpose_that_has_no_cotangent_for_an_operand() -> None:
    primitive = Primitive("first")
    primitive.def_impl(lambda a, b: 2 * a)
    primitive.def_abstract_eval(lambda a, b: a)
    ad.primitive_jvps[primitive] = lambda primals, tangents: (primitive.bind(*primals), primitive.bind(*map(ad.instantiate_zeros, tangents)))
    ad.primitive_transposes[primitive] = lambda cotangent, a, b: (2 * cotangent, None)
    program, _ = through_bytes(lambda x: primitive.bind(jnp.sin(x), jnp.cos(x)), [X])
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jacrev(lambda x: program(x)[0])(X), np.diag(2 * np.cos(X)), rtol=1e-12)


@pytest.fixture
def shooting() -> Iterator[Primitive]:
    """Multiplies a tangent by the cosine of a point, in a loop that JAX does not transpose; it has no rule for tangents."""
    primitive = Primitive("shooting")

    def value(tangent: Any, point: Any) -> Any:
        return jax.lax.while_loop(lambda state: state[1] < 3, lambda state: (2 * state[0], state[1] + 1), (tangent * jnp.cos(point) / 8, 0))[0]

    def transpose(cotangent: Any, tangent: Any, point: Any) -> Any:
        assert ad.is_undefined_primal(tangent)
        assert not ad.is_undefined_primal(point)
        return [primitive.bind(cotangent, point), None]

    primitive.def_impl(value)
    primitive.def_abstract_eval(lambda tangent, point: tangent)
    mlir.register_lowering(primitive, mlir.lower_fun(value, multiple_results=False))
    ad.primitive_transposes[primitive] = transpose
    yield primitive
    del ad.primitive_transposes[primitive], mlir._lowerings[primitive]


def test_a_primitive_of_a_rule_that_jax_only_transposes(shooting: Primitive) -> None:
    @jax.custom_jvp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    @jax.jit
    def tangent(dx: Any, x: Any) -> Any:
        return shooting.bind(dx, x)

    sine.defjvp(lambda primals, tangents: (sine(*primals), tangent(*tangents, *primals)))
    program, _ = through_bytes(lambda x: sine(x * jnp.sum(x)), [X])
    ours = lambda x: program(x)[0]  # noqa: E731
    plain = lambda x: jnp.sin(x * jnp.sum(x))  # noqa: E731
    with jax.enable_x64(True):
        for first in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(first(ours)(X), first(plain)(X), rtol=1e-12)
            # Where JAX has no second derivative, it is differentiated as what it computes.
            np.testing.assert_allclose(jax.jacfwd(first(ours))(X), jax.jacfwd(first(plain))(X), rtol=1e-12, atol=1e-12)


def test_a_primitive_that_jax_only_transposes_after_a_function_with_a_rule() -> None:
    primitive = Primitive("tenfold")  # its transpose tells whether it was used
    primitive.def_impl(lambda point, tangent: point * tangent)
    primitive.def_abstract_eval(lambda point, tangent: tangent)
    mlir.register_lowering(primitive, mlir.lower_fun(lambda point, tangent: point * tangent, multiple_results=False))
    ad.primitive_transposes[primitive] = lambda cotangent, point, tangent: (None, 10 * primitive.bind(point, cotangent))

    @jax.custom_jvp
    def prepared(point: Any, tangent: Any) -> Any:
        return jnp.cos(point), 2 * tangent

    @jax.custom_jvp
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    prepared.defjvp(lambda primals, tangents: (prepared(*primals), (-jnp.sin(primals[0]) * tangents[0], 2 * tangents[1])))
    sine.defjvp(lambda primals, tangents: (sine(*primals), primitive.bind(*prepared(*primals, *tangents))))
    program, _ = through_bytes(sine, [X])
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jacrev(lambda x: program(x)[0])(X), np.diag(20 * np.cos(X)), rtol=1e-12)
        np.testing.assert_allclose(jax.jacfwd(lambda x: program(x)[0])(X), np.diag(2 * np.cos(X)), rtol=1e-12)


def test_an_implementation_that_reads_an_operand_in_python() -> None:
    functions = [jnp.cos, jnp.sin]
    primitive = Primitive("chosen")
    primitive.def_impl(lambda which, x: functions[which.item()](x))
    primitive.def_abstract_eval(lambda which, x: x)
    ad.primitive_jvps[primitive] = lambda primals, tangents: (primitive.bind(*primals), tangents[1] * primitive.bind(np.array(0), primals[1]))
    program, _ = through_bytes(lambda x: jax.jit(lambda x: primitive.bind(np.array(1), x))(x) * x, [X])
    expected = lambda x: jnp.sin(x) * x  # noqa: E731
    with jax.enable_x64(True):
        for transform in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(transform(lambda x: program(x)[0])(X), transform(expected)(X), rtol=1e-12, atol=1e-12)
    with pytest.raises(Fault, match="its implementation reads the value of an operand in Python"):
        through_bytes(lambda which, x: primitive.bind(which, x), [np.array(1), X])


def test_a_rule_that_raises_refuses_where_it_is_differentiated() -> None:
    primitive = Primitive("opaque")
    primitive.def_impl(jnp.sin)
    primitive.def_abstract_eval(lambda x: x)

    def jvp(primals: Any, tangents: Any) -> Any:
        raise NotImplementedError("opaque has no derivative")

    ad.primitive_jvps[primitive] = jvp
    program, _ = through_bytes(lambda x: primitive.bind(x) * x, [X])
    with jax.enable_x64(True):
        np.testing.assert_allclose(program(X)[0], np.sin(X) * X, rtol=1e-12)
        with pytest.raises(Fault, match="opaque refuses: NotImplementedError: opaque has no derivative"):
            jax.jacfwd(lambda x: program(x)[0])(X)


class Power(hijax.VJPHiPrimitive):
    """A power of each entry, expanded into a lower power; what JAX finds for its expansion has no derivative."""

    exponent: int

    def __init__(self, aval: Any, exponent: int) -> None:
        self.in_avals, self.out_aval, self.params = (aval,), aval, {"exponent": exponent}
        super().__init__()

    def expand(self, x: Any) -> Any:
        return jax.lax.stop_gradient(x) * power(x, self.exponent - 1) if self.exponent else jnp.ones_like(x)

    def jvp(self, primals: Any, tangents: Any) -> Any:
        return self(*primals), self.exponent * power(primals[0], max(self.exponent - 1, 0)) * tangents[0]


def power(x: Any, exponent: int) -> Any:
    return Power(jax.typeof(x), exponent)(x)


def test_high_primitives_are_what_replaces_them_when_they_are_compiled() -> None:
    program, traced = through_bytes(lambda x: power(jnp.sin(x), 3), [X])
    assert not {node.op for function in traced.graph.functions for node in function.nodes if "hi_primitive" in node.op}
    with jax.enable_x64(True):
        ours, expected = lambda x: program(x)[0], lambda x: jnp.sin(x) ** 3
        for chain in ((), (FORWARD,), (REVERSE,), (REVERSE, FORWARD), (FORWARD, REVERSE)):
            mine, theirs = ours, expected
            for transform in chain:
                mine, theirs = transform(mine), transform(theirs)
            np.testing.assert_allclose(mine(X), theirs(X), rtol=1e-12)


class Turned(hijax.VJPHiPrimitive):
    """A derivative of the sine by its order, which only its parameter tells; it is expanded into another of the same kind."""

    def __init__(self, aval: Any, order: int, outer: bool) -> None:
        self.in_avals, self.out_aval, self.params = (aval,), aval, {"order": order, "outer": outer}
        super().__init__()

    def expand(self, x: Any) -> Any:
        return turned(x, self.order, False) if self.outer else jnp.sin(x + self.order * np.pi / 2)

    def jvp(self, primals: Any, tangents: Any) -> Any:
        return self(*primals), turned(primals[0], self.order + 1, self.outer) * tangents[0]


def turned(x: Any, order: int, outer: bool = True) -> Any:
    return Turned(jax.typeof(x), order, outer)(x)


def test_high_primitives_that_differ_in_a_parameter_only_have_rules_of_their_own() -> None:
    program, _ = through_bytes(lambda x: turned(x, 0), [X])
    with jax.enable_x64(True):
        ours = lambda x: program(x)[0]  # noqa: E731
        np.testing.assert_allclose(jax.jacfwd(ours)(X), np.diag(np.cos(X)), atol=1e-12)
        np.testing.assert_allclose(FORWARD(FORWARD(ours))(X), FORWARD(FORWARD(jnp.sin))(X), atol=1e-12)


def test_a_high_primitive_without_a_rule_for_tangents_refuses_where_it_is_differentiated() -> None:
    class Reversed(Power):
        jvp = hijax.VJPHiPrimitive.jvp

    program, _ = through_bytes(lambda x: Reversed(jax.typeof(x), 1)(x), [X])
    with jax.enable_x64(True):
        np.testing.assert_allclose(program(X)[0], X, rtol=1e-12)
        with pytest.raises(Fault, match=r"refuses: NotImplementedError: for jvp support, subclass .*Reversed.* must implement `jvp`"):
            jax.jacrev(lambda x: program(x)[0])(X)


class Clipped(hijax.VJPHiPrimitive):
    """A scaled product of the first argument's sine and the second, and the first cut off; its rule scales the first cotangent by seven."""

    scale: float

    def __init__(self, aval: Any, scale: float) -> None:
        self.in_avals, self.out_aval, self.params = (aval, aval), (aval, aval), {"scale": scale}
        super().__init__()

    def expand(self, x: Any, y: Any) -> Any:
        return self.scale * jnp.sin(x) * y, jax.lax.stop_gradient(x)

    def vjp_fwd(self, perturbed: Any, x: Any, y: Any) -> Any:
        return self(x, y), (x, y)

    def vjp_bwd_retval(self, residuals: Any, cotangents: Any) -> Any:
        (x, y), (product, cut) = residuals, map(ad.instantiate_zeros, cotangents)
        return 7 * self.scale * jnp.cos(x) * y * product, self.scale * jnp.sin(x) * product + cut

    def batch_dim_rule(self, axis: Any, dims: Any) -> Any:
        return 0, 0


class Accumulated(Clipped):
    """The same by the other interface, which hands cotangents over one by one."""

    vjp_bwd_retval = hijax.VJPHiPrimitive.vjp_bwd_retval

    def vjp_bwd(self, residuals: Any, cotangents: Any, *accumulators: Any) -> None:
        for accumulator, cotangent in zip(accumulators, Clipped.vjp_bwd_retval(self, residuals, cotangents), strict=True):
            accumulator.accum(cotangent)


def clipped(x: Any, y: Any, scale: float = 2.0) -> Any:
    return Clipped(jax.typeof(x), scale)(x, y)


BY_REVERSE_RULE = {
    "of both arguments": lambda x: clipped(x, x * x),
    "of one argument": lambda x: clipped(jnp.ones_like(x), x),
    "of the other argument": lambda x: clipped(x, jnp.ones_like(x)),
    "one after another of another parameter": lambda x: clipped(*clipped(x, x), scale=3.0),
    "in a loop": lambda x: jax.lax.scan(lambda carry, _: (clipped(carry, x)[0], None), x, None, length=3)[0],
    "in a batch": lambda x: jax.vmap(lambda row: clipped(row, x))(jnp.stack([x, 2 * x])),
    "of a scalar": lambda x: clipped(x[0], x[1]),
    "by accumulators": lambda x: Accumulated(jax.typeof(x), 2.0)(x, x * x),
}
"""Functions of high primitives with a reverse rule only."""


@pytest.mark.parametrize("name", BY_REVERSE_RULE)
def test_high_primitives_with_a_reverse_rule_only_have_it_in_reverse_mode(name: str) -> None:
    assert_same(BY_REVERSE_RULE[name], X, transforms=((REVERSE,), (REVERSE, REVERSE)))


def test_high_primitives_with_a_reverse_rule_only_refuse_forward_mode_as_a_custom_vjp_does() -> None:
    program, _ = through_bytes(lambda x: clipped(x, x), [X])
    with jax.enable_x64(True), pytest.raises(Fault, match="has a reverse rule only"):
        jax.jacfwd(lambda x: program(x)[0])(X)


def test_a_high_primitive_whose_reverse_rule_raises_says_what_either_rule_does() -> None:
    class Failing(Clipped):
        def vjp_bwd_retval(self, residuals: Any, cotangents: Any) -> Any:
            raise ValueError("no way back")

    program, _ = through_bytes(lambda x: Failing(jax.typeof(x), 1.0)(x, x), [X])
    with jax.enable_x64(True), pytest.raises(Fault, match=r"must implement `jvp`; ValueError: no way back"):
        jax.jacrev(lambda x: program(x)[0])(X)


INDICES = jnp.array([[0, 1], [1, 2], [2, 0], [2, 3]])
ENTRIES = np.array([0.3, 0.7, 1.4, 2.2])
BY_COMPILING = {
    "sparse matrix": lambda d: sparse.BCOO((d, INDICES), shape=(3, 4)) @ jnp.cos(d),
    "sparse matrix, transposed": lambda d: sparse.BCOO((d, INDICES), shape=(3, 4)).T @ d[:3],
    "sparse matrix, dense": lambda d: sparse.BCOO((jnp.sin(d), INDICES), shape=(3, 4)).todense(),
}
"""Functions of primitives that JAX calls by compiling them; what they compute is behind their lowering."""


@pytest.mark.parametrize("name", BY_COMPILING)
def test_primitives_that_are_called_by_compiling(name: str) -> None:
    assert_same(BY_COMPILING[name], ENTRIES, transforms=((FORWARD,), (REVERSE,), (REVERSE, FORWARD)))


def test_a_product_whose_batches_jax_does_not_have() -> None:
    stack = np.random.default_rng(0).normal(size=(2, 3, 5))
    program, _ = through_bytes(lambda d: jax.lax.ragged_dot(jnp.outer(d, d[:3]), stack * d[0], jnp.array([1, 3])), [ENTRIES])
    ours = lambda d: program(d)[0]  # noqa: E731

    def expected(d: Any) -> Any:
        rows = jnp.outer(d, d[:3])
        return jnp.concatenate([rows[:1] @ (stack[0] * d[0]), rows[1:] @ (stack[1] * d[0])])

    with jax.enable_x64(True):
        for transform in (jax.jacfwd, jax.jacrev):
            np.testing.assert_allclose(transform(ours)(ENTRIES), transform(expected)(ENTRIES), rtol=1e-12, atol=1e-12)


class Held:
    """A static field whose text does not tell what it is, as that of a large array does not."""

    def __init__(self, value: Any, same_hash: bool = False) -> None:
        self.value, self.same_hash = value, same_hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and bool(np.array_equal(self.value, other.value))

    def __hash__(self) -> int:
        return 1 if self.same_hash else hash(np.asarray(self.value).tobytes())

    def __repr__(self) -> str:
        return "Held(...)"


@jax.tree_util.register_pytree_node_class
class Applied:
    """A pytree that holds what its primitive computes beside its leaf."""

    def __init__(self, leaf: Any, static: Any) -> None:
        self.leaf, self.static = leaf, static

    def tree_flatten(self) -> Any:
        return (self.leaf,), self.static

    @classmethod
    def tree_unflatten(cls, static: Any, leaves: Any) -> Any:
        return cls(leaves[0], static)


@pytest.mark.parametrize("in_loops", [False, True])
@pytest.mark.parametrize("same_hash", [False, True])
@pytest.mark.parametrize("in_tree", [False, True])
def test_equations_that_differ_in_what_their_text_leaves_out_are_told_apart(in_tree: bool, same_hash: bool, in_loops: bool) -> None:
    primitive = Primitive("applied")

    def value(x: Any, *, static: Any) -> Any:
        held = jax.tree.unflatten(static, [x]).static if in_tree else static
        return x**2 * jnp.sum(held.value)

    primitive.def_impl(value)
    primitive.def_abstract_eval(lambda x, static: x)
    ad.primitive_jvps[primitive] = lambda primals, tangents, static: jax.jvp(lambda x: value(x, static=static), primals, tuple(tangents))
    mlir.register_lowering(primitive, mlir.lower_fun(value, multiple_results=False))

    def applied(x: Any, factor: float) -> Any:
        held = Held(np.full(3000, factor / 3000), same_hash)
        static = jax.tree.structure(Applied(x, held)) if in_tree else held
        if not in_loops:
            return primitive.bind(x, static=static)
        return jax.lax.scan(lambda carry, _: (primitive.bind(carry, static=static), None), x, None, length=2)[0]

    try:
        assert_same(lambda x: applied(x, 2.0) + applied(x, 3.0), X, transforms=((FORWARD,), (REVERSE,), (FORWARD, REVERSE)))
    finally:
        del ad.primitive_jvps[primitive]
