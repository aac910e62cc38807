"""``client.diagnose`` and errors through a real service: the lines they name are lines of this file."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integration import graphs, service
from integration.service import request

import jacloom as jl
from jacloom._function import from_bytes
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph.types import Node

X = np.array([0.5, -1.0, 2.0])
PARAMS = {"w": np.linspace(-1.0, 1.0, 6).reshape(2, 3), "bias": np.zeros(2)}


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def line(f: Callable[..., Any], text: str) -> str:
    """Returns the place of the line of a function that has a text in it, as the SDK names it."""
    lines, first = inspect.getsourcelines(f)
    (at,) = [number for number, source in enumerate(lines) if text in source]
    return f"{__file__}:{first + at} ({f.__name__})"


def loss(params: dict[str, Any], x: jax.Array, rate: float = 1.0) -> jax.Array:
    hidden = params["w"] @ x
    scaled = hidden * rate
    return jnp.sum(
        jnp.log(scaled) ** 2,
    )


def trap(x: jax.Array) -> jax.Array:
    root = jnp.sqrt(x * 3)
    return jnp.sum(jnp.where(x > 0, root, 0.0))


def stepping(x: jax.Array, n: jax.Array) -> dict[str, Any]:
    def step(i: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.sqrt(y - 1.0)

    return {"y": jax.lax.fori_loop(0, n, step, x), "n": n}


def test_the_line_that_makes_a_nan(client: jl.Client) -> None:
    found = client.diagnose(loss, PARAMS, X, rate=2.0)
    assert found.value is not None
    assert (found.value.op, found.value.kind, found.value.count, found.value.size) == ("log", "nan", 1, 2)
    assert found.value.source == line(loss, "jnp.log")
    hidden = 2 * PARAMS["w"] @ X
    assert found.value.operands == ((pytest.approx(hidden.min()), pytest.approx(hidden.max())),)
    assert found.derivative == found.value
    assert not found.ok
    assert found.unused == ("args[0]['bias']",)
    assert dict(found.reverse) == {"args[0]['bias']": True, "args[0]['w']": False, "args[1]": False}
    assert dict(found.forward) == {"out": False}
    text = str(found).splitlines()
    assert text[0].startswith("value: NaN first in log, 1 of 2 entries, at ")
    assert f"test_diagnose.py:{line(loss, 'jnp.log').rpartition(':')[2]}; operand from -" in text[0]
    assert "derivative: not finite, for the same reason" in text
    assert "  reverse: not finite for args[0]['w'], args[1]" in text
    assert text[-1] == "nothing depends on: args[0]['bias']"


def test_all_is_well(client: jl.Client) -> None:
    found = client.diagnose(loss, {**PARAMS, "w": np.ones((2, 3))}, X, argnums=1)
    assert found.ok
    assert str(found).splitlines() == ["value: finite", "derivative: finite", "nothing depends on: args[0]['bias']"]
    assert dict(found.reverse) == {"args[1]": True}
    quiet = client.diagnose(lambda n: n + 1, np.arange(3))
    assert str(quiet) == "value: finite\nderivative: nothing to differentiate"


def test_the_trap_of_where_and_sqrt(client: jl.Client) -> None:
    found = client.diagnose(trap, np.array([1.0, 0.0, 4.0]))
    assert found.value is None
    assert found.derivative is not None
    assert (found.derivative.op, found.derivative.kind) == ("sqrt", "inf")
    assert found.derivative.source == line(trap, "jnp.sqrt")
    assert (dict(found.forward), dict(found.reverse)) == ({"out": True}, {"args[0]": False})
    assert str(found).splitlines()[2:] == ["  forward: finite", "  reverse: not finite for args[0]"]
    assert np.isnan(client.grad(trap)(np.array([1.0, 0.0, 4.0]))).any()


def checked(x: jax.Array) -> jax.Array:
    y = eqx.error_if(x * 2, jnp.any(x > 9), "x is too large")
    z = eqx.error_if(y * 3, jnp.any(x < 0), "x is negative")
    return jnp.sum(jnp.sqrt(z + 100))


@pytest.mark.parametrize(("x", "text"), [(np.array([1.0, 10.0, 2.0]), "x is too large"), (X, "x is negative")])
def test_an_error_check_that_fails(client: jl.Client, x: np.ndarray, text: str) -> None:
    """Both checks are the same functions of the graph: the calls that lead there tell which of them failed."""
    with pytest.warns(jl.JacloomWarning) as caught:
        found = client.diagnose(lambda x: checked(x), x)
    for said in ("x is too large", "x is negative"):
        assert any(
            f"an error check was replaced at {line(checked, said)}: where it would have raised ({said})" in str(each.message) for each in caught
        )
    assert found.value is not None
    assert (found.value.check, found.value.source, found.value.op, found.value.path) == (text, line(checked, text), "", "")
    assert str(found).splitlines()[0].startswith("value: NaN because an error check failed, ")
    assert str(found).splitlines()[0].endswith(f": {text}")
    assert "derivative: not finite, for the same reason" in str(found)


def holed(x: jax.Array) -> jax.Array:
    return x + jnp.array([1.0, np.nan, 2.0])


def test_a_constant_that_is_not_finite(client: jl.Client) -> None:
    found = client.diagnose(holed, X)
    assert found.value is not None
    assert (found.value.check, found.value.path, found.value.source) == (None, "a constant", line(holed, "np.nan"))
    assert "NaN already in a constant, 1 of 3 entries, used at " in str(found)


def test_a_loop_is_entered(client: jl.Client) -> None:
    found = client.diagnose(stepping, X + 2, np.int64(5))
    assert found.value is not None
    assert found.value.source == line(stepping, "jnp.sqrt").replace("stepping", "stepping.<locals>.step")
    assert (found.value.op, found.value.iterations) == ("sqrt", (1,))
    assert ", in iteration 1; operand from " in str(found)
    assert (dict(found.forward), dict(found.reverse)) == ({"out['y']": False}, {"args[0]": False})


@jax.custom_vjp
def clipped(x: jax.Array) -> jax.Array:
    return x * 1.0


clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (jnp.clip(g, -1, 1),))


def clipping(x: jax.Array) -> jax.Array:
    y = jnp.sin(x)
    return clipped(y) * 2


def test_a_mode_that_there_is_not(client: jl.Client) -> None:
    found = client.diagnose(clipping, X)
    assert (found.ok, dict(found.forward), dict(found.reverse)) == (True, {}, {"args[0]": True})
    (note,) = found.notes
    assert note.startswith("forward mode is not available: a function here has a reverse rule only (a custom_vjp)")
    assert line(clipping, "clipped(y)").rpartition("/")[2] in note
    assert str(found).splitlines() == ["value: finite", "derivative: finite", note]


def test_inputs_are_named_as_elsewhere(client: jl.Client) -> None:
    holed = {**PARAMS, "w": np.where(PARAMS["w"] > 0.5, np.nan, 1.0)}
    found = client.diagnose(loss, holed, X)
    assert found.value is not None
    assert (found.value.op, found.value.path, found.value.source) == ("", "args[0]['w']", None)
    assert str(found).startswith("value: NaN already in args[0]['w'], 2 of 6 entries\n")
    steps = client.diagnose(lambda x, y: jnp.floor(x) * y, X, X)
    assert (steps.constant, steps.ok) == (("args[0]",), True)
    with pytest.raises(jl.ArgumentError, match=r"argnums must be 0 or 1; got 2"):
        client.diagnose(loss, PARAMS, X, argnums=2)


def test_large_arguments_and_an_overflow(client: jl.Client) -> None:
    x = np.linspace(0.0, 1000.0, 300_000)
    found = client.diagnose(lambda x: jnp.exp(x) / jnp.exp(x).sum(), x)
    assert found.value is not None
    assert (found.value.op, found.value.kind) == ("div", "nan")
    assert found.value.cause is not None
    assert (found.value.cause.op, found.value.cause.kind, found.value.cause.size) == ("exp", "inf", 300_000)
    assert "; made of: Inf first in exp, " in str(found)


def test_saved_registered_and_by_id(client: jl.Client, tmp_path: Path) -> None:
    jl.trace(trap, X).save(tmp_path / "trap.jacloom")
    x = np.array([1.0, 0.0, 4.0])
    loaded = client.diagnose(jl.load(tmp_path / "trap.jacloom"), x).derivative
    assert loaded is not None
    assert (loaded.op, loaded.source) == ("sqrt", None)
    assert loaded.place is not None
    assert f"Inf first in sqrt, 1 of 3 entries, at function 0, node {loaded.place.node} (sqrt); operand from 0 to 12" in str(loaded)
    remote = client.register(trap, X)
    for f in (remote, remote.id):
        found = client.diagnose(f, x).derivative
        assert found is not None
        assert (found.op, found.place, found.source) == ("sqrt", loaded.place, line(trap, "jnp.sqrt"))


@jax.custom_jvp
def guarded(x: jax.Array, n: jax.Array) -> jax.Array:
    return jnp.log(x) * n


@guarded.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise NotImplementedError("guarded has no derivative")


def test_a_function_without_any_derivative(client: jl.Client) -> None:
    found = client.diagnose(guarded, X, X)
    assert found.value is not None
    assert (found.value.op, found.value.source) == ("log", line(guarded.fun, "jnp.log"))
    assert (found.derivative, len(found.notes)) == (None, 2)
    assert "derivative: not available" in str(found)
    assert "guarded has no derivative" in found.notes[0]


@jax.custom_jvp
def table(x: jax.Array, knots: jax.Array) -> jax.Array:
    return jnp.log(x) * knots


def _slope(primals: Any, tangents: Any) -> Any:
    if not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
        raise NotImplementedError("no derivative with respect to the knots")
    return table(*primals), tangents[0] / primals[0]


table.defjvp(_slope, symbolic_zeros=True)


def test_a_rule_that_refuses_what_is_not_asked_for(client: jl.Client) -> None:
    assert client.diagnose(table, np.abs(X), X).forward == {}
    found = client.diagnose(table, np.abs(X), X, argnums=0)
    assert (dict(found.forward), dict(found.reverse), found.notes) == ({"out": True}, {"args[0]": True}, ())
    steep = client.diagnose(table, np.zeros(3), np.zeros(3), argnums=0)
    assert steep.value is not None
    assert (steep.value.op, steep.value.cause and steep.value.cause.op) == ("mul", "log")


def outer(x: jax.Array) -> jax.Array:
    first = x * 2
    return first @ jnp.ones((4, 2))


def vast(x: jax.Array) -> jax.Array:
    large = jnp.broadcast_to(x.sum(), (1 << 20, 1 << 20))
    return large.sum()


def called(x: jax.Array) -> jax.Array:
    y = x + 1
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), np.float64), y)


def around(x: jax.Array) -> jax.Array:
    y = x * 2
    return guarded(y, x) * 3


@jax.custom_vjp
def cubed(x: jax.Array) -> jax.Array:
    return x**3


def _ahead(x: jax.Array) -> Any:
    return cubed(x), x


cubed.defvjp(_ahead, lambda x, g: (3 * x**2 * g,))


def squared(x: jax.Array) -> jax.Array:
    return jnp.sum(cubed(x) ** 2)


def summed(x: jax.Array) -> jax.Array:
    return jnp.sum(cubed(x) * 2)


def test_a_hessian_through_a_reverse_rule_works_or_says_what_does(client: jl.Client) -> None:
    np.testing.assert_allclose(client.hessian(summed)(X), np.diag(12 * X))
    np.testing.assert_allclose(client.hvp(summed, (X,), (X,)), 12 * X**2)
    assert client.explain(summed, X, derivative="hessian").passes == 3
    for refused in (
        lambda: client.hessian(squared)(X),
        lambda: client.hvp(squared, (X,), (X,)),
        lambda: client.explain(squared, X, derivative="hessian"),
    ):
        with pytest.raises(jl.ModeUnavailableError, match=r"client\.jacobian\(jax\.grad\(f\), mode='reverse'\)") as caught:
            refused()
        assert line(_ahead, "cubed(x)") in str(caught.value)
    np.testing.assert_allclose(client.jacobian(jax.grad(squared), mode="reverse")(X), np.diag(30 * X**4))


@eqx.filter_custom_vjp
def doubled(x: jax.Array) -> jax.Array:
    return x * 2


doubled.def_fwd(lambda perturbed, x: (x * 2, None))
doubled.def_bwd(lambda residuals, g, perturbed, x: g * 2)


def packaged(x: jax.Array) -> jax.Array:
    y = x + 1
    return eqx.filter_jit(doubled)(y)


def test_a_refusal_within_a_package_names_the_line_that_calls_it(client: jl.Client) -> None:
    with pytest.raises(jl.ModeUnavailableError, match=r"reverse rule only .*; use reverse mode, or a variant of the function") as caught:
        client.jvp(packaged, (X,), (X,))
    assert str(caught.value).endswith(f" (at {line(packaged, 'filter_jit')})")


@pytest.mark.parametrize(
    ("call", "kind", "f", "text"),
    [
        (lambda client: client.jacobian(outer)(X), jl.TraceError, outer, "first @"),
        (lambda client: client.grad(vast)(X), jl.TooLargeError, vast, "broadcast_to"),
        (lambda client: client.register(vast, X), jl.TooLargeError, vast, "broadcast_to"),
        (lambda client: client.diagnose(vast, X), jl.TooLargeError, vast, "broadcast_to"),
        (lambda client: client.evaluate(called)(X), jl.UnsupportedOpError, called, "pure_callback"),
        (lambda client: client.jacobian(around)(X), jl.ModeUnavailableError, around, "guarded("),
    ],
    ids=["shapes", "size", "registering", "diagnosing", "callback", "refused"],
)
def test_errors_name_the_line(client: jl.Client, call: Any, kind: type[Exception], f: Any, text: str) -> None:
    with pytest.raises(kind) as caught:
        call(client)
    assert str(caught.value).endswith(f" (at {line(f, text)})") or line(f, text) in str(caught.value).splitlines()[0]


def test_lines_of_this_package_are_nobodys_own(client: jl.Client) -> None:
    with pytest.raises(jl.ModeUnavailableError) as caught:
        client.jacobian(guarded)(X, X)
    assert "entry.py" not in str(caught.value)
    # The function is called nowhere but there: what is left is where it begins.
    assert re.search(r"\(at .*test_diagnose\.py:\d+ \(guarded\)\)$", str(caught.value))


def test_a_graph_edited_by_hand_names_the_node(client: jl.Client) -> None:
    edited = replace(graphs.sine(3).entry, nodes=(Node("sin", (0,)), Node("reshape", (1,), {"new_sizes": (4, 1)})), outputs=(2,))
    with pytest.raises(
        jl.GraphError, match=r"new_sizes \(4, 1\) has 4 elements, and the operand of shape \(3,\) 3 \(function 0, node 1 \(reshape\)\)"
    ):
        client.register(from_bytes(graphs.serialized(replace(graphs.sine(3), functions=(edited,)))))


def test_it_can_be_given_up(client: jl.Client) -> None:
    def slow(x: jax.Array) -> jax.Array:
        return jnp.log(jax.lax.fori_loop(0, 3_000_000, lambda _, y: jnp.sin(y) + x, x) - 1e9)

    started = time.monotonic()
    with pytest.raises(jl.DeadlineExceeded):
        client.diagnose(slow, np.ones(64), timeout=2.0)
    assert time.monotonic() - started < 6
    assert client.diagnose(trap, np.ones(3), timeout=60).ok


def test_on_the_wire(client: jl.Client, tmp_path: Path) -> None:
    with service.process(tmp_path / "log", "--workers", "1") as running, service.client(running) as stubs:
        stubs.wait_until_serving()
        name = stubs.register(graphs.mixed())
        args = [np.array([1.0, np.inf, 0.0]), np.array(2.0), np.array([1, 2], np.int32)]
        reply = stubs.derivatives.Diagnose(request(name, args, wrt=[0, 1]), timeout=service.TIMEOUT)
        assert (reply.value.kind, reply.value.WhichOneof("origin")) == (pb.NonFinite.INFINITE, "input")
        assert (reply.value.count, reply.value.size, reply.value.input) == (1, 3, 0)
        assert reply.reverse.state == pb.Verdict.NOT_FINITE
        plain = stubs.derivatives.Diagnose(request(name, [np.ones(3), *args[1:]], wrt=[]), timeout=service.TIMEOUT)
        assert (plain.HasField("value"), plain.forward.state) == (False, pb.Verdict.STATE_UNSPECIFIED)
        for wrong, field in [({"seeds": [np.ones(3)]}, "seeds"), ({"tile": 3}, "options.tile"), ({"outputs": [2]}, "outputs[0]")]:
            with pytest.raises(service.grpc.RpcError) as caught:
                stubs.derivatives.Diagnose(request(name, args, **wrong), timeout=service.TIMEOUT)
            assert service.failure(caught.value).fields == [field]
