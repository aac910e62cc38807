"""What a registered function says of its derivatives: when the service is asked, what is told, and in whose words."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.scripted import Script

import jacloom as jl
from jacloom_api.v1 import derivative_service_pb2 as derivative_pb
from jacloom_api.v1 import function_service_pb2 as pb

X = np.arange(6.0).reshape(2, 3)
YES = pb.Availability(state=pb.Availability.AVAILABLE)
INTEGER = pb.Availability(state=pb.Availability.UNAVAILABLE, reason="no derivative: int64")
OPEN = pb.Availability(state=pb.Availability.UNDECIDED, reason="64 traces were made")


def refused(node: int, op: str) -> pb.Availability:
    place = derivative_pb.NodePlace(function=0, node=node, op=op)
    return pb.Availability(state=pb.Availability.UNAVAILABLE, reason="no JVP here", place=place)


def told(*leaves: tuple[pb.Availability, pb.Availability], outputs: tuple[int, ...] = (0,)) -> pb.DescribeDerivativesReply:
    return pb.DescribeDerivativesReply(inputs=[pb.LeafDerivatives(forward=a, reverse=b) for a, b in leaves], outputs=outputs, traces=2)


def layer(params: dict[str, Any], n: jax.Array) -> dict[str, Any]:
    y = jnp.tanh(params["w"]) * params["b"]
    return {"n": n, "y": y}


PARAMS = {"b": np.float64(0.5), "w": X}
TOLD = told((refused(1, "mul"), YES), (refused(0, "tanh"), YES), (INTEGER, INTEGER), outputs=(1,))


def test_nothing_is_asked_before_it_is_read_and_then_once(client: jl.Client, script: Script) -> None:
    script.derivatives = TOLD
    function = client.register(layer, PARAMS, np.arange(4))
    print(str(function), repr(function), hash(function), function == client.functions()[0])
    assert script.calls == ["Register"]
    found = function.derivatives()
    assert script.calls == ["Register", "DescribeDerivatives"]
    assert function.derivatives() is found
    assert client.function(function.id).derivatives() == found
    assert script.calls == ["Register", "DescribeDerivatives"]


def test_asking_takes_no_longer_than_its_timeout(client: jl.Client, script: Script) -> None:
    script.derivatives, script.pause = TOLD, 1.0
    function = client.register(layer, PARAMS, np.arange(4))
    with pytest.raises(jl.DeadlineExceeded, match=r"within 0\.2 s"):
        function.derivatives(timeout=0.2)
    script.pause = 0.0
    assert function.derivatives(timeout=60).outputs == ("out['y']",)
    with pytest.raises(jl.OptionError, match="timeout must be a finite positive number"):
        function.derivatives(timeout=-1)


def test_leaves_are_named_by_their_paths_and_refusals_by_the_line(client: jl.Client, script: Script) -> None:
    script.derivatives = TOLD
    found = client.register(layer, PARAMS, np.arange(4)).derivatives()
    assert list(found) == ["args[0]['b']", "args[0]['w']", "args[1]"]
    weights = found["args[0]['w']"]
    assert (weights.type, weights.forward.available, weights.reverse.available) == (jl.trace(layer, PARAMS, np.arange(4)).inputs[1], False, True)
    assert weights.forward.source is not None
    assert weights.forward.source.endswith(f"test_derivatives.py:{layer.__code__.co_firstlineno + 1} (layer)")
    assert (found.outputs, found.without) == (("out['y']",), ("out['n']",))
    with pytest.raises(KeyError):
        found["args[2]"]


def test_the_table(client: jl.Client, script: Script) -> None:
    script.derivatives = TOLD
    line = layer.__code__.co_firstlineno + 1
    shown = str(client.register(layer, PARAMS, np.arange(4)).derivatives()).splitlines()
    assert shown[:4] == [
        "leaf          type          forward  reverse",
        "args[0]['b']  float64[]     no [1]   yes",
        "args[0]['w']  float64[2,3]  no [1]   yes",
        "args[1]       int64[4]      no [2]   no [2]",
    ]
    assert shown[4].startswith("[1] no JVP here (at ")
    assert shown[4].endswith(f"test_derivatives.py:{line} (layer))")
    assert shown[5:] == ["[2] no derivative: int64", "outputs without derivatives: out['n']"]


def test_fixed_arguments_have_no_row_and_keywords_have_their_names(client: jl.Client, script: Script) -> None:
    script.derivatives = told((YES, OPEN), (YES, YES))
    function = client.register(lambda x, power, *, scale: x**power * scale, X, 3, scale=2.0)
    found = function.derivatives()
    assert list(found) == ["args[0]", "kwargs['scale']"]
    assert found["args[0]"].reverse == jl.ModeSupport(None, "64 traces were made")
    assert str(found["args[0]"].reverse) == "?: 64 traces were made"


def test_only_the_graph_is_known_of_a_function_from_elsewhere(client: jl.Client, script: Script) -> None:
    script.derivatives = told((refused(3, "sort"), YES))
    function = jl.trace(lambda x: x * 2, X)
    client.register(function)
    with jl.connect(client._session.connection.service.endpoint(None).address) as other:  # type: ignore[arg-type]
        forward = other.function(function.id).derivatives()["args[0]"].forward
    assert (forward.source, str(forward)) == (None, "no: no JVP here (at function 0, node 3 (sort))")


def test_a_function_that_the_service_has_lost_is_sent_again(client: jl.Client, script: Script) -> None:
    script.derivatives = told((YES, YES))
    function = client.register(lambda x: x * 3, X)
    script.registered.clear()
    assert function.derivatives()["args[0]"].forward.available
    assert script.calls == ["Register", "DescribeDerivatives", "Register", "DescribeDerivatives"]
    lost = client.function(client.register(lambda x: x * 4, X).id)
    script.registered.clear()
    with pytest.raises(jl.FunctionNotFoundError, match="register the function again"):
        lost.derivatives()


def test_pickling_leaves_the_client_behind(client: jl.Client, script: Script) -> None:
    script.derivatives = told((YES, YES))
    function = client.register(lambda x: x * 5, X)
    again = pickle.loads(pickle.dumps(function))
    assert (again.id, again.inputs, again.name) == (function.id, function.inputs, function.name)
    with pytest.raises(jl.ClientStateError, match=r"client\.function\(id\)"):
        again.derivatives()
    known = function.derivatives()
    assert pickle.loads(pickle.dumps(function)).derivatives() == known
    assert script.calls.count("DescribeDerivatives") == 1


def test_a_reply_about_something_else_is_not_believed(client: jl.Client, script: Script) -> None:
    for at, wrong in enumerate([told(), told((YES, YES), outputs=(1,))]):
        script.derivatives = wrong
        function = client.register(lambda x, at=at: x * (6 + at), X)
        with pytest.raises(jl.ProtocolError, match="the same version"):
            function.derivatives()


def test_a_rule_that_refuses_is_asked_for_each_leaf_by_itself(client: jl.Client, script: Script) -> None:
    @jax.custom_jvp
    def table(x: jax.Array, knots: jax.Array) -> jax.Array:
        return x * knots

    def rule(primals: Any, tangents: Any) -> Any:
        if not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
            raise NotImplementedError("the knots are fixed")
        return table(*primals), tangents[0] * primals[1]

    table.defjvp(rule, symbolic_zeros=True)
    script.derivatives = told((refused(0, "custom_call"),) * 2, (refused(0, "custom_call"),) * 2)
    function = client.register(table, X, X)
    function.derivatives()
    # Traced for either leaf alone, its rule is recorded for another set of inputs, so it is another function.
    assert script.calls == ["Register", "DescribeDerivatives"] * 3
    assert len(script.registered) == 3


def test_of_many_refused_leaves_some_stay_in_doubt(client: jl.Client, script: Script) -> None:
    script.derivatives = told(*[(refused(0, "sin"),) * 2] * 9)
    found = client.register(lambda leaves: sum(map(jnp.sin, leaves)), [X] * 9).derivatives()
    said = [str(leaf.forward).partition(" (at ")[0] for leaf in found.values()]
    assert said == ["no: no JVP here"] * 8 + ["?: refused together with other leaves: no JVP here"]
    assert script.calls == ["Register", "DescribeDerivatives"]
