"""Small functions with sparse derivatives, their derivatives by JAX, and what a service answers when asked for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from integration.service import Answer, collect
from scipy import sparse

import jacloom as jl
from jacloom._deadline import Deadline
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph import tensor

X = np.array([0.5, -1.0, 2.0, 3.0])
ARRAYS = (pb.POINTERS, pb.INDICES, pb.SOURCES, pb.BOUNDS, pb.ENTRIES)


def chain(x: jax.Array) -> jax.Array:
    """Two entries a row: a matrix of ``n - 1`` by ``n`` that two columns at a time give."""
    return jnp.sin(x[1:]) * x[:-1]


def arrow(x: jax.Array) -> jax.Array:
    """Dense first row and column, a diagonal, and a row of zeros."""
    return jnp.concatenate([jnp.sum(x**2)[None], x[1:] ** 3 * x[0], jnp.zeros(1)])


def energy(x: jax.Array) -> jax.Array:
    """Its Hessian is an arrowhead."""
    return jnp.sum(x[1:] ** 3 * x[0]) + x[0] ** 4


def dense(transform: Callable[..., Any], f: Callable[..., Any], *args: Any, **kwargs: Any) -> np.ndarray:
    """Returns JAX's derivative as one matrix: outputs below one another, arguments side by side, as a sparse one is."""
    argnums = kwargs.pop("argnums", 0)
    with jax.enable_x64(True):
        found = transform(f, argnums)(*args, **kwargs)
        outs = jax.tree.leaves(jax.eval_shape(f, *args, **kwargs))
    leaves = jax.tree.leaves(found)
    per = len(leaves) // len(outs)
    rows = [leaves[at * per : (at + 1) * per] for at in range(len(outs))]
    return np.block([[np.asarray(block).reshape(out.size, -1) for block in row] for row, out in zip(rows, outs, strict=True)])


def curvature(f: Callable[..., Any], x: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.hessian(f)(x))


def asked(
    client: jl.Client, f: Callable[..., Any], x: np.ndarray, method: str = "Jacobian", args: tuple[np.ndarray, ...] = (), **options: Any
) -> Answer:
    """Returns what the service itself answers, its structure and entries apart."""
    pattern = options.pop("pattern", None)
    function = client.register(f, x, *args)
    request = pb.CallRequest(
        function=function.name, args=map(tensor.to_message, (x, *args)), wrt=[] if method == "Evaluate" else [0], options=pb.Options(**options)
    )
    if pattern is not None:
        request.pattern.CopyFrom(pb.Pattern(pointers=tensor.to_message(pattern[0]), indices=tensor.to_message(pattern[1])))
    with client._session.connection.stubs(Deadline(60)) as stubs:
        return collect(getattr(stubs.derivatives, method)(request, timeout=60, metadata=stubs.metadata))


def passes(run: Callable[..., Any], *args: Any) -> tuple[str, int]:
    """Returns the strategy of a call and the passes that it took."""
    seen: list[jl.Progress] = []
    run(seen.append)(*args)
    summary = seen[-1].summary
    assert summary is not None
    assert summary.passes == seen[-1].plan.passes
    return seen[-1].plan.strategy, summary.passes


def matrix(answer: Answer) -> np.ndarray:
    pointers, indices, sources, _, entries = answer.arrays
    sizes = answer.header.structure
    return sparse.csr_array((entries[sources], indices, pointers), (sizes.rows, sizes.columns)).toarray()
