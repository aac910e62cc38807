"""Interleaved timing: contenders take turns, so that a change of the machine's speed hits all of them."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil


@dataclass(frozen=True)
class Goal:
    """A bound on a measured figure."""

    claim: str
    """In words, with the bound."""
    measured: float
    bound: float
    unit: str

    @property
    def met(self) -> bool:
        """Whether the figure is within the bound."""
        return self.measured <= self.bound


@dataclass(frozen=True)
class Report:
    """What one benchmark found."""

    name: str
    figures: Mapping[str, float]
    """Medians by contender: seconds unless the name says otherwise."""
    goals: tuple[Goal, ...] = ()
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Least and greatest, where rounds were timed."""


def in_turn(contenders: Mapping[str, Callable[[], Any]], rounds: int, warm: int = 2) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Returns each contender's median seconds, and its least and greatest, over rounds in which all run once.

    Args:
        contenders: What to time, by name; each blocks until its result is there.
        rounds: Rounds that count.
        warm: Rounds before that do not.
    """
    for _ in range(warm):
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    return medians, {name: (min(times), max(times)) for name, times in seconds.items()}


def anonymous_bytes(pid: int) -> int:
    """Returns the anonymous resident memory of a process (RssAnon): what it holds itself, shared memory left out."""
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    raise LookupError(f"no RssAnon in the status of process {pid}")


def settle(most: float = 60.0) -> None:
    """Waits until the local service is at rest: its workers go on starting after the first answer, and would be measured too."""
    deadline, quiet = time.monotonic() + most, 0
    while quiet < 3 and time.monotonic() < deadline:
        processes = [process for group in service_processes().values() for process in group]
        before = cpu_seconds(processes)
        time.sleep(0.5)
        busy = abs(cpu_seconds(processes) - before)
        quiet = quiet + 1 if busy < 0.05 else 0


def cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    """Returns the processor time that processes have used so far, without those that are gone."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:2])
    return total


def service_processes() -> dict[str, list[psutil.Process]]:
    """Returns the local service's processes by what they are: ``server``, ``workers`` (Ray actors)."""
    found: dict[str, list[psutil.Process]] = {"server": [], "workers": []}
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if "jacloom_server" in command:
            found["server"].append(process)
        elif command.startswith("ray::") and "IDLE" not in command:
            found["workers"].append(process)
    return found
