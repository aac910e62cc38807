"""What a trace says of a function besides what it computes: its id, its constants, lines of the user's, and notes of what was left out."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance.roundtrip import through_bytes

from jacloom._trace import trace
from jacloom_graph import identity
from jacloom_graph.errors import Place

X = np.array([0.0, 0.5, -1.0, 2.0])
MATRIX = np.random.default_rng(0).normal(size=(3, 4))


def test_ids_do_not_depend_on_the_trace() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return jax.nn.softplus(jnp.sinc(x)) @ x

    first = trace(fun, (X,)).id
    jax.clear_caches()
    assert trace(lambda renamed: fun(renamed), (X,)).id == first
    assert trace(lambda x: fun(x) + 1, (X,)).id != first


def test_sub_functions_are_shared_by_content() -> None:
    traced = trace(lambda x: sum(jax.nn.relu(x * k) for k in range(7)), (X,))
    assert len(traced.graph.rules) == 1
    assert len(traced.graph.functions) <= 5


def test_constants_are_what_they_were_when_traced() -> None:
    weights = np.arange(4.0)
    traced = trace(lambda x: x * weights, (X,))
    weights[:] = 7
    np.testing.assert_array_equal(traced.graph.constants[0].data, np.arange(4.0))
    assert identity.graph_id(traced.graph) == traced.id


def test_a_view_of_an_array_that_changes_is_copied() -> None:
    array = np.zeros((20, 10))
    view = array.view()
    view.flags.writeable = False
    traced = trace(lambda x: x + jnp.sum(jnp.cos(view)), (X,))
    array[:] = 7
    assert identity.graph_id(traced.graph) == traced.id
    assert not traced.graph.constants[0].data.any()  # type: ignore[union-attr]


def test_where_an_array_lives_is_dropped() -> None:
    def fun(x: jax.Array) -> jax.Array:
        jax.debug.inspect_array_sharding(x, callback=print)
        return jax.sharding.reshard(jnp.sin(x), jax.sharding.PartitionSpec("i")) * x

    with jax.set_mesh(jax.make_mesh((1,), ("i",))):
        program, _ = through_bytes(fun, (X,))
    with jax.enable_x64(True):
        np.testing.assert_allclose(jax.jacrev(lambda x: program(x)[0])(X), np.diag(np.sin(X) + X * np.cos(X)), rtol=1e-12, atol=1e-12)


def test_a_node_within_a_function_of_jaxs_has_the_lines_that_call_it() -> None:
    def fun(x: jax.Array) -> jax.Array:
        first = jnp.std(x)
        return first * jnp.std(2 * x)

    traced = trace(fun, (X,))
    places = [
        Place(number, index, node.op)
        for number, function in enumerate(traced.graph.functions)
        for index, node in enumerate(function.nodes)
        if node.op == "sqrt"
    ]
    (place,) = places  # shared by content
    assert place.function != 0
    line = fun.__code__.co_firstlineno
    found = traced.lines.line(place)
    assert found is not None
    assert [part.split(":")[-1].split(" ")[0] for part in found.split(" or ")] == [str(line + 1), str(line + 2)]


def test_the_calls_that_lead_to_a_node_tell_its_line() -> None:
    def fun(x: jax.Array) -> jax.Array:
        first = jnp.std(x)
        return first * jnp.std(2 * x)

    traced = trace(fun, (X,))
    calls = [Place(0, index, node.op) for index, node in enumerate(traced.graph.entry.nodes) if node.op == "call"]
    (place,) = {
        Place(number, index, node.op)
        for number, function in enumerate(traced.graph.functions)
        for index, node in enumerate(function.nodes)
        if node.op == "sqrt"
    }
    line = fun.__code__.co_firstlineno
    assert [str(traced.lines.line(place, [call])).split(":")[-1].split(" ")[0] for call in calls] == [str(line + 1), str(line + 2)]
    assert " or " in str(traced.lines.line(place, [Place(7, 0, "call")]))  # no way from the entry: what is known without one


def test_lines_of_installed_packages_give_way_to_those_that_call_them() -> None:
    def fun(x: jax.Array) -> jax.Array:
        return eqx.filter_jit(lambda x: x[::-1])(x) + jnp.sum(optax.huber_loss(x, 2 * x))

    traced = trace(fun, (X,))
    lines = {
        str(traced.lines.line(Place(number, index, node.op)))
        for number, function in enumerate(traced.graph.functions)
        for index, node in enumerate(function.nodes)
    }
    assert all(Path(__file__).name in line for line in lines)


def test_source_lines_stay_with_the_client() -> None:
    traced = trace(lambda x: jnp.sin(x) * 2, (X,))
    assert Path(__file__).name in str(traced.lines.line(Place(0, 0, "sin")))
    assert traced.lines.line(Place(9, 9)) is None


def test_printing_is_dropped_with_a_note() -> None:
    def fun(x: jax.Array) -> jax.Array:
        jax.debug.print("x = {}", x)
        return x * 2

    assert "dropped" in trace(fun, (X,)).notes[0]


@pytest.mark.parametrize("policy", ["nothing_saveable", "everything_saveable", "dots_saveable", "dots_with_no_batch_dims_saveable"])
def test_named_policies_of_checkpoints_are_kept(policy: str) -> None:
    traced = trace(jax.checkpoint(lambda x: jnp.sin(MATRIX @ x), policy=getattr(jax.checkpoint_policies, policy)), (X,))
    assert [node.attrs.get("policy") for node in traced.graph.entry.nodes] == [policy]
    assert traced.notes == ()


def test_other_policies_of_checkpoints_are_dropped_with_a_note() -> None:
    policy = jax.checkpoint_policies.save_only_these_names("a")
    assert "dropped" in trace(jax.checkpoint(jnp.sin, policy=policy), (X,)).notes[0]
