"""From any exception of tracing, compiling or running to the one ``Fault`` that explains it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator

import jax

from jacloom_graph.errors import Fault, Reason
from jacloom_worker import modes
from jacloom_worker.refusals import refuses

_LOG = logging.getLogger(__name__)


def explain(error: BaseException) -> Fault:
    """Returns the fault that explains an exception.

    A ``Fault`` anywhere in the chain of causes is itself the answer: JAX may have wrapped it. An exception that nobody foresaw is logged
    with its traceback under an id, and only the id leaves this process.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, Fault):
            return link
    for link in chain:
        known = _recognize(link)
        if known:
            return known
    identity = secrets.token_hex(8)
    _LOG.error("internal error %s", identity, exc_info=error)
    return Fault(Reason.INTERNAL, f"the worker failed in a way that it did not foresee; its log has the details under {identity}")


def _recognize(error: BaseException) -> Fault | None:
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, jax.errors.JaxRuntimeError) and ("RESOURCE_EXHAUSTED" in text or "bad_alloc" in text)):
        what = _first_sentence(text.removeprefix("RESOURCE_EXHAUSTED: "))
        return Fault(Reason.OUT_OF_MEMORY, f"the worker ran out of memory ({what}); use smaller tiles, or a worker with more memory")
    if isinstance(error, RecursionError):
        return Fault(Reason.TOO_LARGE, "calls in the function are nested deeper than the worker can follow; flatten it")
    if refuses(text):
        message = f"the function has no derivative in this mode: {_first_sentence(text)}"
        return Fault(Reason.MODE_UNAVAILABLE, message, place=modes.place_of_failure(error))
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _first_sentence(text: str, most: int = 300) -> str:
    """Returns the beginning of a message: what went wrong, without the addresses and stack frames that may follow."""
    line = text.strip().splitlines()[0] if text.strip() else "no details"
    return line[:most].rstrip(". ")
