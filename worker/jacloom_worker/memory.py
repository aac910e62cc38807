"""How much memory this process has and may have."""

from __future__ import annotations

import gc
import logging
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger(__name__)
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory of this process in bytes."""

    anonymous: int
    """Resident and its own: heap, stacks, device buffers on a CPU. What grows when a process leaks."""
    shared: int
    """Resident and shared with others: the object store's pages, program text."""
    private: int
    """Private writable address space, resident or not: what ``limit`` bounds. 0 where the system does not tell."""


def usage() -> Usage:
    """Returns what this process uses now. Outside Linux its peak, all counted as anonymous."""
    if not _STATUS.exists():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return Usage(anonymous=peak if sys.platform == "darwin" else peak << 10, shared=0, private=0)
    kibibytes = {}
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith("kB"):
            kibibytes[name] = int(value.split()[0])
    shared = kibibytes.get("RssFile", 0) + kibibytes.get("RssShmem", 0)
    return Usage(anonymous=kibibytes.get("RssAnon", 0) << 10, shared=shared << 10, private=kibibytes.get("VmData", 0) << 10)


def collect_rarely() -> None:
    """Has Python look for garbage in cycles less often, and never among what is loaded now. Call it when everything is loaded.

    Tracing makes and drops small objects by the million, all of them but a few without cycles, and Python's defaults walk all of JAX's modules again
    and again meanwhile: a JVP of a simulator of 5 000 nodes is traced in 0.68 s instead of 0.83 s, a VJP in 3.0 s instead of 3.9 s.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def limit(granted: int) -> bool:
    """Bounds the memory that this process may allocate from now on, for workers on a CPU.

    A computation that wants more then fails with RESOURCE_EXHAUSTED and the worker lives on, where it would otherwise have been killed,
    maybe with its neighbours. Call it when everything is loaded: libraries and thread stacks have taken address space by then, and do not
    count against the grant.

    Args:
        granted: Bytes on top of what is in use now.

    Returns:
        Whether the bound is in force. Outside Linux it is not; nor where an outer limit is tighter already, which is then left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    wanted = usage().private + granted
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        _LOG.warning("memory stays bounded by RLIMIT_DATA = %d bytes; %d were granted", hard, granted)
        return False
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    return True
