"""Functions that cannot become graphs: each is refused with the user's line and the way out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from jacloom._errors import TraceError
from jacloom._trace import trace
from jacloom_graph.errors import Fault, Reason

X = np.array([0.0, 0.5, -1.0, 2.0])


def _doubling(x: Any, out: Any) -> None:
    out[...] = 2 * x[...]


@pytest.mark.parametrize(
    ("fun", "reason"),
    [
        (lambda x: jax.pure_callback(np.sin, x, x), "calls back into this Python process"),
        (lambda x: jax.experimental.io_callback(np.sin, x, x), "calls back into this Python process; write it in jnp or jax.lax, or compute"),
        (lambda x: jax.ffi.ffi_call("an_op", x)(x), "compiled code of this machine; use the operation's version in jnp"),
        (lambda x: pallas.pallas_call(_doubling, out_shape=x)(x), "compiled code, which stays on this machine; use a version of it in jnp"),
    ],
    ids=["pure_callback", "io_callback", "ffi_call", "pallas_call"],
)
def test_what_is_not_data_is_refused_with_the_users_line(fun: object, reason: str) -> None:
    with pytest.raises(Fault, match=reason) as refusal:
        trace(fun, (X,))  # type: ignore[arg-type]
    assert refusal.value.reason is Reason.UNSUPPORTED_OP
    assert Path(__file__).name in refusal.value.message


@pytest.mark.parametrize("dtype", [jnp.int4, jnp.float8_e4m3fn], ids=["int4", "float8_e4m3fn"])
def test_narrow_dtypes_are_refused_with_the_users_line(dtype: Any) -> None:
    name = jnp.dtype(dtype).name
    with pytest.raises(Fault, match=f"convert_element_type at {__file__}:.*has values of dtype {name}, .*; convert them to a wider one"):
        trace(lambda x: x.astype(dtype).astype(x.dtype), (X,))
    narrow = jnp.arange(4).astype(dtype)
    with pytest.raises(Fault, match=f"closes over .*has values of dtype {name}"):
        trace(lambda x: x * narrow.astype(x.dtype), (X,))


def test_a_sum_over_an_axis_that_is_not_of_the_function_is_refused() -> None:
    with pytest.raises(Fault, match="tied to the devices of this process"):
        jax.vmap(lambda x: trace(lambda v: jax.lax.psum(v, "i"), (2.0,)) and x, axis_name="i")(X)


def test_a_branch_that_calls_back_for_a_value_is_no_error_check() -> None:
    def fun(x: jax.Array) -> Any:
        return jax.lax.cond(x[1] > 0, lambda: eqx.filter_pure_callback(np.sin, x, result_shape_dtypes=x), lambda: x)

    with pytest.raises(Fault, match="calls back into this Python process"):
        trace(fun, (X,))


def test_random_numbers_that_workers_would_draw_differently_are_refused() -> None:
    with jax.threefry_partitionable(False), pytest.raises(Fault, match="jax_threefry_partitionable"):
        trace(lambda x: x * jax.random.normal(jax.random.key(0), (4,)), (X,))


def test_a_function_that_cannot_be_traced_says_why() -> None:
    with pytest.raises(TraceError, match="Python branch or conversion depends on a traced value"):
        trace(lambda x: x if x[0] > 0 else -x, (X,))


@pytest.mark.parametrize("fun", [lambda x: np.sin(x), lambda x: math.sin(x[0])], ids=["numpy", "math"])
def test_functions_that_are_not_of_jax_are_named_as_the_mistake(fun: Any) -> None:
    with pytest.raises(TraceError, match="jnp"):
        trace(fun, (X,))


def test_a_list_is_no_vector() -> None:
    with pytest.raises(TraceError, match=r"pass np\.array"):
        trace(lambda x: x**2, ([1.0, 2.0],))
