"""A function whose passes cost something else than its program says, with real workers: what they measure decides."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from integration import graphs

import jacloom as jl
from jacloom_graph.answer import Derivative
from jacloom_graph.types import Type
from jacloom_server import run, tuning
from jacloom_server.call import Argument, Call, Sparsity
from jacloom_server.plan import Plan
from jacloom_server.planning import Service

N = 60


def solved(x: jax.Array) -> jax.Array:
    """A linear system that is solved by thousands of steps, and its adjoint by forty: how many the first takes, its program does not say."""
    scale = jnp.linspace(1.0, 2.0, N)

    def thousands(_: object, b: jax.Array) -> jax.Array:
        going = lambda state: state[1] < 30_000  # noqa: E731
        return jax.lax.while_loop(going, lambda state: (state[0] + 0.6 * (b - scale * state[0]), state[1] + 1), (b, 0))[0]

    def forty(_: object, b: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 40, lambda _, y: y + 0.6 * (b - scale * y), b)

    solution = jax.lax.custom_linear_solve(lambda y: scale * y, jnp.sin(x), thousands, forty)
    return solution[1:] * solution[:-1]


async def test_what_passes_took_overrules_their_estimate(one_worker: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "_WORTH_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "_WORTH_COMPILES", 0.01)
    x = np.linspace(0.1, 1, N)
    function = await one_worker.functions.register(graphs.serialized(jl.trace(solved, x).graph))
    point = Argument(Type("float64", (N,)), x.tobytes())
    call = Call(derivative=Derivative.JACOBIAN, function=function.name, args=(point,), wrt=(0,), sparsity=Sparsity.DENSE)

    async def computed() -> tuple[Plan, np.ndarray]:
        plan, found = None, np.zeros((N - 1, N))
        async for reply in run.replies(one_worker, call):
            plan = reply.header.plan if reply.header is not None else plan
            for block in reply.blocks:
                rows, columns = slice(block.row, block.row + block.rows), slice(block.column, block.column + block.columns)
                found[rows, columns] = np.frombuffer(block.data).reshape(block.rows, block.columns)
        assert plan is not None
        return plan, found

    before = await run.explain(one_worker, call)
    plans, results = zip(*[await computed() for _ in range(4)], strict=True)
    after = await run.explain(one_worker, call)
    assert before.strategy == "forward"
    assert not any("measured" in option.verdict for option in before.considered)
    assert [plan.strategy for plan in plans[1:]] == ["reverse"] * 3
    assert [option.strategy for option in after.considered] == ["reverse", "forward"]
    assert all(option.verdict.endswith("(measured)") for option in after.considered)
    with jax.enable_x64(True):
        expected = jax.jacobian(lambda x: (y := jnp.sin(x) / jnp.linspace(1.0, 2.0, N))[1:] * y[:-1])(x)
    for found in results:
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
