"""Kernels of several points at once: what each point gives is what a kernel of one point gives, and what JAX gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.handmade import LAYER, REVERSE_TWICE, SCALAR, W, X, arrays, fault, node, task

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Function, Type
from jacloom_worker import compiling, infer, kernels, requirements
from jacloom_worker.engine import Engine
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Done, Kernel, Kind

pytestmark = pytest.mark.usefixtures("worker_jax")

POINTS = 3


def subject_of(function: Callable[..., Sequence[Any]], *inputs: Type) -> Subject:
    apply = lambda _, leaves: function(*leaves)  # noqa: E731
    return Subject(apply, inputs, infer.output_types(apply, inputs))


def compiled(subject: Subject, kernel: Kernel) -> compiling.Compiled:
    requirements.check(kernel, subject.inputs, subject.outputs)
    return compiling.compile(kernels.computation(subject, kernel))


def mixed(a: jax.Array, count: jax.Array, b: jax.Array, none: jax.Array, c: jax.Array) -> list[jax.Array]:
    """Outputs: a matrix, a scalar, an integer, an empty array."""
    matrix = jnp.sin(a)[:, None] * jnp.cos(b).sum(axis=1) * c
    return [matrix, (a.sum() * c**2).astype(jnp.float32) + count, count + 1, none * c]


SUBJECT_INPUTS = (Type("float64", (3,)), Type("int32"), Type("float32", (2, 4)), Type("float64", (0, 2)), Type("float64"))
WRT, OUTPUTS = (4, 0, 2, 3), (1, 0, 3)  # neither in order nor all
IN, OUT = 1 + 3 + 8 + 0, 1 + 6 + 0
VARYING = (0, 1, 4)


def drawn(types: Sequence[Type], varying: Sequence[int] = ()) -> list[np.ndarray]:
    """Returns an argument of each type, of those that vary one per point."""
    random = np.random.default_rng(0)
    shapes = [(POINTS, *type_.shape) if index in varying else type_.shape for index, type_ in enumerate(types)]
    return [np.asarray(random.normal(size=shape) * 2).astype(jnp.dtype(type_.dtype)) for type_, shape in zip(types, shapes, strict=True)]


def check(subject: Subject, kernel: Kernel, arguments: Sequence[np.ndarray], *extra: Any, tolerance: float = 1e-12) -> list[np.ndarray]:
    """Checks a kernel of several points against one of a single point, and that the same call gives the same bits; returns its results."""
    several = compiled(subject, Kernel(**{**fields(kernel), "points": POINTS, "varying": VARYING}))
    single = compiled(subject, kernel)
    varying = [*VARYING]
    got = [np.asarray(result) for result in several([*arguments, *extra])]
    again = [np.asarray(result) for result in several([*arguments, *extra])]
    for point in range(POINTS):
        expected = single([*(array[point] if index in varying else array for index, array in enumerate(arguments)), *extra])
        for result, one in zip(got, expected, strict=True):
            assert (result.dtype, result.shape) == (one.dtype, (POINTS, *one.shape))
            np.testing.assert_allclose(result[point], one, rtol=tolerance, atol=tolerance)
    assert [result.tobytes() for result in got] == [result.tobytes() for result in again]
    return got


def fields(kernel: Kernel) -> dict[str, Any]:
    return {name: getattr(kernel, name) for name in Kernel.__slots__}


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of(mixed, *SUBJECT_INPUTS)


@pytest.mark.parametrize(
    "kernel",
    [
        Kernel("f", Kind.VALUE, values=(2, 1, 0, 3)),
        Kernel("f", Kind.GRADIENT, (4, 0), (1,), (2,)),
        Kernel("f", Kind.FORWARD, WRT, OUTPUTS, width=IN),
        Kernel("f", Kind.REVERSE, WRT, OUTPUTS, width=OUT),
        Kernel("f", Kind.HESSIAN, (4, 2), (0, 1), width=9),
    ],
    ids=lambda kernel: kernel.kind.value,
)
def test_each_point_is_as_alone(subject: Subject, kernel: Kernel) -> None:
    extra = [np.int64(0)] if kernel.kind in requirements.TILES else []
    check(subject, kernel, drawn(SUBJECT_INPUTS, VARYING), *extra, tolerance=1e-6)


def test_seeds_of_single_passes_vary_or_not(subject: Subject) -> None:
    leaves, inputs = drawn(SUBJECT_INPUTS, (0,)), len(SUBJECT_INPUTS)
    for kind, types in ((Kind.JVP, (SUBJECT_INPUTS[0], SUBJECT_INPUTS[4])), (Kind.HVP, (SUBJECT_INPUTS[0], SUBJECT_INPUTS[4]))):
        tangents = drawn(types, (0,))
        kernel = Kernel("f", kind, (0, 4), (1,), (2,), points=POINTS, varying=(0, inputs))
        got = compiled(subject, kernel)([*leaves, *tangents])
        single = compiled(subject, Kernel("f", kind, (0, 4), (1,), (2,)))
        for point in range(POINTS):
            expected = single([leaves[0][point], *leaves[1:], tangents[0][point], tangents[1]])
            for result, one in zip(got, expected, strict=True):
                np.testing.assert_allclose(result[point], one, rtol=1e-6)
    cotangents = drawn([subject.outputs[index] for index in OUTPUTS], (1,))
    kernel = Kernel("f", Kind.VJP, WRT, OUTPUTS, points=POINTS, varying=(0, inputs + 1))
    got = compiled(subject, kernel)([*leaves, *cotangents])
    for point in range(POINTS):
        _, pullback = jax.vjp(lambda *args: [mixed(*args)[index] for index in OUTPUTS], *map(jnp.asarray, [leaves[0][point], *leaves[1:]]))
        expected = pullback([jnp.asarray(cotangents[0]), jnp.asarray(cotangents[1][point]), jnp.asarray(cotangents[2])])
        for result, index in zip(got, WRT, strict=True):
            np.testing.assert_allclose(result[point], expected[index], rtol=1e-5, atol=1e-6)


def test_a_matrix_that_points_share_is_not_copied_for_each() -> None:
    subject = subject_of(lambda w, x: [jnp.tanh(w @ x)], Type("float64", (5, 7)), Type("float64", (7,)))
    computation = kernels.computation(subject, Kernel("f", Kind.VALUE, values=(0,), points=POINTS, varying=(1,)))
    assert [type_.shape for type_ in computation.arguments] == [(5, 7), (POINTS, 7)]
    jaxpr = jax.make_jaxpr(computation.call)((), *map(infer.struct, computation.arguments))
    products = [tuple(var.aval.shape for var in eqn.invars) for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert products == [((5, 7), (POINTS, 7))]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex128"])
def test_precision_is_kept(dtype: str) -> None:
    type_ = Type(dtype, (2,))
    subject = subject_of(lambda x: [jnp.stack([x[0] * x[1], jnp.sin(x[0]), x[1] ** 3])], type_)
    kernel = Kernel("f", Kind.FORWARD, (0,), (0,), width=2, holomorphic=dtype == "complex128", points=POINTS, varying=(0,))
    (points,) = drawn([type_], (0,))
    (got,) = compiled(subject, kernel)([points, np.int64(0)])
    assert got.dtype.name == dtype
    single = compiled(subject, Kernel("f", Kind.FORWARD, (0,), (0,), width=2, holomorphic=dtype == "complex128"))
    for point in range(POINTS):
        wide = np.complex128 if dtype == "complex128" else np.float64
        np.testing.assert_allclose(got[point].astype(wide), np.asarray(single([points[point], np.int64(0)])[0]).astype(wide), rtol=2e-2)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_draw_what_they_draw_alone(implementation: str) -> None:
    """JAX itself draws other numbers in a batch of keys that are not threefry."""
    subject = subject_of(
        lambda key, x: [jax.random.normal(key, (2,), x.dtype) * x, jax.random.split(key, 2)], Type(f"key<{implementation}>"), Type("float64", (2,))
    )
    raw = np.stack([np.asarray(jax.random.key_data(jax.random.key(seed, impl=implementation))) for seed in range(POINTS)])
    tangent, split = compiled(subject, Kernel("f", Kind.JVP, (1,), (0,), (1,), points=POINTS, varying=(0,)))([raw, np.ones(2), np.ones(2)])
    for seed in range(POINTS):
        key = jax.random.key(seed, impl=implementation)
        np.testing.assert_array_equal(tangent[seed], jax.random.normal(key, (2,), np.float64))
        np.testing.assert_array_equal(split[seed], jax.random.key_data(jax.random.split(key, 2)))


def test_loops_end_for_each_point_by_itself() -> None:
    def doubled(x: jax.Array) -> list[jax.Array]:
        return [jax.lax.while_loop(lambda y: y < 100.0, lambda y: 2.0 * y, x)]

    subject = subject_of(doubled, Type("float64"))
    value, slope = compiled(subject, Kernel("f", Kind.JVP, (0,), (0,), (0,), points=3, varying=(0,)))([np.array([3.0, 200.0, 60.0]), np.ones(())])[
        ::-1
    ]
    assert value.tolist() == [192.0, 200.0, 120.0]
    assert slope.tolist() == [64.0, 1.0, 2.0]


class TestEngine:
    @pytest.mark.parametrize(("kind", "count"), [(Kind.FORWARD, 3), (Kind.REVERSE, 2)])
    def test_tiles_of_points_come_without_their_padding(self, kind: Kind, count: int) -> None:
        points = np.stack([X, X + 1])
        (block,) = arrays(Engine().run(task(LAYER, kind, count=count, width=4, points=2, varying=(0,)), points))
        for point, x in enumerate(points):
            jacobian = (1 - np.tanh(W @ x) ** 2)[:, None] * W
            np.testing.assert_allclose(block[point], jacobian[:, :count] if kind is Kind.FORWARD else jacobian[:count], rtol=1e-12)
        assert block.flags.c_contiguous

    @pytest.mark.parametrize("kind", [Kind.HVP, Kind.HESSIAN])
    def test_a_rule_that_calls_its_function_again(self, kind: Kind) -> None:
        """It leaves a JVP behind that there is not, and that nothing comes of: JAX refuses to batch it."""
        entry = Function("entry", (SCALAR,), (node("custom_call", 0, rule=0), node("neg", 1)), (2,))
        linear = replace(REVERSE_TWICE, functions=(entry, *REVERSE_TWICE.functions[1:]))
        seeds, options = ((np.ones(2),), {}) if kind is Kind.HVP else ((), {"width": 1, "count": 1})
        varying = (0, 1) if kind is Kind.HVP else (0,)
        (got,) = arrays(Engine().run(task(linear, kind, points=2, varying=varying, **options), np.array([2.0, 3.0]), *seeds))
        assert got.ravel().tolist() == [-1.0, -1.0]

    def test_points_of_another_number_are_refused(self) -> None:
        refused = fault(Engine().run(task(LAYER, Kind.VALUE, values=(0,), points=2, varying=(0,)), np.ones((3, 4))))
        assert (refused.reason, refused.field) == (Reason.ARGUMENT_MISMATCH, "args[0]")

    def test_products_are_not_kept_apart_from_their_points(self) -> None:
        asked = task(LAYER, Kind.JVP, points=2, varying=(0, 1))
        answer = Engine().run(type(asked)(asked.kernel, asked.load, "a point", linearize=True), np.stack([X, X + 1]), np.ones((2, 4)))
        assert isinstance(answer, Done)
        np.testing.assert_allclose(answer.arrays[0][0], ((1 - np.tanh(W @ X) ** 2)[:, None] * W).sum(axis=1))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"points": 2}, "differ in some"),
        ({"points": 2, "varying": (0, 0)}, "each named once"),
        ({"points": 2, "varying": (2,)}, "of the 2 arguments"),
        ({"varying": (0,)}, "got 0 points"),
        ({"points": 2, "varying": (0,), "width": 3}, "a batch of seeds is for one point"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(Fault, match=says) as caught:
        requirements.check(Kernel("f", Kind.JVP, (0,), (0,), **options), (Type("float64", (3,)),), (Type("float64"),))
    assert (caught.value.reason, caught.value.field) == (Reason.INVALID_OPTION, "points")
