"""A function that reads something else than before is another function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from jacloom._captured import captured
from jacloom._tracing import bind_callable

X = np.array([1.0, 2.0, 3.0])
scale: Any = 2.0


def by_global(x: Any) -> Any:
    return scale * x


def by_helper(x: Any) -> Any:
    return (lambda y: by_global(y) + 1)(x)


def set_scale(value: Any) -> None:
    globals()["scale"] = value


@pytest.mark.parametrize("f", [by_global, by_helper, partial(by_global), lambda x, g=by_global: g(x)], ids=["global", "helper", "partial", "default"])
def test_a_global_that_is_bound_anew(f: Callable[..., Any]) -> None:
    set_scale(2.0)
    first, _ = bind_callable(f, (X,), {})
    assert bind_callable(f, (X,), {})[0] is first
    set_scale(5.0)
    second, _ = bind_callable(f, (X,), {})
    assert second.signature.id != first.signature.id
    set_scale(2.0)
    assert bind_callable(f, (X,), {})[0] is first


def test_a_closure_that_is_bound_anew() -> None:
    weight = 1.0

    def f(x: Any) -> Any:
        return weight * x

    first = bind_callable(f, (X,), {})[0].signature.id
    weight = 3.0
    assert bind_callable(f, (X,), {})[0].signature.id != first


def test_small_arrays_count_by_their_elements_large_ones_by_identity() -> None:
    small, large = np.ones(3), np.ones(1000)
    before = captured(lambda x: x + small)
    small[0] = 2
    assert captured(lambda x: x + small) != before
    of_large = lambda x: x + large.sum()  # noqa: E731
    before = captured(of_large)
    assert captured(of_large) == before
    large = np.ones(1000)
    assert captured(of_large) != before


def test_entries_of_small_dicts_count_elements_of_lists_do_not() -> None:
    parameters: dict[str, Any] = {"w": 1.0, "shape": (1, 2), "calls": []}
    of = lambda x: parameters["w"] * x  # noqa: E731
    before = captured(of)
    assert captured(of) == before
    parameters["calls"].append(1)
    assert captured(of) == before
    parameters["shape"] = (1, 3)
    assert captured(of) != before
    parameters["self"] = parameters
    assert captured(of) == captured(of)


def test_equal_numbers_are_the_same_and_of_another_type_are_not() -> None:
    def of(value: Any) -> Any:
        return lambda x: x * value

    assert captured(of(1e300)) == captured(of(float("1e300")))
    assert captured(of(1)) != captured(of(1.0)) != captured(of(True))
    assert captured(of(0.0)) != captured(of(-0.0))


def test_an_attribute_of_a_callable_object() -> None:
    class Model:
        weight = 1.0

        def __call__(self, x: Any) -> Any:
            return self.weight * x

    model = Model()
    first = bind_callable(model, (X,), {})[0].signature.id
    model.weight = 9.0
    assert bind_callable(model, (X,), {})[0].signature.id != first


def test_functions_that_call_themselves_or_each_other_end() -> None:
    def even(n: Any) -> Any:
        return n == 0 or odd(n - 1)

    def odd(n: Any) -> Any:
        return n != 0 and even(n - 1)

    assert captured(even) == captured(even)


def test_callables_that_are_no_functions_read_nothing() -> None:
    assert captured(len) == ()
    assert captured(np.sin) == captured(np.sin)
