"""What a real service says of a function's derivatives, against what happens when they are asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from unit.one_way import backward_only, forward_only, untouchable

import jacloom as jl
from jacloom._deadline import Deadline

X = np.array([0.5, -1.0, 2.0])
GRID = np.linspace(0.25, 3.0, 6).reshape(2, 3)


@pytest.fixture(scope="module")
def client() -> Iterator[jl.Client]:
    with jl.connect() as client:
        yield client


def model(both: Any, reverse: Any, forward: Any, neither: Any, n: Any) -> Any:
    a = both.sum(axis=0) * n.sum()
    b = backward_only(reverse)
    c = forward_only(forward)
    d = untouchable(neither)
    return {"y": a + b + c + d, "n": n}


ARGS = (GRID, X, X + 1, X + 2, np.arange(4))


def test_what_is_said_is_what_happens(client: jl.Client) -> None:
    function = client.register(model, *ARGS)
    found = function.derivatives()
    assert [(leaf.forward.word, leaf.reverse.word) for leaf in found.inputs] == [
        ("yes", "yes"),
        ("no", "yes"),
        ("yes", "no"),
        ("no", "no"),
        ("no", "no"),
    ]
    assert (found.outputs, found.without) == (("out['y']",), ("out['n']",))
    for leaf, mode, f, offset in [(1, "forward", model, 2), (2, "reverse", forward_only, 2), (3, "forward", model, 4), (3, "reverse", model, 4)]:
        refused = getattr(found.inputs[leaf], mode)
        assert refused.source is not None
        assert f"{f.__code__.co_filename}:{f.__code__.co_firstlineno + offset} ({f.__name__})" in refused.source
    assert "transpose_solve" in found.inputs[2].reverse.reason
    y = lambda *args: model(*args)["y"]  # noqa: E731
    for leaf in range(4):
        for mode in ("forward", "reverse"):
            derivative = client.jacobian(y, leaf, mode=mode)  # type: ignore[arg-type]
            if getattr(found.inputs[leaf], mode).available:
                assert derivative(*ARGS).shape == (3, *ARGS[leaf].shape)
            else:
                with pytest.raises(jl.ModeUnavailableError, match=r"(test_derivatives|one_way)\.py:\d+"):
                    derivative(*ARGS)


def test_a_rule_that_refuses_one_of_its_inputs(client: jl.Client) -> None:
    @jax.custom_jvp
    def table(x: jax.Array, knots: jax.Array) -> jax.Array:
        return jnp.interp(x, jnp.arange(3.0), knots)

    def rule(primals: Any, tangents: Any) -> Any:
        if not isinstance(tangents[1], jax.custom_derivatives.SymbolicZero):
            raise NotImplementedError("no derivative with respect to the knots")
        return table(*primals), 10.0 * tangents[0]

    table.defjvp(rule, symbolic_zeros=True)
    found = client.register(table, GRID, X).derivatives()
    assert [(leaf.forward.word, leaf.reverse.word) for leaf in found.inputs] == [("yes", "yes"), ("no", "no")]
    assert "no derivative with respect to the knots" in found["args[1]"].forward.reason


def test_the_command_line(client: jl.Client) -> None:
    function = client.register(model, *ARGS, name="model")
    endpoint = client._session.connection.service.endpoint(Deadline(60))
    command = [sys.executable, "-m", "jacloom", "functions", "show", function.id, "--address", endpoint.address, "--token", endpoint.token or ""]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    rows = [line.split() for line in shown.splitlines()]
    assert ["args[0]", "float64[2,3]", "yes", "yes"] in rows
    assert ["args[2]", "float64[3]", "yes", "no", "[2]"] in rows
    document = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, check=True).stdout)
    inputs = document["derivatives"]["inputs"]
    assert [(leaf["path"], leaf["forward"]["available"], leaf["reverse"]["available"]) for leaf in inputs] == [
        ("args[0]", True, True),
        ("args[1]", False, True),
        ("args[2]", True, False),
        ("args[3]", False, False),
        ("args[4]", False, False),
    ]
    assert inputs[4]["forward"]["reason"] == "no derivative: int64"
    assert "function 0, node" in inputs[1]["forward"]["reason"]
