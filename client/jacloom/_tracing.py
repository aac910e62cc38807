"""Callables become functions: which leaves are inputs, tracing, and the cache that makes it happen once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import wraps
from importlib.util import find_spec
from typing import Any

from jacloom import _leaves
from jacloom._binding import Binding, argument_paths
from jacloom._cache import PerObject
from jacloom._caller import callers_level
from jacloom._captured import captured
from jacloom._errors import ArgumentError, JacloomWarning, MissingExtraError, faults
from jacloom._function import Function
from jacloom._leaves import Static
from jacloom._signature import label_of
from jacloom._structure import JaxStructure, Structure, flatten_with_jax

_traced: PerObject[Binding] = PerObject()

_FLAGS = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable", "jax_numpy_dtype_promotion", "jax_numpy_rank_promotion")
"""JAX's settings that change what tracing yields."""


def trace(f: Callable[..., Any], *example: Any, **kwargs: Any) -> Function:
    """Returns ``f`` as data, traced by JAX for arguments like the examples.

    Python bools, ints and strings among the examples are fixed to their values; floats and arrays are inputs.

    Args:
        f: A function of pytrees of arrays that JAX can trace.
        *example: Arrays, numbers, or anything with a shape and dtype, such as ``jax.ShapeDtypeStruct``, in pytrees. Values of inputs are not read.
        **kwargs: Further arguments by name.

    Example:
        >>> function = jl.trace(lambda x: jnp.sin(x).sum(), np.zeros(3))
        >>> function.inputs
        (Type(dtype='float64', shape=(3,), weak=False),)

    Raises:
        TraceError: if JAX cannot trace the function.
        UnsupportedOpError: if it uses an operation that graphs do not have.
        MissingExtraError: if JAX is not installed.
    """
    _require_jax()
    leaves, structure = flatten_with_jax((example, kwargs) if kwargs else example)
    return _function(f, leaves, structure, bool(kwargs), None, keep=True)


def bind_callable(
    f: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], active: tuple[int, ...] | None = None
) -> tuple[Binding, list[Any]]:
    """Returns the binding of a call of a Python function, tracing it if there is none yet, and the leaves of the arguments.

    Args:
        f: A JAX-traceable function.
        args: The call's arguments.
        kwargs: The call's arguments by name.
        active: Inputs that will be differentiated, where custom rules refuse others. Default: all that can be.

    Raises:
        TraceError: if JAX cannot trace the function.
        UnsupportedOpError: if it uses an operation that graphs do not have.
    """
    if "jax" not in sys.modules:
        _require_jax()
    keywords = bool(kwargs)
    leaves, structure = flatten_with_jax((args, dict(kwargs)) if keywords else args)
    key: Hashable = (structure, keywords, active, _settings(), captured(f), *map(_leaves.key, leaves))
    cache = _traced.of(f)
    found = cache.get(key)
    if found is None:
        found = cache.put(key, _bind(_function(f, leaves, structure, keywords, active, keep=False), leaves, structure, keywords))
    return found, leaves


def _bind(function: Function, leaves: list[Any], structure: Structure, keywords: bool) -> Binding:
    signature = function.signature
    assert signature is not None, "the tracer declares all types"
    numbers = iter(range(len(signature.inputs)))
    slots = tuple(None if at in signature.fixed else next(numbers) for at in range(len(leaves)))
    return Binding(signature, function, structure, keywords, slots)


def _function(
    f: Callable[..., Any], leaves: list[Any], structure: Structure, keywords: bool, active: Collection[int] | None, *, keep: bool
) -> Function:
    """Traces; with ``keep``, the function can be traced again without the caller's arguments, for which it holds on to ``f``."""
    from jacloom._trace import trace as trace_graph

    keys = [_leaves.key(leaf) for leaf in leaves]
    fixed = {at: key.value for at, key in enumerate(keys) if isinstance(key, Static)}
    _check_dtypes(leaves, fixed, structure, keywords)

    @wraps(f, assigned=("__name__", "__qualname__", "__doc__", "__module__"), updated=())
    def inputs_only(*args: Any, **kwargs: Any) -> Any:
        # None stands where a fixed value belongs; the caller's containers are restored around it.
        values = dict(zip(inputs, flatten_with_jax((args, kwargs))[0], strict=True)) | fixed
        whole = structure.unflatten(values[at] for at in range(len(leaves)))
        return f(*whole[0], **whole[1]) if keywords else f(*whole)

    inputs = [at for at in range(len(leaves)) if at not in fixed]
    reduced = structure.without(fixed) if fixed else structure
    whole = reduced.unflatten(_readable(leaves[at]) for at in inputs)
    args, kwargs = whole if keywords else (whole, {})
    with faults():
        traced = trace_graph(inputs_only if fixed else f, args, kwargs, active=active)

    for note in traced.notes:
        warnings.warn(f"{label_of(f)}: {note}", JacloomWarning, stacklevel=callers_level())

    def retrace(narrower: Collection[int]) -> Function:
        return _function(f, shapes, structure, keywords, narrower, keep=False)

    shapes = [leaf if at in fixed else _shape_of(leaf) for at, leaf in enumerate(leaves)] if keep else []
    return Function(
        traced.graph,
        traced.id,
        arguments=structure,
        result=JaxStructure(traced.out_treedef),
        fixed=fixed,
        label=label_of(f),
        keywords=keywords,
        notes=traced.notes,
        lines=traced.lines,
        retrace=retrace if keep else None,
    )


def _check_dtypes(leaves: list[Any], fixed: Mapping[int, Any], structure: Structure, keywords: bool) -> None:
    for at, leaf in enumerate(leaves):
        if at not in fixed:
            try:
                _leaves.type_of(leaf)
            except ArgumentError as error:
                raise ArgumentError(f"{argument_paths(structure, keywords)[at]}: {error.message}") from None


def _readable(leaf: Any) -> Any:
    """Returns a leaf as something that JAX reads: other libraries' arrays become NumPy's, other shapes become JAX's."""
    if type(leaf) in (float, complex):
        return leaf
    import jax

    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return leaf
    return _shape_of(leaf) if _leaves.is_shape(leaf) else _leaves.to_array(leaf)


def _shape_of(leaf: Any) -> Any:
    if type(leaf) in (float, complex):
        return leaf
    import jax

    if not isinstance(leaf, jax.Array) and not _leaves.is_shape(leaf):
        leaf = _leaves.to_array(leaf)
    weak = bool(getattr(leaf, "weak_type", False))
    return jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype, weak_type=weak)


def _settings() -> tuple[Any, ...]:
    config = sys.modules["jax"].config
    return tuple(getattr(config, name, None) for name in _FLAGS)


def _require_jax() -> None:
    if find_spec("jax") is None:
        raise MissingExtraError(
            'Python functions are traced by JAX, which is not installed: pip install "jacloom[jax]". '
            "Functions from jl.load, registered functions and ids work without."
        )
    import jax  # noqa: F401  # so that the rest of this module finds it loaded
