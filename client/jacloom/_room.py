"""Room for an answer in this process: one that is larger than it can allocate is refused before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from jacloom._errors import OutOfMemoryError
from jacloom._query import Query
from jacloom_graph.answer import Derivative, total_bytes

_PRODUCTS = "multiply with the derivative (client.linear_operator), which never makes the matrix"


@contextmanager
def room(subject: str, query: Query) -> Iterator[None]:
    """Refuses an answer that this process cannot allocate: in front of the block, as far as its size is known there, else from within it.

    Args:
        subject: What asks, for messages: the user's call.
        query: What is asked in the block.

    Raises:
        OutOfMemoryError: with the size of the answer, and what to ask for in its place.
    """
    size = total_bytes(list(query.expected.values()))
    if not _available(size):
        raise _refusal(subject, query, size)
    try:
        yield
    except OutOfMemoryError:
        raise  # that of a worker
    except MemoryError:
        raise _refusal(subject, query, size) from None


def _available(size: int) -> bool:
    """Returns whether the system would give this process so many bytes. As nothing is written to them, they take no memory."""
    try:
        np.empty(size, np.uint8)
    except (MemoryError, ValueError):  # the latter beyond what addresses can tell apart
        return False
    return True


def _refusal(subject: str, query: Query, size: int) -> OutOfMemoryError:
    types = [str(array.type) for array in query.expected.values()]
    # Of a sparse answer, the service alone knows how large it is.
    what = "" if query.sparse else f" has {size:,} bytes ({', '.join(types[:1])}{', ...' if len(types) > 1 else ''}),"
    return OutOfMemoryError(f"{subject}: the result{what} {'is ' if query.sparse else ''}more than this process can allocate. {_instead(query)}")


def _instead(query: Query) -> str:
    """Returns what to ask for in the place of an answer that is too large."""
    match query.derivative:
        case Derivative.JACOBIAN | Derivative.HESSIAN if query.sparse:
            return f"Ask for fewer argnums at a time, or {_PRODUCTS}."
        case Derivative.JACOBIAN:
            return f"Ask for the entries that can differ from zero alone (output='csr'), for fewer argnums at a time, or {_PRODUCTS}."
        case Derivative.HESSIAN:
            one = sum(type_.size for type_ in query.chosen.output_types) == 1
            sparse = "output='csr'" if one else "weights=..., output='csr': of several outputs, for their weighted sum"
            products = _PRODUCTS.replace("linear_operator", "linear_operator(f, x, derivative='hessian')")
            return f"Ask for the entries that can differ from zero alone ({sparse}), for fewer argnums at a time, or {products}."
        case Derivative.GRADIENT | Derivative.VJP | Derivative.HVP:
            return "It is as large as the arguments: ask for fewer argnums at a time."
        case _:
            return "It is as large as the function's own result: let the function return less of it."
