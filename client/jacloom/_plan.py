"""What the service intends to do, and what it did."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from jacloom._errors import ClientStateError, OptionError
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
    """A strategy that was weighed.

    Attributes:
        strategy: As ``Plan.strategy``; of second derivatives also ``"forward over reverse"`` or ``"forward over forward"``, and ``"coloured"`` for
            what was not looked at.
        passes: JVPs or VJPs that it takes; None where they were not counted.
        price: Estimated cost of one pass, in evaluations of the function; None where it is not known, or an evaluation costs nothing.
            ``price * passes`` is that of all.
        verdict: Why it was chosen, or why not.
    """

    strategy: str
    passes: int | None
    price: float | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How a derivative is computed. ``print(plan)`` explains it.

    Attributes:
        strategy: ``"forward"``, ``"reverse"``, the same coloured, ``"bicoloured"``, ``"star-coloured"``, ``"batch"``, ``"single pass"`` or
            ``"empty"``.
        passes: JVPs and VJPs in all: final.
        tile: Seeds per tile, which is what a worker computes at a time: where the service tunes it, the first guess.
        tiles: How many tiles that makes.
        workers: Workers that the tiles are spread over.
        nbytes: Size of the result in bytes; of a sparse one that of the entries that are computed.
        seconds: Estimated computing time in seconds, summed over workers; None where it is not known.
        considered: The strategies that were weighed, the chosen one first.
        forward: How many of the passes are JVPs, each of one column or of those of one colour; the others are VJPs, of rows.
        given: Whether the pattern is one that was passed as ``sparsity``. A plan takes it as it is: it is held against the function only when the
            derivative is computed, and refused there if an entry is missing.
    """

    strategy: str
    passes: int
    tile: int
    tiles: int
    workers: int
    nbytes: int
    seconds: float | None
    considered: tuple[Considered, ...] = ()
    forward: int = 0
    given: bool = False
    # Asks the service that the plan came from for the pattern, given a limit in seconds; None in another process.
    _ask: Callable[[float | None], Structure] | None = field(default=None, compare=False, repr=False, kw_only=True)

    def pattern(self, *, timeout: float | None = None) -> sparse.csr_array:
        """Returns which entries of the derivative may differ from zero, as a boolean ``scipy.sparse.csr_array`` of the derivative's shape.

        Rows are the entries of all output leaves one after the other, each in C order, columns those of all leaves that are differentiated; of a
        Hessian both are the latter. ``sparsity=`` takes it, for this function and for others. The service finds it if it does not know it yet, also
        where the plan makes no use of it; no pass is computed. Where a pattern was passed as ``sparsity``, it is that one, of a Hessian with its
        mirror image, and nobody has compared it with the function.

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
        except OptionError as error:
            raise OptionError(f"`plan.{call}`: {error.message}") from None

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
        if self.given:
            lines.append("pattern   as given: compared with the function when the derivative is computed, and not here")
        if self.considered:
            lines += ["", *_table(self.considered)]
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


def _table(considered: Sequence[Considered]) -> list[str]:
    if all(option.price is None for option in considered):
        rows = [[option.strategy, _passes(option), option.verdict] for option in considered]
        return aligned([[*_HEAD[:2], _HEAD[-1]], *rows], right=frozenset({1}))
    return [*aligned([_HEAD, *map(_row, considered)], right=frozenset({1, 2, 3})), _PRICES]


def _row(option: Considered) -> list[str]:
    each = "" if option.price is None else f"{option.price:.2g}"
    total = "" if option.price is None or option.passes is None else _rounded(option.price * option.passes)
    return [option.strategy, _passes(option), each, total, option.verdict]


def _passes(option: Considered) -> str:
    return "" if option.passes is None else f"{option.passes:,}"


def _counted(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _rounded(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.2g}"


@dataclass(frozen=True, slots=True)
class Summary:
    """What computing a derivative took.

    Attributes:
        passes: JVPs and VJPs that were computed, those of ``repairs`` left out.
        tiles: Tiles that they came in.
        retries: Tiles that were run again because a worker was lost.
        workers: Workers that took part.
        tile: Seeds per tile at the end; tuning may have changed it on the way.
        seconds: Seconds by stage: ``"plan"``, ``"compile"`` and ``"compute"`` (both summed over workers), ``"total"``.
        repairs: Passes computed besides, because entries came out as NaN and other columns (or rows) of their colour may have made them so.
        doubtful: Entries of which that is still unknown: they are NaN, and were not computed alone because that would have taken too many passes.
            With ``sparsity="dense"`` each entry is by itself.
    """

    passes: int
    tiles: int
    retries: int
    workers: int
    tile: int
    seconds: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    repairs: int = 0
    doubtful: int = 0


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
    passes = message.passes if message.HasField("passes") else None
    return Considered(message.strategy, passes, message.price if message.HasField("price") else None, verdict)


def summary_from_message(message: pb.Summary) -> Summary:
    """Returns the summary that a message holds."""
    seconds = MappingProxyType(dict(message.seconds))
    return Summary(
        message.passes, message.tiles, message.retries, message.workers, message.tile, seconds, repairs=message.repairs, doubtful=message.doubtful
    )


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
