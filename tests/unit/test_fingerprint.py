"""Hashes of jaxprs: equal for what is the same, and different for all else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive

from jacloom._trace.fingerprint import ParameterNumbers, fingerprint

X = np.ones(30)


VALUES: ParameterNumbers = {}


def of(fun: Callable[[Any], Any], x: Any = X) -> str:
    return fingerprint(jax.make_jaxpr(fun)(x), VALUES)


def bound(value: Any) -> Callable[[Any], Any]:
    """Returns a function of a primitive with a parameter."""
    primitive = Primitive("parametrized")
    primitive.def_abstract_eval(lambda x, value: x)
    return lambda x: primitive.bind(x, value=value)


def test_equal_programs_have_equal_hashes() -> None:
    assert of(lambda x: jnp.sin(x) * 2) == of(lambda y: jnp.sin(y) * 2)
    assert of(lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x)) == of(lambda x: lax.cond(x[0] > 0, jnp.sin, jnp.cos, x))
    assert of(bound(Abbreviated(1))) == of(bound(Abbreviated(1)))


@dataclass(frozen=True)
class Abbreviated:
    """A value that its text does not tell from others."""

    number: int

    def __repr__(self) -> str:
        return "..."


@jax.tree_util.register_static
@dataclass(frozen=True)
class Leafless:
    """A pytree that is all static, which is in no hash of its structure."""

    value: Abbreviated


def inverse(x: Any) -> Any:
    return -x


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (jnp.sin, jnp.cos),
        (lambda x: x[:2], lambda x: x[1:3]),
        (lambda x: lax.pad(x, 0.0, [(1, 12, 0)])[:30], lambda x: lax.pad(x, 0.0, [(11, 2, 0)])[:30]),
        (lambda x: x * np.arange(30.0), lambda x: x * np.arange(1.0, 31.0)),
        (
            lambda x: lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=2)[0],
            lambda x: lax.scan(lambda c, _: (jnp.cos(c), None), x, None, length=2)[0],
        ),
        (bound((1, 12)), bound((11, 2))),
        (bound(((1,), 2)), bound((1, (2,)))),
        (bound(Abbreviated(1)), bound(Abbreviated(2))),
        (bound((Abbreviated(1),)), bound((Abbreviated(2),))),
        (bound(Abbreviated(-1)), bound(Abbreviated(-2))),  # of one hash in CPython
        (bound(jax.tree.structure(Leafless(Abbreviated(1)))), bound(jax.tree.structure(Leafless(Abbreviated(2))))),
        (bound(abs), bound(inverse)),
        (bound(1), bound(True)),
        (bound("1"), bound(1)),
    ],
)
def test_different_programs_have_different_hashes(one: Callable[[Any], Any], other: Callable[[Any], Any]) -> None:
    assert of(one) != of(other)


def test_types_count() -> None:
    assert of(jnp.sin, np.ones(3)) != of(jnp.sin, np.ones(4))
    assert of(jnp.sin, np.ones(3, np.float32)) != of(jnp.sin, np.ones(3, np.int32))
