"""Plain ops: from a node's attributes to a call of JAX.

Most ops bind the JAX primitive of their name, with their attributes as its parameters. The tables below say where that is not
enough: parameters that JAX wants beyond the attributes, attributes that JAX keeps in a record or an enum, and ops that are
called through ``jax.lax`` because their primitive wants more than data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax import lax

from jacloom_graph.attrs import AttrKind
from jacloom_graph.errors import Fault, Reason
from jacloom_graph.ops import TABLE
from jacloom_worker.primitives import primitives

Params = dict[str, Any]
Operands = Sequence[Any]


def bind(op: str, operands: Operands, attrs: Mapping[str, Any]) -> list[Any]:
    """Returns the results of a plain op.

    Args:
        op: A name in the op table that is not a structured op.
        operands: JAX values.
        attrs: Attributes as stored; missing ones take their defaults.

    Raises:
        Fault: UNSUPPORTED_OP if the installed JAX does not have the op.
    """
    params = parameters(op, attrs)
    if op in CALLS:
        results = CALLS[op](operands, params)
    else:
        primitive = primitives().get(op)
        if primitive is None:
            raise Fault(Reason.UNSUPPORTED_OP, f"op {op!r} is not part of JAX {jax.__version__}, which this worker has")
        results = primitive.bind(*operands, **_EXTRA.get(op, {}), **(_PARAMS[op](params) if op in _PARAMS else params))
    return list(results) if isinstance(results, (list, tuple)) else [results]


def parameters(op: str, attrs: Mapping[str, Any]) -> Params:
    """Returns all attributes of an op, defaults filled in and dtype names resolved."""
    defaults, dtypes = _known(op)
    params = {**defaults, **attrs}
    for name in dtypes:
        if params[name] is not None:
            params[name] = dtype(params[name])
    return params


@cache
def _known(op: str) -> tuple[Params, tuple[str, ...]]:
    """Returns an op's defaults, and which of its attributes are dtypes."""
    specs = TABLE[op].attrs
    return {spec.name: spec.default for spec in specs}, tuple(spec.name for spec in specs if spec.kind is AttrKind.DTYPE)


def dtype(name: str) -> Any:
    """Returns the dtype of a graph's dtype name."""
    return jax.numpy.dtype(name)


_EXTRA: Mapping[str, Params] = {
    "broadcast_in_dim": {"sharding": None},
    "convert_element_type": {"sharding": None},
    "iota": {"sharding": None},
    "reshape": {"sharding": None},
    "reduce_sum": {"out_sharding": None},
    "dot_general": {"out_sharding": None},
    "conv_general_dilated": {"out_sharding": None},
    "rng_bit_generator": {"out_sharding": None},
    "schur": {"select_callable": None},
    **{
        name: {"accuracy": None}
        for name in ("cos", "exp", "exp2", "expm1", "log", "log1p", "log2", "logistic", "rsqrt", "sin", "sqrt", "cbrt", "tan", "tanh")
    },
    **({"reduce_max": {"out_sharding": None}, "reduce_min": {"out_sharding": None}} if jax.__version_info__ >= (0, 11) else {}),
}
"""Parameters that JAX wants and that a graph has no word for, at their neutral values."""


_HIGHEST = (lax.Precision.HIGHEST, lax.Precision.HIGHEST)
"""The precision of every product, whatever was asked: GPUs would otherwise round float32 operands to TF32."""


def _dot_general(params: Params) -> Params:
    contracting = (params["lhs_contracting"], params["rhs_contracting"])
    batch = (params["lhs_batch"], params["rhs_batch"])
    return {
        "dimension_numbers": (contracting, batch),
        "precision": _HIGHEST,
        "preferred_element_type": params["preferred_element_type"],
    }


def _conv(params: Params) -> Params:
    specs = lax.ConvDimensionNumbers(params.pop("lhs_spec"), params.pop("rhs_spec"), params.pop("out_spec"))
    return {**params, "dimension_numbers": specs, "precision": _HIGHEST}


def _fft(params: Params) -> Params:
    return {**params, "fft_type": lax.FftType[params["fft_type"]]}


def _round(params: Params) -> Params:
    return {"rounding_method": lax.RoundingMethod[params["rounding_method"]]}


def _selecting(params: Params) -> Params:
    return {**params, "select_prim": primitives()[params["select_prim"]]}


def _eigh(params: Params) -> Params:
    algorithm = params["algorithm"]
    return {**params, "algorithm": lax.linalg.EighImplementation[algorithm] if algorithm else None}


def _eig(params: Params) -> Params:
    implementation = params["implementation"]
    return {**params, "implementation": lax.linalg.EigImplementation[implementation] if implementation else None}


def _svd(params: Params) -> Params:
    algorithm = params.pop("algorithm")
    return {**params, "algorithm": lax.linalg.SvdAlgorithm[algorithm]} if algorithm else params


def _top_k(params: Params) -> Params:
    # Before JAX 0.11 top_k was always stable and had no word for it.
    return params if jax.__version_info__ >= (0, 11) else {"k": params["k"], "axis": params["axis"]}


def _platforms(params: Params) -> Params:
    return {"platforms": tuple(tuple(group.split(",")) if group else None for group in params["platforms"])}


_PARAMS: Mapping[str, Callable[[Params], Params]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv,
    "fft": _fft,
    "round": _round,
    "select_and_gather_add": _selecting,
    "select_and_scatter_add": _selecting,
    "eigh": _eigh,
    "eig": _eig,
    "svd": _svd,
    "platform_index": _platforms,
    "top_k": _top_k,
}
"""How attributes become JAX's parameters where the two differ."""


def _gather(operands: Operands, params: Params) -> Any:
    fields = ("offset_dims", "collapsed_slice_dims", "start_index_map", "operand_batching_dims", "start_indices_batching_dims")
    numbers = lax.GatherDimensionNumbers(**{name: params.pop(name) for name in fields})
    mode = lax.GatherScatterMode[params.pop("mode")]
    operand, indices = operands
    return lax.gather(operand, indices, numbers, mode=mode, **params)


def _scatter(name: str) -> Callable[[Operands, Params], Any]:
    return lambda operands, params: _scatter_call(partial(getattr(lax, name), *operands), params)


def _scatter_call(function: Callable[..., Any], params: Params) -> Any:
    fields = ("update_window_dims", "inserted_window_dims", "scatter_dims_to_operand_dims", "operand_batching_dims", "scatter_indices_batching_dims")
    numbers = lax.ScatterDimensionNumbers(**{field: params.pop(field) for field in fields})
    return function(dimension_numbers=numbers, mode=lax.GatherScatterMode[params.pop("mode")], **params)


def scatter(operands: Operands, params: Params, combine: Callable[..., list[Any]] | None) -> Any:
    """Returns operand 0 with windows replaced, by ``combine`` of the old element where there is such a function."""
    params = {**params}
    del params["function"]
    if combine is None:
        return _scatter("scatter")(operands, params)
    target, indices, updates = operands

    def apply(**options: Any) -> Any:
        return lax.scatter_apply(target, indices, lambda old: combine(old, old)[0], update_shape=updates.shape, **options)

    return _scatter_call(apply, params)


def _random_wrap(operands: Operands, params: Params) -> Any:
    return jax.random.wrap_key_data(operands[0], impl=params["impl"])


def _random_seed(operands: Operands, params: Params) -> Any:
    # jax.random.key takes one seed; an array of seeds gives an array of keys.
    seeds = operands[0]
    if not jax.dtypes.issubdtype(jax.typeof(seeds).dtype, np.integer):
        raise TypeError(f"a seed is an integer, got {jax.typeof(seeds).dtype}")
    make: Callable[[Any], Any] = lambda seed: jax.random.key(seed, impl=params["impl"])  # noqa: E731
    for _ in range(np.ndim(seeds)):
        make = jax.vmap(make)
    return make(seeds)


def _sort(operands: Operands, params: Params) -> Any:
    # JAX checks neither when it traces, and fails in the compiler.
    axis, keys = params["dimension"], params["num_keys"]
    if not all(0 <= axis < np.ndim(operand) for operand in operands):
        raise ValueError(f"dimension must be an axis of every operand, got {axis} for operands of {np.ndim(operands[0])} axes")
    if not 0 < keys <= len(operands):
        raise ValueError(f"num_keys must be from 1 to the number of operands, {len(operands)}, got {keys}")
    return primitives()["sort"].bind(*operands, **params)


def _reshape(operands: Operands, params: Params) -> Any:
    # JAX's primitive takes any sizes when it is traced, and fails in the compiler.
    sizes = params["new_sizes"]
    if math.prod(sizes) != np.size(operands[0]):
        raise ValueError(
            f"new_sizes {sizes} has {math.prod(sizes)} elements, and the operand of shape {np.shape(operands[0])} {np.size(operands[0])}"
        )
    return primitives()["reshape"].bind(*operands, **_EXTRA["reshape"], **params)


def _conj(operands: Operands, params: Params) -> Any:
    return lax.conj(operands[0])


def _log2(operands: Operands, params: Params) -> Any:
    return lax.log(operands[0]) / lax.log(lax.full_like(operands[0], 2))


def _one_minus_square(operands: Operands, params: Params) -> Any:
    return (1 - operands[0]) * (1 + operands[0])


def _rng_bit_generator(operands: Operands, params: Params) -> Any:
    return lax.rng_bit_generator(operands[0], params["shape"], params["dtype"], lax.RandomAlgorithm[params["algorithm"]])


CALLS: Mapping[str, Callable[[Operands, Params], Any]] = {
    "gather": _gather,
    **{name: _scatter(name) for name in ("scatter_add", "scatter_sub", "scatter_mul", "scatter_min", "scatter_max")},
    "random_wrap": _random_wrap,
    "random_seed": _random_seed,
    "rng_bit_generator": _rng_bit_generator,
    "conj": _conj,
    "sort": _sort,
    "reshape": _reshape,
    # Primitives only in later versions of JAX.
    **({} if "log2" in primitives() else {"log2": _log2}),
    **({} if "one_minus_square" in primitives() else {"one_minus_square": _one_minus_square}),
}
"""Ops that go through ``jax.lax`` or ``jax.random``."""
