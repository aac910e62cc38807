"""From any exception of tracing, compiling or running to the one ``Fault`` that explains it."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterator

import jax

from jacloom_graph.errors import Fault, Reason
from jacloom_worker import modes

_LOG = logging.getLogger(__name__)

_REFUSALS = re.compile(
    r"can't apply forward-mode|Reverse-mode differentiation does not work|[Dd]ifferentiation rule .* not implemented|"
    r"[Tt]ranspose rule .* not implemented|transpose_solve required|No [JV][JV]P defined|gradient with respect to .* not supported|"
    r"not differentiable|does not support (forward|reverse)-mode|[Ff]orward-mode autodiff|cannot be (forward|reverse)-mode",
)
"""What JAX and libraries on it say where a function has no derivative in some mode. The classes differ each time, so the text has to do."""


def explain(error: BaseException) -> Fault:
    """Returns the fault that explains an exception.

    A ``Fault`` anywhere in the chain of causes is itself the answer: JAX may have wrapped it. An exception that nobody foresaw is logged
    with its traceback under an id, and only the id leaves this process.
    """
    chain = list(_chain(error))
    for link in chain:
        if isinstance(link, Fault):
            return _refusal(link)
    for link in chain:
        known = _recognize(link)
        if known:
            return known
    identity = secrets.token_hex(8)
    _LOG.error("internal error %s", identity, exc_info=error)
    return Fault(Reason.INTERNAL, f"the worker failed in a way that it did not foresee; its log has the details under {identity}")


def _refusal(fault: Fault) -> Fault:
    """Returns a fault, as one of the mode where a node failed only because JAX cannot differentiate it."""
    if fault.reason is not Reason.TYPE_MISMATCH or not _REFUSALS.search(fault.message):
        return fault
    return Fault(Reason.MODE_UNAVAILABLE, f"the function has no derivative in this mode: {fault.message}", field=fault.field, place=fault.place)


def _recognize(error: BaseException) -> Fault | None:
    text = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, jax.errors.JaxRuntimeError) and ("RESOURCE_EXHAUSTED" in text or "bad_alloc" in text)):
        what = _first_sentence(text.removeprefix("RESOURCE_EXHAUSTED: "))
        return Fault(Reason.OUT_OF_MEMORY, f"the worker ran out of memory ({what}); use smaller tiles, or a worker with more memory")
    if isinstance(error, RecursionError):
        return Fault(Reason.TOO_LARGE, "calls in the function are nested deeper than the worker can follow; flatten it")
    if _REFUSALS.search(text):
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
