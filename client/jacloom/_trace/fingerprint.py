"""Content of a jaxpr as a hash, for telling whether a rule has come back to the function it belongs to.

Only good within one process: parameters without a content of their own are compared by their text.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from jax.extend import core

from jacloom._trace.activity import open_jaxpr
from jacloom._trace.types import constant

_CUSTOM = {"custom_jvp_call", "custom_vjp_call"}


def fingerprint(closed: core.ClosedJaxpr) -> str:
    """Returns a hash of what the jaxpr computes; calls with custom rules count by the function they call, whatever their rule."""
    digest = hashlib.sha256()
    for value in closed.consts:
        _hash_constant(digest, value)
    _hash_jaxpr(digest, closed.jaxpr)
    return digest.hexdigest()


def _hash_jaxpr(digest: Any, jaxpr: core.Jaxpr) -> None:
    number = {var: index for index, var in enumerate((*jaxpr.constvars, *jaxpr.invars))}
    for var in number:
        digest.update(str(var.aval).encode())
    for eqn in jaxpr.eqns:
        digest.update(eqn.primitive.name.encode())
        for atom in eqn.invars:
            _hash_atom(digest, atom, number)
        names = ("call_jaxpr",) if eqn.primitive.name in _CUSTOM else sorted(eqn.params)
        for name in names:
            digest.update(name.encode())
            _hash_param(digest, eqn.params[name])
        for var in eqn.outvars:
            number[var] = len(number)
            digest.update(str(var.aval).encode())
    for atom in jaxpr.outvars:
        _hash_atom(digest, atom, number)


def _hash_atom(digest: Any, atom: Any, number: dict[Any, int]) -> None:
    if isinstance(atom, core.Literal):
        _hash_constant(digest, atom.val)
    else:
        digest.update(number[atom].to_bytes(4, "little"))


def _hash_constant(digest: Any, value: Any) -> None:
    stored = constant(value, weak=False)
    digest.update(str(stored.type).encode())
    digest.update(np.ascontiguousarray(stored.data).tobytes())


def _hash_param(digest: Any, value: Any) -> None:
    if isinstance(value, (core.ClosedJaxpr, core.Jaxpr)):
        _hash_jaxpr(digest, open_jaxpr(value))
        for item in getattr(value, "consts", ()):
            _hash_constant(digest, item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _hash_param(digest, item)
    elif isinstance(value, type) or not callable(value):
        digest.update(repr(value).encode())
    # A function among the parameters stands beside a jaxpr that says the same.
