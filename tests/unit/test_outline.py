"""Types without most of the tracing: the same as by evaluating every node, and each sort of node evaluated once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jacloom as jl
from jacloom_graph import wire
from jacloom_worker import functions, raising
from jacloom_worker.infer import output_types
from jacloom_worker.outline import Outline
from jacloom_worker.protocol import Load
from jacloom_worker.raising import Program

pytestmark = pytest.mark.usefixtures("worker_jax")

X = np.linspace(0.1, 0.9, 3)


def chain(x: jax.Array) -> jax.Array:
    for number in range(50):
        x = jnp.sin(x) * x + number
    return x


@jax.jit
def long(x: jax.Array) -> jax.Array:
    return chain(x)[:2]


FUNCTIONS: dict[str, Callable[[jax.Array], Any]] = {
    "a chain": chain,
    "calls": lambda x: (long(x), long(x + 1), long(jnp.outer(x, x)[0])),
    "a scan whose body is long": lambda x: jax.lax.scan(lambda carry, each: (chain(carry) + each, carry.sum()), x, x),
    "branches of a constant index": lambda x: jax.lax.switch(1, [jnp.sin, lambda x: x.astype(jnp.float32).astype(x.dtype)], x),
    "branches": lambda x: jax.lax.cond(x[0] > 0, jnp.sin, jnp.cos, x),
    "a while loop": lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: chain(x) * 2, x),
    "rules": lambda x: (jax.nn.relu(x), jax.nn.relu(x[0]), jax.nn.logsumexp(x)),
    "other dtypes": lambda x: (x.astype(jnp.int8), x.astype(jnp.bfloat16) * 2, x > 0, jnp.argmax(x), x[:0]),
    "keys": lambda x: jax.random.split(jax.random.wrap_key_data(jnp.zeros(2, jnp.uint32) + x[0].astype(jnp.uint32))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_types_are_those_of_the_program(name: str) -> None:
    graph = jl.trace(FUNCTIONS[name], X).graph
    program, outline = Program(graph), Outline(graph)
    assert output_types(outline.apply, outline.inputs, outline.large) == output_types(program.apply, program.inputs, program.large)


def test_each_sort_of_node_is_evaluated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def counted(*args: Any) -> list[Any]:
        nonlocal count
        count += 1
        return bind(*args)

    bind = raising.bind
    monkeypatch.setattr(raising, "bind", counted)
    load = Load(wire.to_bytes(jl.trace(chain, X).graph))
    blueprint = functions.draft(load)
    assert blueprint.census.nodes == 150
    # A sine, a product, and for each number, which is a constant of its own, an addition.
    assert count == 52
    count = 0
    subject, _ = functions.load(Load(load.graph, outputs=blueprint.subject.outputs))
    assert (count, subject.outputs) == (0, blueprint.subject.outputs)
