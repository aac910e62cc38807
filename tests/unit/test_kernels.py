"""Every kind of kernel against JAX's own derivatives, over dtypes, shapes and containers of leaves that are never square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_worker import compiling, infer, kernels, requirements
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Inner, Kernel, Kind

pytestmark = pytest.mark.usefixtures("worker_jax")

EXACT = {"float64": 1e-12, "complex128": 1e-12, "float32": 2e-6, "complex64": 2e-6, "float16": 2e-3, "bfloat16": 2e-2}


def plain(function: Callable[..., Sequence[Any]], inputs: tuple[Type, ...]) -> Subject:
    apply = lambda _, leaves: function(*leaves)  # noqa: E731
    return Subject(apply, inputs, infer.output_types(apply, inputs))


def subject_of(function: Callable[..., Sequence[Any]], *leaves: Any) -> Subject:
    inputs = tuple(infer.type_of(jnp.asarray(leaf)) for leaf in leaves)
    return plain(function, inputs)


def compiled(subject: Subject, kind: Kind, **options: Any) -> compiling.Compiled:
    kernel = Kernel("f" * 64, kind, **options)
    requirements.check(kernel, subject.inputs, subject.outputs)
    return compiling.compile(kernels.computation(subject, kernel))


def compute(subject: Subject, kind: Kind, *arguments: Any, **options: Any) -> list[np.ndarray]:
    return [np.asarray(result) for result in compiled(subject, kind, **options)(arguments)]


def tiles(subject: Subject, kind: Kind, leaves: Sequence[Any], entries: int, axis: int, **options: Any) -> list[np.ndarray]:
    """Returns whole matrices put together from tiles of three seeds, the last of them padded."""
    width = 3
    program = compiled(subject, kind, width=width, **options)
    parts = [program([*leaves, np.int64(start)]) for start in range(0, entries, width)]
    return [np.concatenate(blocks, axis=axis).take(range(entries), axis=axis) for blocks in zip(*parts, strict=True)]


def close(got: np.ndarray, expected: Any, tolerance: float | None = None) -> None:
    expected = np.asarray(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.flags.c_contiguous
    tolerance = tolerance or EXACT[str(got.dtype)]
    kind = np.complex128 if got.dtype.kind == "c" else np.float64
    np.testing.assert_allclose(got.astype(kind), expected.astype(kind), rtol=tolerance, atol=tolerance)


def mixed(a: jax.Array, count: jax.Array, b: jax.Array, none: jax.Array, c: jax.Array) -> list[jax.Array]:
    """Outputs: a matrix, a scalar, an integer, an empty array."""
    matrix = jnp.sin(a)[:, None] * jnp.cos(b).sum(axis=1) * c
    return [matrix, (a.sum() * c**2).astype(jnp.float32) + count, count + 1, none * c]


LEAVES = (np.array([0.5, -1.0, 2.0]), np.int32(3), np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4), np.zeros((0, 2)), np.float64(0.7))
WRT, OUTPUTS = (4, 0, 2, 3), (1, 0, 3)  # neither in order nor all
ENTRIES_IN, ENTRIES_OUT = 1 + 3 + 8 + 0, 1 + 6 + 0


def reference(jacobian: Callable[..., Any], function: Callable[..., Any] = mixed, leaves: Sequence[Any] = LEAVES) -> Any:
    return jacobian(lambda *args: [function(*args)[index] for index in OUTPUTS], argnums=WRT)(*leaves)  # [leaf(out)][leaf(in)]


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of(mixed, *LEAVES)


class TestTiles:
    def test_forward_is_jacfwd(self, subject: Subject) -> None:
        expected = reference(jax.jacfwd)
        got = tiles(subject, Kind.FORWARD, LEAVES, ENTRIES_IN, 1, wrt=WRT, outputs=OUTPUTS)
        for block, index, blocks in zip(got, OUTPUTS, expected, strict=True):
            output = subject.outputs[index]
            columns = [np.reshape(b, (output.size, subject.inputs[j].size)) for b, j in zip(blocks, WRT, strict=True)]
            close(block, np.concatenate(columns, axis=1).astype(output.dtype))

    def test_reverse_is_jacrev(self, subject: Subject) -> None:
        expected = reference(jax.jacrev)
        blocks = tiles(subject, Kind.REVERSE, LEAVES, ENTRIES_OUT, 0, wrt=WRT, outputs=OUTPUTS)
        for position, (block, j) in enumerate(zip(blocks, WRT, strict=True)):
            leaf = subject.inputs[j]
            rows = [np.reshape(expected[k][position], (subject.outputs[i].size, leaf.size)) for k, i in enumerate(OUTPUTS)]
            close(block, np.concatenate(rows).astype(leaf.dtype))

    @pytest.mark.parametrize("inner", ["forward", "reverse"])
    def test_hessian_is_jacfwd_of_jacrev(self, subject: Subject, inner: Inner) -> None:
        expected = reference(lambda f, argnums: jax.jacfwd(jax.jacrev(f, argnums), argnums))  # [leaf(out)][leaf(in)][leaf(in)]
        blocks = tiles(subject, Kind.HESSIAN, LEAVES, ENTRIES_IN, 1, wrt=WRT, outputs=OUTPUTS, inner=inner)
        pairs = [(k, i, p, j) for k, i in enumerate(OUTPUTS) for p, j in enumerate(WRT)]
        for block, (k, i, p, j) in zip(blocks, pairs, strict=True):
            rows = subject.outputs[i].size * subject.inputs[j].size
            whole = np.concatenate([np.reshape(b, (rows, subject.inputs[q].size)) for b, q in zip(expected[k][p], WRT, strict=True)], axis=1)
            assert block.dtype == np.result_type(subject.outputs[i].dtype, subject.inputs[j].dtype)
            np.testing.assert_allclose(block, whole, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("inner", ["forward", "reverse"])
    def test_hessian_of_one_scalar(self, inner: Inner) -> None:
        function = lambda x, y: [jnp.prod(x) * jnp.sin(y).sum()]  # noqa: E731
        x, y = np.array([1.0, 2.0, 3.0]), np.array([[0.1], [0.2]])
        expected = jax.hessian(lambda x: function(x, y)[0])(x)
        (block,) = tiles(subject_of(function, x, y), Kind.HESSIAN, (x, y), 3, 1, wrt=(0,), outputs=(0,), inner=inner)
        close(block, expected)
        np.testing.assert_allclose(expected, np.array([[0, 3, 2], [3, 0, 1], [2, 1, 0]]) * np.sin(y).sum())

    def test_the_lecture_room_example(self) -> None:
        subject = subject_of(lambda x: [jnp.stack([x[0] ** 2 * x[1], 5 * x[0] + jnp.sin(x[1])])], np.zeros(2))
        for kind in (Kind.FORWARD, Kind.REVERSE):
            (block,) = compute(subject, kind, np.array([2.0, 0.0]), np.int64(0), wrt=(0,), outputs=(0,), width=2)
            close(block, np.array([[0.0, 4.0], [5.0, 1.0]]))

    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE, Kind.HESSIAN])
    def test_seeds_beyond_the_last_give_zeros(self, kind: Kind) -> None:
        subject = subject_of(lambda x: [jnp.stack([x[0] ** 3 * x[1], x[1] ** 2, x[0]])], np.zeros(2))
        (block,) = compute(subject, kind, np.array([2.0, 5.0]), np.int64(1), wrt=(0,), outputs=(0,), width=4)
        seeds_axis = 0 if kind is Kind.REVERSE else 1
        left = 2 if kind is Kind.REVERSE else 1
        assert np.any(block.take(range(left), axis=seeds_axis))
        assert not np.any(block.take(range(left, 4), axis=seeds_axis))

    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE, Kind.HESSIAN])
    def test_nothing_to_differentiate(self, subject: Subject, kind: Kind) -> None:
        blocks = compute(subject, kind, *LEAVES, np.int64(0), wrt=(3,), outputs=(3,), width=2)
        assert [block.shape for block in blocks] == [{Kind.FORWARD: (0, 2), Kind.REVERSE: (2, 0), Kind.HESSIAN: (0, 2)}[kind]]
        # No wrt leaves at all: rows and second derivatives have no blocks, columns have one of padding for each output.
        none = compute(subject, kind, *LEAVES, np.int64(0), wrt=(), outputs=(0,), width=2)
        assert [block.shape for block in none] == ([(subject.outputs[0].size, 2)] if kind is Kind.FORWARD else [])

    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE])
    def test_the_point_is_computed_once_a_tile(self, kind: Kind) -> None:
        # The function's own matrix product must stay a product with one vector, however many seeds there are.
        subject = subject_of(lambda w, x: [jnp.tanh(w @ x)], np.zeros((5, 7)), np.zeros(7))
        computation = kernels.computation(subject, Kernel("f", kind, (1,), (0,), width=3))
        jaxpr = jax.make_jaxpr(computation.call)((), *map(infer.struct, computation.arguments))
        products = [eqn.outvars[0].aval.shape for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
        assert (5,) in products
        assert len(products) == 2


class TestSinglePasses:
    def test_value_keeps_order_and_integers(self, subject: Subject) -> None:
        got = compute(subject, Kind.VALUE, *LEAVES, values=(2, 1, 0))
        assert got[0].dtype == np.int32
        assert got[0] == 4
        for result, index in zip(got[1:], (1, 0), strict=True):
            close(result, mixed(*map(jnp.asarray, LEAVES))[index])

    def test_jvp_with_values(self, subject: Subject) -> None:
        tangents = [np.full_like(LEAVES[index], 0.5) for index in WRT]
        got = compute(subject, Kind.JVP, *LEAVES, *tangents, wrt=WRT, outputs=OUTPUTS, values=(2, 0))
        products = [np.tensordot(block, tangent, np.ndim(tangent)) for block, tangent in zip(reference(jax.jacfwd)[1], tangents, strict=True)]
        close(got[1], sum(products), tolerance=1e-6)  # a leaf is float32
        assert [result.shape for result in got] == [(), (3, 2), (0, 2), (), (3, 2)]
        assert got[3] == 4

    def test_vjp_with_values(self, subject: Subject) -> None:
        cotangents = [np.float32(2.0), np.arange(6.0).reshape(3, 2), np.zeros((0, 2))]
        got = compute(subject, Kind.VJP, *LEAVES, *cotangents, wrt=WRT, outputs=OUTPUTS, values=(2,))
        out, pullback = jax.vjp(lambda *args: [mixed(*args)[index] for index in OUTPUTS], *map(jnp.asarray, LEAVES))
        expected = pullback([jnp.asarray(c) for c in cotangents])
        assert [o.dtype for o in out] == [c.dtype for c in cotangents]
        for result, index in zip(got[:-1], WRT, strict=True):
            close(result, expected[index])
        assert got[-1] == 4

    def test_gradient_and_hvp(self, subject: Subject) -> None:
        wrt, tangents = (0, 4), (np.array([1.0, 0.0, -2.0]), np.float64(0.25))
        scalar = lambda a, c: mixed(a, *map(jnp.asarray, LEAVES[1:4]), c)[1]  # noqa: E731
        point = (LEAVES[0], LEAVES[4])
        gradient = jax.grad(scalar, (0, 1))
        product = jax.jvp(gradient, point, tangents)[1]
        for inner in ("reverse", "forward"):
            got = compute(subject, Kind.GRADIENT, *LEAVES, wrt=wrt, outputs=(1,), values=(1, 2), inner=inner)
            for result, expected in zip(got, [*gradient(*point), scalar(*point), np.int32(4)], strict=True):
                np.testing.assert_allclose(result, expected, rtol=1e-6)
        got = compute(subject, Kind.HVP, *LEAVES, *tangents, wrt=wrt, outputs=(1,), values=(1,))
        for result, expected in zip(got, [*product, scalar(*point)], strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-6)


class TestDtypes:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE])
    def test_precision_is_kept(self, dtype: str, kind: Kind) -> None:
        w = np.arange(10).reshape(2, 5).astype(jnp.dtype(dtype)) / 10
        x = np.linspace(-1, 1, 5).astype(jnp.dtype(dtype))
        function = lambda x: [jnp.tanh(w @ x)]  # noqa: E731
        (block,) = compute(subject_of(function, x), kind, x, np.int64(0), wrt=(0,), outputs=(0,), width=5 if kind is Kind.FORWARD else 2)
        close(block, jax.jacfwd(lambda x: function(x)[0])(x))

    def test_float16_with_bfloat16(self) -> None:
        x, y = np.array([1, 2], np.float16), np.array([3.0], jnp.bfloat16)
        subject = subject_of(lambda x, y: [x * x * y.astype(jnp.float16)], x, y)
        assert [b.dtype for b in compute(subject, Kind.HESSIAN, x, y, np.int64(0), wrt=(0, 1), outputs=(0,), width=3)] == [np.float16, np.float32]

    @pytest.mark.parametrize("kind", [Kind.FORWARD, Kind.REVERSE])
    def test_holomorphic(self, kind: Kind) -> None:
        z = np.array([1 + 2j, -0.5j, 0.25])
        function = lambda z: [jnp.stack([jnp.exp(z[0] * z[1]), z[2] ** 3])]  # noqa: E731
        width = 3 if kind is Kind.FORWARD else 2
        (block,) = compute(subject_of(function, z), kind, z, np.int64(0), wrt=(0,), outputs=(0,), width=width, holomorphic=True)
        close(block, jax.jacfwd(lambda z: function(z)[0], holomorphic=True)(z))
        close(block, jax.jacrev(lambda z: function(z)[0], holomorphic=True)(z))

    def test_holomorphic_gradient_and_hessian(self) -> None:
        z = np.array([1 + 2j, -0.5j, 0.25])
        function = lambda z: [jnp.exp(z[0] * z[1]) * z[2] ** 3]  # noqa: E731
        subject = subject_of(function, z)
        scalar = lambda z: function(z)[0]  # noqa: E731
        (gradient,) = compute(subject, Kind.GRADIENT, z, wrt=(0,), outputs=(0,), holomorphic=True)
        close(gradient, jax.grad(scalar, holomorphic=True)(z))
        (hessian,) = compute(subject, Kind.HESSIAN, z, np.int64(0), wrt=(0,), outputs=(0,), width=3, holomorphic=True)
        close(hessian, jax.hessian(scalar, holomorphic=True)(z))

    def test_real_to_complex_by_columns_complex_to_real_by_rows(self) -> None:
        x, z = np.array([0.1, 0.2, 0.3]), np.array([1 + 1j, 2 - 1j])
        spiral = lambda x: [jnp.exp(1j * x[:2]) * x[2]]  # noqa: E731
        (block,) = compute(subject_of(spiral, x), Kind.FORWARD, x, np.int64(0), wrt=(0,), outputs=(0,), width=3)
        close(block, jax.jacfwd(lambda x: spiral(x)[0])(x))
        power = lambda z: [jnp.abs(z) ** 2 * jnp.real(z[0])]  # noqa: E731
        (block,) = compute(subject_of(power, z), Kind.REVERSE, z, np.int64(0), wrt=(0,), outputs=(0,), width=2)
        close(block, jax.jacrev(lambda z: power(z)[0])(z))
        energy = lambda z: [jnp.sum(jnp.abs(z) ** 2 * jnp.real(z[0]))]  # noqa: E731
        (gradient,) = compute(subject_of(energy, z), Kind.GRADIENT, z, wrt=(0,), outputs=(0,))
        close(gradient, jax.grad(lambda z: energy(z)[0])(z))

    def test_keys_travel_as_raw_data(self) -> None:
        key = jax.random.key(7)
        function = lambda key, x: [jax.random.normal(key, (3,), x.dtype) * x, jax.random.fold_in(key, 1)]  # noqa: E731
        inputs = (Type("key<threefry2x32>"), Type("float32", (3,)))
        subject = plain(function, inputs)
        assert subject.outputs == (Type("float32", (3,)), Type("key<threefry2x32>"))
        raw, x = np.asarray(jax.random.key_data(key)), np.ones(3, np.float32)
        tangent, folded = compute(subject, Kind.JVP, raw, x, np.ones(3, np.float32), wrt=(1,), outputs=(0,), values=(1,))
        close(tangent, jax.random.normal(key, (3,), np.float32))
        np.testing.assert_array_equal(folded, jax.random.key_data(jax.random.fold_in(key, 1)))

    def test_a_program_of_other_types_than_promised_is_refused(self) -> None:
        lying = Subject(lambda _, leaves: [leaves[0].astype(jnp.float32)], (Type("float64", (3,)),), (Type("float64", (3,)),))
        with pytest.raises(Fault, match=r"result 0 .* float64\[3\].* float32\[3\]") as caught:
            compute(lying, Kind.VALUE, np.ones(3), values=(0,))
        assert caught.value.reason is Reason.INTERNAL


def test_large_constants_are_arguments() -> None:
    w = np.arange(12.0).reshape(3, 4)
    subject = Subject(lambda constants, leaves: [constants[0] @ leaves[0]], (Type("float64", (4,)),), (Type("float64", (3,)),), (w,))
    program = compiled(subject, Kind.FORWARD, wrt=(0,), outputs=(0,), width=4)
    assert "f64[3,4]{1,0} parameter(0)" in str(program.executable.as_text())
    np.testing.assert_array_equal(program([np.ones(4), np.int64(0)])[0], w)


class TestRequirements:
    INPUTS = (Type("float64", (3,)), Type("int32"), Type("complex128", (2,)))
    OUTPUTS = (Type("float64"), Type("float64", (2,)), Type("bool"), Type("complex128"))

    @pytest.mark.parametrize(
        ("kernel", "reason", "field", "says"),
        [
            (Kernel("f", Kind.JVP, (3,), (0,)), Reason.INVALID_OPTION, "wrt[0]", "is 3, but there are 3 leaves"),
            (Kernel("f", Kind.JVP, (0, -1), (0,)), Reason.INVALID_OPTION, "wrt[1]", "is -1, but there are 3 leaves"),
            (Kernel("f", Kind.JVP, (0, 0), (0,)), Reason.INVALID_OPTION, "wrt[1]", "names leaf 0 twice"),
            (Kernel("f", Kind.FORWARD, (1,), (0,), width=1), Reason.INVALID_OPTION, "wrt[0]", "int32"),
            (Kernel("f", Kind.VJP, (0,), (2,)), Reason.INVALID_OPTION, "outputs[0]", "bool"),
            (Kernel("f", Kind.VALUE, values=(4,)), Reason.INVALID_OPTION, "values[0]", "there are 4 leaves"),
            (Kernel("f", Kind.REVERSE, (0,), (0,)), Reason.INVALID_OPTION, "options.tile", "at least one seed"),
            (Kernel("f", Kind.GRADIENT, (0,), (1,)), Reason.INVALID_OPTION, "outputs", r"float64\[2\]"),
            (Kernel("f", Kind.HVP, (0,), ()), Reason.INVALID_OPTION, "outputs", "got none"),
            (Kernel("f", Kind.FORWARD, (2,), (0,), width=1), Reason.MODE_UNAVAILABLE, "", "reverse mode"),
            (Kernel("f", Kind.REVERSE, (0,), (3,), width=1), Reason.MODE_UNAVAILABLE, "", "forward mode"),
            (Kernel("f", Kind.HESSIAN, (2,), (0,), width=1), Reason.MODE_UNAVAILABLE, "", "holomorphic"),
            (Kernel("f", Kind.GRADIENT, (0,), (3,)), Reason.MODE_UNAVAILABLE, "", "holomorphic"),
            (Kernel("f", Kind.FORWARD, (2, 0), (3,), width=1, holomorphic=True), Reason.INVALID_OPTION, "wrt[1]", "drop holomorphic"),
            (Kernel("f", Kind.REVERSE, (2,), (0,), width=1, holomorphic=True), Reason.INVALID_OPTION, "outputs[0]", "drop holomorphic"),
        ],
    )
    def test_refused(self, kernel: Kernel, reason: Reason, field: str, says: str) -> None:
        with pytest.raises(Fault, match=says) as caught:
            requirements.check(kernel, self.INPUTS, self.OUTPUTS)
        assert (caught.value.reason, caught.value.field) == (reason, field)

    @pytest.mark.parametrize(
        "kernel",
        [
            Kernel("f", Kind.FORWARD, (0,), (3, 1), width=1),
            Kernel("f", Kind.REVERSE, (2, 0), (0, 1), width=1),
            Kernel("f", Kind.HVP, (2,), (0,)),
            Kernel("f", Kind.VALUE, values=(2, 3)),
            Kernel("f", Kind.VALUE),
        ],
    )
    def test_allowed(self, kernel: Kernel) -> None:
        requirements.check(kernel, self.INPUTS, self.OUTPUTS)


class TestBatches:
    @pytest.mark.parametrize("kind", [Kind.JVP, Kind.VJP])
    def test_a_batch_is_its_seeds_one_by_one(self, subject: Subject, kind: Kind) -> None:
        leaves = [LEAVES[index] for index in WRT] if kind is Kind.JVP else [np.float32(2.0), np.zeros((3, 2)), np.zeros((0, 2))]
        seeds = [np.stack([np.full_like(leaf, number + 0.5) for number in range(3)]) for leaf in leaves]
        batch = compute(subject, kind, *LEAVES, *seeds, wrt=WRT, outputs=OUTPUTS, values=(2,), width=3)
        assert batch[-1] == 4, "values are those of the point, which is one"
        for number in range(3):
            single = compute(subject, kind, *LEAVES, *(seed[number] for seed in seeds), wrt=WRT, outputs=OUTPUTS)
            for several, one in zip(batch[:-1], single, strict=True):
                assert (several.dtype, several.shape) == (one.dtype, (3, *one.shape))
                close(several[number], one, tolerance=1e-6)

    def test_a_batch_of_hessian_products(self) -> None:
        subject = subject_of(lambda x: [jnp.prod(x)], np.zeros(3))
        (got,) = compute(subject, Kind.HVP, np.array([1.0, 2.0, 3.0]), np.eye(3)[:2], wrt=(0,), outputs=(0,), width=2)
        close(got, np.array([[0.0, 3.0, 2.0], [3.0, 0.0, 1.0]]))

    @pytest.mark.parametrize("kind", [Kind.JVP, Kind.VJP])
    def test_the_point_is_computed_once_a_batch(self, kind: Kind) -> None:
        subject = subject_of(lambda w, x: [jnp.tanh(w @ x)], np.zeros((5, 7)), np.zeros(7))
        computation = kernels.computation(subject, Kernel("f", kind, (1,), (0,), width=3))
        jaxpr = jax.make_jaxpr(computation.call)((), *map(infer.struct, computation.arguments))
        products = [eqn.outvars[0].aval.shape for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
        assert (5,) in products
        assert len(products) == 2
