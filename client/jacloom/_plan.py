"""What the service intends to do, and what it did."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jacloom._errors import ClientStateError
from jacloom._function import from_here
from jacloom._table import aligned
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph.errors import Place

if TYPE_CHECKING:
    from scipy import sparse  # loaded where it is needed: importing it takes longer than all the rest

    from jacloom._function import Function
    from jacloom._sparsity import Structure


@dataclass(frozen=True, slots=True)
class Considered:
    """A strategy that was weighed."""

    strategy: str
    passes: int
    """JVPs or VJPs that it takes; 0 where they were not counted."""
    price: float
    """Estimated cost of one pass, relative to one evaluation of the function; 0 where it is not known."""
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
    forward: int = 0
    """How many of the passes are JVPs, each of one column or of those of one colour; the others are VJPs, of rows."""
    # Asks the service that the plan came from for the pattern, given a limit in seconds; None in another process.
    _ask: Callable[[float | None], Structure] | None = field(default=None, compare=False, repr=False, kw_only=True)

    def pattern(self, *, timeout: float | None = None) -> sparse.csr_array:
        """Returns which entries of the derivative may differ from zero, as a boolean ``scipy.sparse.csr_array`` of the derivative's shape.

        Rows are the entries of all output leaves one after the other, each in C order, columns those of all leaves that are differentiated; of a
        Hessian both are the latter. ``sparsity=`` takes it, for this function and for others. The service finds it if it does not know it yet, also
        where the plan makes no use of it; no pass is computed.

        Args:
            timeout: Seconds until ``jl.DeadlineExceeded`` is raised; default: no limit.

        Raises:
            ClientStateError: if the plan was not made by ``client.explain``, or its client is closed.
            OptionError: if it is of the Hessian of several outputs, which is no matrix.
            TooLargeError: if there are more entries than the service looks at.
        """
        return self._structure("pattern()", timeout).pattern()

    def spy(self, path: str | os.PathLike[str], *, timeout: float | None = None) -> None:
        """Draws the pattern as a PNG of at most about 1000 pixels a side, in which entries that one pass yields have one colour.

        Colours repeat after 21 passes. Where the plan makes no use of the pattern, they are those of the passes that would. Small patterns are
        enlarged, so that entries are squares; of large ones a pixel stands for a block of entries, and has the colour of one that is there. Needs
        Pillow: ``pip install 'jacloom[plot]'``.

        Args:
            path: Where to write it; ends with ``.png``.
            timeout: As for ``pattern``.

        Raises:
            MissingExtraError: if Pillow is not installed.
            OptionError: if the path has another ending; and as ``pattern``.
            ClientStateError: As ``pattern``.
            TooLargeError: As ``pattern``.
            OSError: if the file cannot be written.
        """
        from jacloom import _spy

        name = _spy.png(path)
        _spy.write(name, _spy.picture(self._structure(f"spy({os.fspath(path)!r})", timeout)))

    def _structure(self, call: str, timeout: float | None) -> Structure:
        if self._ask is None:
            raise ClientStateError(
                f"`plan.{call}` asks a service for the pattern, and only a plan that client.explain has returned in this process knows one"
            )
        try:
            return self._ask(timeout)
        except ClientStateError as error:
            raise ClientStateError(f"`plan.{call}` asks the service for the pattern, and {error.message} and another plan") from None

    def __str__(self) -> str:
        meaning = _MEANINGS.get(self.strategy)
        both = 0 < self.forward < self.passes
        kinds = f" ({_counted(self.forward, 'JVP')} and {_counted(self.passes - self.forward, 'VJP')})" if both else ""
        lines = [
            f"strategy  {self.strategy}" + (f": {meaning}" if meaning else ""),
            f"passes    {self.passes:,}{kinds}" + (f" in {self.tiles:,} tiles of {self.tile:,}" if self.tiles > 1 else ""),
            f"workers   {self.workers:,}",
            f"result    {in_bytes(self.nbytes)}",
        ]
        if self.seconds is not None:
            lines.append(f"compute   about {in_seconds(self.seconds)}, summed over workers (estimate)")
        if self.considered:
            lines += ["", *aligned([_HEAD, *map(_row, self.considered)], right=frozenset({1, 2, 3})), _PRICES]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        # The way to the service stays in its process.
        return type(self), tuple(getattr(self, item.name) for item in fields(self) if item.name != "_ask")


_MEANINGS = {
    "forward": "one JVP for each column",
    "reverse": "one VJP for each row",
    "coloured forward": "one JVP for all columns of a colour, which share no row; of a Hessian, a JVP of the gradient",
    "coloured reverse": "one VJP for all rows of a colour, which share no column",
    "bicoloured": "JVPs for columns and VJPs for rows, one for all of a colour",
    "star-coloured": "one JVP of the gradient for all columns of a colour, which mix no entries but those that symmetry tells twice",
    "empty": "nothing to compute",
}
_HEAD = ["considered", "passes", "each", "in all", "verdict"]
_PRICES = "(each, in all: what one pass and all of them cost, in evaluations of the function; estimates)"


def _row(option: Considered) -> list[str]:
    each, total = (f"{option.price:.2g}", _rounded(option.price * option.passes)) if option.price else ("", "")
    return [option.strategy, f"{option.passes:,}" if option.passes else "", each, total, option.verdict]


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _rounded(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.2g}"


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


def plan_from_message(message: pb.Plan, function: Function | None = None) -> Plan:
    """Returns the plan that a message holds; ``function``: the one that it is for, where this process has it."""
    return Plan(
        message.strategy,
        message.passes,
        message.tile,
        message.tiles,
        message.workers,
        message.nbytes,
        message.seconds or None,
        tuple(_considered(item, function) for item in message.considered),
        message.forward,
    )


def _considered(message: pb.Considered, function: Function | None) -> Considered:
    verdict = message.verdict
    if message.HasField("place"):
        place = Place(message.place.function, message.place.node, message.place.op)
        source = function.source(place) if function is not None else None
        verdict += f" (at {place if source is None else from_here(source)})"
    return Considered(message.strategy, message.passes, message.price, verdict)


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


def in_seconds(seconds: float) -> str:
    """Returns a duration as people write it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:,.{0 if seconds >= 100 * scale else 1}f} {unit}"
    return f"{seconds * 1e9:.1f} ns"
