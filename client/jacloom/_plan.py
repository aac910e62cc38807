"""What the service intends to do, and what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from jacloom_api.v1 import derivative_service_pb2 as pb


@dataclass(frozen=True, slots=True)
class Considered:
    """A strategy that was weighed."""

    strategy: str
    passes: int
    """JVPs or VJPs that it takes."""
    price: float
    """Estimated cost of one pass, relative to one evaluation of the function."""
    verdict: str
    """Why it was chosen, or why not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a derivative is computed. ``print(plan)`` explains it."""

    strategy: str
    """``"forward"``, ``"reverse"``, the same coloured, ``"bicoloured"``, ``"star-coloured"``, ``"batch"``, ``"single pass"`` or ``"empty"``."""
    passes: int
    """JVPs or VJPs in all: final."""
    tile: int
    """Seeds per tile: where the service tunes it, the first guess."""
    tiles: int
    workers: int
    """Workers that the tiles are spread over."""
    nbytes: int
    """Size of the result in bytes."""
    seconds: float | None
    """Estimated computing time in seconds, summed over workers; None where it is not known."""
    considered: tuple[Considered, ...] = ()
    """The strategies that were weighed, the chosen one first."""

    def __str__(self) -> str:
        lines = [
            f"strategy  {self.strategy}",
            f"passes    {self.passes:,}" + (f" in {self.tiles:,} tiles of {self.tile:,}" if self.tiles > 1 else ""),
            f"workers   {self.workers:,}",
            f"result    {in_bytes(self.nbytes)}",
        ]
        if self.seconds is not None:
            lines.append(f"compute   about {self.seconds:.2g} s, summed over workers (estimate)")
        for option in self.considered:
            price = f" at about {option.price:.2g} evaluations each" if option.price else ""
            passes = f"{option.passes:,} pass{'' if option.passes == 1 else 'es'}"
            lines.append(f"  {option.strategy}: {passes}{price}: {option.verdict}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Summary:
    """What computing a derivative took."""

    passes: int
    """JVPs or VJPs that were computed."""
    tiles: int
    retries: int
    """Tiles that were run again because a worker was lost."""
    workers: int
    """Workers that took part."""
    tile: int
    """Seeds per tile at the end; tuning may have changed it on the way."""
    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Seconds by stage: ``"plan"``, ``"compile"`` and ``"compute"`` (both summed over workers), ``"total"``."""


def plan_from_message(message: pb.Plan) -> Plan:
    """Returns the plan that a message holds."""
    considered = tuple(Considered(item.strategy, item.passes, item.price, item.verdict) for item in message.considered)
    return Plan(message.strategy, message.passes, message.tile, message.tiles, message.workers, message.nbytes, message.seconds or None, considered)


def summary_from_message(message: pb.Summary) -> Summary:
    """Returns the summary that a message holds."""
    seconds = MappingProxyType(dict(message.seconds))
    return Summary(message.passes, message.tiles, message.retries, message.workers, message.tile, seconds)


def in_bytes(count: int) -> str:
    """Returns a number of bytes as people write it."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024
    return f"{size:,.1f} TiB"
