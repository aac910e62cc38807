"""Content of a jaxpr as a hash, for telling whether a rule has come back to the function it belongs to.

Only good within one process: parameters without a content of their own are compared by their text, or by being the same object. Two jaxprs of one
hash must compute the same and have the same rules, or a function gets another's derivative: what goes into the hash is written so that nothing can
be read in two ways.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import numpy as np
from jax.extend import core

from jacloom._trace.activity import open_jaxpr
from jacloom._trace.provenance import provenance
from jacloom._trace.types import constant

_CUSTOM = {"custom_jvp_call", "custom_vjp_call"}


ParameterNumbers = dict[tuple[type, Hashable], int]
"""Numbers of the parameters met so far, equal ones having one: neither text nor hash tells them apart for sure. A ``PyTreeDef``, say, leaves what is
static out of its hash, and abbreviates it in its text."""


def fingerprint(closed: core.ClosedJaxpr, numbers: ParameterNumbers, exact: bool = False) -> str:
    """Returns a hash of a jaxpr, good for as long as it lives.

    Args:
        closed: What is hashed.
        numbers: Of the trace; hashes are to be compared with others of the same.
        exact: Whether rules count: equal hashes then mean equal derivatives of every order, and unequal ones little, as a rule that was made anew is
            another. Else calls with custom rules count by the function they call, whatever their rule: a rule that comes back to its own function
            finds it under the next rule.
    """
    digest = _Digest(numbers)
    _hash_closed(digest, closed, exact)
    return digest.sum.hexdigest()


class _Digest:
    """A hash that grows."""

    def __init__(self, numbers: ParameterNumbers) -> None:
        self.sum = hashlib.sha256()
        self.update = self.sum.update
        self._numbers = numbers

    def number(self, value: Any) -> str:
        """Returns the number of a parameter, or its identity if it cannot be compared."""
        try:
            return f"#{self._numbers.setdefault((type(value), value), len(self._numbers))}"
        except Exception:  # whatever its hash or comparison raises, as that of an array does
            return str(id(value))


def _hash_closed(digest: _Digest, closed: core.ClosedJaxpr | core.Jaxpr, exact: bool) -> None:
    consts = getattr(closed, "consts", ())
    digest.update(f"{len(consts)}{{".encode())
    for value in consts:
        _hash_constant(digest, value)
    _hash_jaxpr(digest, open_jaxpr(closed), exact)


def _hash_jaxpr(digest: _Digest, jaxpr: core.Jaxpr, exact: bool) -> None:
    number = {var: index for index, var in enumerate((*jaxpr.constvars, *jaxpr.invars))}
    digest.update(f"{len(number)},{len(jaxpr.eqns)},{len(jaxpr.outvars)};".encode())
    for var in number:
        digest.update(f"{var.aval};".encode())
    for eqn in jaxpr.eqns:
        names = ("call_jaxpr",) if eqn.primitive.name in _CUSTOM else sorted(eqn.params)
        digest.update(f"{eqn.primitive.name}({len(eqn.invars)},{len(names)},{len(eqn.outvars)};".encode())
        for atom in eqn.invars:
            _hash_atom(digest, atom, number)
        if exact and eqn.primitive.name in _CUSTOM:
            digest.update(f"rule {provenance(eqn) or id(eqn)};".encode())
        # A function beside a jaxpr is where that came from.
        nameless = not exact and _holds_jaxpr(tuple(eqn.params.values()))
        for name in names:
            digest.update(f"{name}=".encode())
            _hash_param(digest, eqn.params[name], exact, nameless)
        for var in eqn.outvars:
            number[var] = len(number)
            digest.update(f"{var.aval};".encode())
    for atom in jaxpr.outvars:
        _hash_atom(digest, atom, number)


def _hash_atom(digest: _Digest, atom: Any, number: dict[Any, int]) -> None:
    if isinstance(atom, core.Literal):
        digest.update(b"#")
        _hash_constant(digest, atom.val)
    else:
        digest.update(b"%" + number[atom].to_bytes(4, "little"))


def _hash_constant(digest: _Digest, value: Any) -> None:
    stored = constant(value, weak=False)
    digest.update(f"{stored.type};".encode())
    digest.update(np.ascontiguousarray(stored.data).tobytes())


def _hash_param(digest: _Digest, value: Any, exact: bool, nameless: bool) -> None:
    if isinstance(value, (core.ClosedJaxpr, core.Jaxpr)):
        _hash_closed(digest, value, exact)
    elif isinstance(value, (tuple, list)):
        digest.update(f"{type(value)} {len(value)}(".encode())
        for item in value:
            _hash_param(digest, item, exact, nameless)
    elif callable(value) and not isinstance(value, type) and _by_identity(value):
        digest.update(b"function;" if nameless else f"function {id(value)};".encode())
    else:
        # The text, too: zeros of either sign are equal.
        digest.update(f"{type(value)} {value!r} {digest.number(value)};".encode())


def _by_identity(value: Any) -> bool:
    """Returns whether a value equals nothing but itself, as functions do; a high primitive, say, is all that it stands for."""
    equals: Any = type(value).__eq__
    return equals is object.__eq__


def _holds_jaxpr(value: Any) -> bool:
    return isinstance(value, (core.ClosedJaxpr, core.Jaxpr)) or (isinstance(value, (tuple, list)) and any(map(_holds_jaxpr, value)))
