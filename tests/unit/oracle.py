"""What a service should answer, computed by JAX in this process: makes the SDK's questions and trees testable without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jacloom import _leaves
from jacloom._binding import Binding
from jacloom._prepared import Vectors
from jacloom._query import Query
from jacloom._tracing import bind_callable
from jacloom._transform import Transform
from jacloom_graph import tensor
from jacloom_graph.answer import ArrayKey, Derivative, Part


def transformed(
    transform: Transform, f: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None, given: Any = None
) -> Any:
    """Returns what the client returns for a transformation, with answers from the oracle."""
    binding, leaves = bind_callable(f, args, kwargs or {})
    prepared = transform.prepare(binding)
    vectors = prepared.vectors(given) if prepared.vectors is not None else Vectors()
    arrays = answer(f, binding, prepared.query, leaves, vectors)
    assert set(arrays) >= set(prepared.query.expected)
    for key, array in prepared.query.expected.items():
        dtype, shape = tensor.storage(array.type)
        assert arrays[key].shape == shape, (key, arrays[key].shape, array.type)
        arrays[key] = arrays[key].astype(dtype)
    return prepared.build({key: arrays[key] for key in prepared.query.expected})


def answer(f: Callable[..., Any], binding: Binding, query: Query, leaves: list[Any], vectors: Vectors) -> dict[ArrayKey, np.ndarray]:
    """Returns the arrays of the answer to a query about ``f`` at the leaves of its arguments."""
    with jax.enable_x64(True):
        point = [jnp.asarray(_leaves.to_array(leaf)) for leaf in binding.inputs(leaves)]

        def flat(*active: jax.Array) -> list[jax.Array]:
            inputs = list(point)
            for leaf, value in zip(query.chosen.wrt, active, strict=True):
                inputs[leaf] = value
            merged = [leaves[at] if slot is None else inputs[slot] for at, slot in enumerate(binding.slots)]
            whole = binding.arguments.unflatten(merged)
            args, kwargs = whole if binding.keywords else (whole, {})
            return jax.tree.leaves(f(*args, **kwargs))

        def chosen(*active: jax.Array) -> list[jax.Array]:
            results = flat(*active)
            found = [results[leaf] for leaf in query.chosen.named]
            return [sum(jnp.sum(leaf * weight) for leaf, weight in zip(found, vectors.weights, strict=True))] if vectors.weights else found

        active = [point[leaf] for leaf in query.chosen.wrt]
        found = {(Part.VALUE, leaf, 0, 0): value for leaf, value in enumerate(flat(*active))}
        found |= _derivative(query, chosen, active, vectors.seeds)
        return {key: np.array(value) for key, value in found.items()}


def _derivative(query: Query, chosen: Callable[..., list[jax.Array]], active: list[jax.Array], seeds: Sequence[np.ndarray]) -> dict[ArrayKey, Any]:
    numbers = tuple(range(len(active)))
    match query.derivative:
        case Derivative.EVALUATE:
            return {}
        case Derivative.JVP:
            _, tangents = jax.jvp(chosen, active, [jnp.asarray(seed) for seed in seeds])
            return {(Part.TANGENT, out, 0, 0): tangent for out, tangent in zip(query.chosen.outputs, tangents, strict=True)}
        case Derivative.VJP:
            _, pull = jax.vjp(chosen, *active)
            return {(Part.COTANGENT, 0, at, 0): value for at, value in enumerate(pull([jnp.asarray(seed) for seed in seeds]))}
        case Derivative.GRADIENT:
            gradient = jax.grad(lambda *inputs: chosen(*inputs)[0], numbers, holomorphic=query.holomorphic)(*active) if active else ()
            return {(Part.GRADIENT, 0, at, 0): value for at, value in enumerate(gradient)}
        case Derivative.HVP:

            def gradient_of(*inputs: jax.Array) -> Any:
                return jax.grad(lambda *inner: chosen(*inner)[0], numbers)(*inputs)

            _, product = jax.jvp(gradient_of, active, [jnp.asarray(seed) for seed in seeds])
            return {(Part.PRODUCT, 0, at, 0): value for at, value in enumerate(product)}
        case Derivative.JACOBIAN:
            if not active:
                return {}
            transform = jax.jacrev if query.mode == "reverse" else jax.jacfwd
            jacobian = transform(chosen, numbers, holomorphic=query.holomorphic)(*active)
            return {
                (Part.JACOBIAN, out, at, 0): block for out, row in zip(query.chosen.outputs, jacobian, strict=True) for at, block in enumerate(row)
            }
        case Derivative.HESSIAN:
            if not active:
                return {}
            hessian = jax.hessian(chosen, numbers, holomorphic=query.holomorphic)(*active)
            return {
                (Part.HESSIAN, out, at, to): block
                for out, rows in zip(query.chosen.outputs, hessian, strict=True)
                for at, row in enumerate(rows)
                for to, block in enumerate(row)
            }
