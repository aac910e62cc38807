"""A function becomes a graph, and a graph a function again: each against JAX tracing the Python function."""

from __future__ import annotations

from typing import Any, Final

import jax

import jacloom as jl
from benchmarks.measure import Goal, Report, in_turn
from benchmarks.simulator import equations, simulator
from jacloom import _upload
from jacloom_graph import wire
from jacloom_graph.check import check
from jacloom_worker.infer import struct
from jacloom_worker.raising import Program

_STEPS: Final = 8
"""About 2 000 equations."""


def both_ways() -> Report:
    """A simulator of 2 000 equations, a new function object each time, so that JAX answers none of it from its caches."""
    _, args = simulator(_STEPS)

    def python() -> Any:
        with jax.enable_x64(True):
            return jax.make_jaxpr(simulator(_STEPS)[0])(*args)

    def encoded() -> bytes:
        return _upload.pack(jl.trace(simulator(_STEPS)[0], *args).graph).graph

    data = encoded()

    def raised() -> Any:
        with jax.enable_x64(True):
            graph = wire.from_bytes(data)
            check(graph)
            return jax.make_jaxpr(Program(graph))(*map(struct, graph.entry.inputs))

    medians, spread = in_turn({"jax.make_jaxpr": python, "trace, id and bytes": encoded, "bytes, check and jaxpr": raised}, rounds=15)
    figures = {**medians, "equations (number)": float(equations(python())), "the graph (KiB)": len(data) / 1024}
    goals = (
        Goal("tracing and encoding at most 1.3 x jax.make_jaxpr", medians["trace, id and bytes"] / medians["jax.make_jaxpr"], 1.3, "x"),
        Goal("decoding and raising no slower than retracing", medians["bytes, check and jaxpr"] / medians["jax.make_jaxpr"], 1.0, "x"),
    )
    return Report("A simulator of 2 000 equations to a graph and back", figures, goals, spread)
