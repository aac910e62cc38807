"""Which Python function a custom rule is.

Two rules with equal programs may still differ: each calls a further function, and those may have other rules. Nothing short of tracing them
without end could tell, but Python can: a rule that is the same function object, with the same static arguments, is the same rule. JAX wraps
it in closures and transformations of its own, which are looked through here. Where that fails, the answer is None and content has to do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from types import FunctionType
from typing import Any

from jax._src.linear_util import WrappedFun
from jax.extend import core
from jax.tree_util import PyTreeDef

_RULES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")
"""The parameters of calls with custom rules that hold a rule."""
_STATIC = "_prepend_static_args"
"""JAX's transformation that passes arguments which are not differentiated (``nondiff_argnums``)."""


def provenance(eqn: core.JaxprEqn) -> tuple[Hashable, ...] | None:
    """Returns what identifies the Python functions behind a custom rule while they live, or None where they are not found."""
    found = [author for name in _RULES if name in eqn.params for author in _authors(eqn.params[name])]
    return tuple(found) or None


def _authors(rule: Any) -> Iterator[Hashable]:
    """Yields the functions at the bottom of a rule's wrapping, by identity, and the static arguments and structures on the way, by value."""
    if not isinstance(rule, WrappedFun):
        return
    for transformation, arguments in rule.transforms:
        if getattr(transformation, "__name__", "") == _STATIC:
            values: Any = arguments[0]
            yield from map(_by_value, values)
        # How leaves become arguments: fields that are not leaves, and what there is None of, are in it.
        yield from (_by_value(argument) for argument in arguments if isinstance(argument, PyTreeDef))
    inner = list(_held(rule.f))
    for each in inner:
        yield from _authors(each) if isinstance(each, WrappedFun) else (_by_value(each),)
    if not any(isinstance(each, WrappedFun) for each in inner):
        yield id(rule.f)


def _held(function: Any, depth: int = 4) -> Iterator[Any]:
    """Yields the wrapped functions and the tree structures that one of JAX's own closures holds."""
    if not isinstance(function, FunctionType) or not function.__module__.startswith("jax."):
        return
    for cell in function.__closure__ or ():
        try:
            content = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        if isinstance(content, WrappedFun | PyTreeDef):
            yield content
        elif depth:
            yield from _held(content, depth - 1)


def _by_value(static: Any) -> Hashable:
    """Returns a static argument as something to compare: by value where it can be hashed, else by identity."""
    value = getattr(static, "val", static)
    try:
        hash(value)
    except TypeError:
        return id(value)
    return type(value), value
