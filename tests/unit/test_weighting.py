"""Second derivatives of a weighted sum of outputs, in the engine: against JAX, dense and by colours, in every form of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.handmade import LAYER, REVERSE_ONLY, REVERSE_TWICE, arrays, fault, task
from unit.handmade import X as POINT

from jacloom_graph.errors import Reason
from jacloom_graph.types import Type
from jacloom_worker import compiling, kernels, structuring, weighting
from jacloom_worker.engine import Engine
from jacloom_worker.infer import output_types
from jacloom_worker.kernels import Subject
from jacloom_worker.protocol import Kernel, Kind, Prices, Structure

pytestmark = pytest.mark.usefixtures("worker_jax")

X = np.array([0.5, -1.0, 2.0])
W, S = np.array([[0.3, -2.0], [1.5, 0.25]]), np.array(-3.0)


def two(x: jax.Array) -> list[jax.Array]:
    """Returns a matrix and a number, which curve in different ways."""
    return [jnp.stack([x[0] ** 2 * x[1], jnp.sin(x[2]), x[0] * x[1] * x[2], x[2]]).reshape(2, 2), jnp.exp(x[0]) * x[2]]


def subject(f: Callable[..., list[Any]], *inputs: Type) -> Subject:
    apply = lambda _, leaves: f(*leaves)  # noqa: E731
    return Subject(apply, inputs, output_types(apply, inputs))


def computed(subject: Subject, kernel: Kernel, *arguments: Any) -> list[np.ndarray]:
    program = compiling.compile(kernels.computation(*weighting.weighted(subject, kernel)))
    return [np.asarray(result) for result in program(arguments)]


def lagrangian(x: jax.Array) -> jax.Array:
    matrix, number = two(x)
    return jnp.sum(matrix * W) + number * S


@pytest.mark.parametrize("inner", ["reverse", "forward"])
def test_hessian_and_product_equal_jax(inner: Any) -> None:
    f, expected = subject(two, Type("float64", (3,))), jax.hessian(lagrangian)(X)
    tile = Kernel("f", Kind.HESSIAN, (0,), (0, 1), width=3, inner=inner, weighted=True)
    (columns,) = computed(f, tile, X, W, S, np.int64(0))
    np.testing.assert_allclose(columns, expected, rtol=1e-13)
    product = Kernel("f", Kind.HVP, (0,), (0, 1), values=(1,), inner=inner, weighted=True)
    along, value = computed(f, product, X, W, S, X + 1)
    np.testing.assert_allclose(along, expected @ (X + 1), rtol=1e-13)
    np.testing.assert_allclose(value, two(X)[1])


def test_a_batch_of_products() -> None:
    f = subject(two, Type("float64", (3,)))
    (along,) = computed(f, Kernel("f", Kind.HVP, (0,), (0, 1), width=4, weighted=True), X, W, S, np.eye(4, 3))
    np.testing.assert_allclose(along, np.eye(4, 3) @ jax.hessian(lagrangian)(X), rtol=1e-13)


def test_dtypes_that_differ_are_promoted() -> None:
    f = subject(lambda x: [(x**3).astype("float32"), x[:1] ** 2], Type("float64", (3,)))
    made, kernel = weighting.weighted(f, Kernel("f", Kind.HESSIAN, (0,), (0, 1), width=3, weighted=True))
    assert (made.outputs[2], kernel.outputs) == (Type("float64"), (2,))
    narrow = subject(lambda x: [x**2], Type("bfloat16", (3,)))
    assert weighting.weighted(narrow, Kernel("f", Kind.HVP, (0,), (0,), weighted=True))[0].outputs[1] == Type("bfloat16")


def test_a_function_in_its_reverse_form_is_summed_too() -> None:
    f = subject(two, Type("float64", (3,)))
    both = replace(f, apply=lambda *_: pytest.fail("forward form"), reversible=f.apply)
    (along,) = computed(both, Kernel("f", Kind.HVP, (0,), (0, 1), weighted=True), X, W, S, X)
    np.testing.assert_allclose(along, jax.hessian(lagrangian)(X) @ X, rtol=1e-13)


def test_the_pattern_is_that_of_the_sum() -> None:
    f = subject(lambda x: [x[:-1] ** 2 * x[1:], x[0] * x[5]], Type("float64", (6,)))
    found = structuring.structure(*weighting.weighted(f, Kernel("f", Kind.HESSIAN, (0,), (0, 1), width=1, weighted=True)), Prices(1.0, None))
    assert isinstance(found, Structure)
    assert (found.shape, len(found.indices), found.strategy) == ((6, 6), 5 + 2 * 5 + 2, "star-coloured")


class TestEngine:
    def test_weights_come_after_the_inputs(self) -> None:
        weights = np.array([1.0, -2.0, 0.5])
        answer = Engine().run(task(LAYER, Kind.HVP, weighted=True), POINT, weights, np.ones(4))
        blocks = Engine().run(task(LAYER, Kind.HESSIAN, count=4, width=4), POINT)
        expected = np.tensordot(weights, arrays(blocks)[0].reshape(3, 4, 4), 1) @ np.ones(4)
        np.testing.assert_allclose(arrays(answer)[0], expected, rtol=1e-12)

    def test_missing_weights_are_told_of(self) -> None:
        assert fault(Engine().run(task(LAYER, Kind.HVP, weighted=True), POINT, np.ones(4))).reason is Reason.ARGUMENT_MISMATCH

    def test_rules_in_reverse_only(self) -> None:
        # The rule says that the derivative at x is x, so that the second one is 1.
        (found,) = arrays(Engine().run(task(REVERSE_ONLY, Kind.HVP, weighted=True), *map(np.asarray, (2.0, 5.0, 1.0))))
        assert found == 5.0
        refused = fault(Engine().run(task(REVERSE_TWICE, Kind.HVP, weighted=True), *map(np.asarray, (2.0, 5.0, 1.0))))
        assert refused.reason is Reason.MODE_UNAVAILABLE
        assert "in reverse twice there is one" in refused.message
