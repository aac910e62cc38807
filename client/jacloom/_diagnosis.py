"""What is wrong with a function at a point, and how that is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from jacloom._binding import Binding
from jacloom_api.v1 import derivative_service_pb2 as pb
from jacloom_graph.answer import Selection
from jacloom_graph.errors import Place


@dataclass(frozen=True, slots=True)
class NonFinite:
    """Where a NaN or an Inf first came up."""

    kind: Literal["nan", "inf"]
    op: str
    """The operation that made it. Empty where it came in with an input or a constant, where an error check failed, or no operation can be named."""
    count: int
    """Entries of the array that are so."""
    size: int
    """Entries of the array."""
    source: str | None = None
    """The user's ``"file:line (function)"``, of a constant where it is used; None where the function was not traced in this process."""
    place: Place | None = None
    """The same in the graph."""
    path: str = ""
    """The input that it came in with, such as ``"args[0]['w']"``, or ``"a constant"``."""
    result: int = 0
    """Which result of the operation it is, where that has several."""
    iterations: tuple[int, ...] = ()
    """How often each loop around the operation had gone round before, the outermost loop first."""
    operands: tuple[tuple[float, float] | None, ...] = ()
    """Least and greatest finite entry of each operand, by absolute value of complex ones; None where there is none."""
    cause: NonFinite | None = None
    """Of a NaN that was made of an Inf: where that came from."""
    check: str | None = None
    """Where a library's error check failed, for which the service yields NaN: what it would have said, empty if that depends on values. Else None."""

    def __str__(self) -> str:
        what = "NaN" if self.kind == "nan" else "Inf"
        where = f"{_near(self.source)}" if self.source else f"{self.place}"
        if self.check is not None:
            return f"{what} because an error check failed{self._share()}, at {where}{f': {self.check}' if self.check else ''}"
        if self.path:
            return f"{what} already in {self.path}{self._share()}{f', used at {where}' if self.source or self.place else ''}"
        if not self.op:
            return f"{what}{self._share()}, but no operation makes one when they are computed one by one"
        text = f"{what} first in {self.op}{f' (result {self.result})' if self.result else ''}{self._share()}"
        text += f", at {where}"
        if self.iterations:
            text += f", in iteration {' of iteration '.join(map(str, reversed(self.iterations)))}"
        if any(self.operands):
            text += f"; {_ranges(self.operands)}"
        return f"{text}; made of: {self.cause}" if self.cause is not None else text

    def _share(self) -> str:
        return f", {self.count:,} of {self.size:,} entries" if self.size != 1 else ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with a function at a point: ``print`` it. Only what reaches the outputs counts; what became finite on the way is in order."""

    value: NonFinite | None
    """Where what is not finite in the outputs began; None if all of them are finite."""
    derivative: NonFinite | None
    """Where what is not finite in the derivative began; equal to ``value`` where that is the reason, None if all that was found is finite."""
    forward: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    """For each differentiated output, such as ``"out['loss']"``, whether its derivative along a fixed direction is finite; empty without such."""
    reverse: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    """For each differentiated input, such as ``"args[0]"``, whether the gradient of fixed weights of the outputs is finite; empty without such."""
    unused: tuple[str, ...] = ()
    """Inputs that no output depends on."""
    constant: tuple[str, ...] = ()
    """Differentiated inputs that outputs depend on, but only by operations without a derivative, such as ``floor`` and comparisons."""
    notes: tuple[str, ...] = ()
    """What could not be looked at, and why."""

    @property
    def ok(self) -> bool:
        """Whether everything that was computed is finite."""
        return self.value is None and self.derivative is None

    def __str__(self) -> str:
        lines = [f"value: {'finite' if self.value is None else self.value}", f"derivative: {self._derivative()}"]
        if self.derivative is not None:
            sides = (("forward", self.forward), ("reverse", self.reverse))
            lines += [f"  {mode}: {_verdict(found)}" for mode, found in sides if found]
        if self.unused:
            lines.append(f"nothing depends on: {', '.join(self.unused)}")
        if self.constant:
            lines.append(f"zero derivative, whatever the values: {', '.join(self.constant)}")
        return "\n".join([*lines, *self.notes])

    def _derivative(self) -> str:
        if self.derivative is not None:
            alike = self.value is not None and (self.derivative.cause or self.derivative) == (self.value.cause or self.value)
            return "not finite, for the same reason" if alike else str(self.derivative)
        if self.forward or self.reverse:
            return "finite"
        return "not available" if self.notes else "nothing to differentiate"


def from_message(message: pb.DiagnoseReply, binding: Binding, chosen: Selection) -> Diagnosis:
    """Returns the diagnosis that a message holds, in the user's terms."""
    outputs = binding.signature.result.paths("out")
    notes = [_unavailable(mode, verdict, binding) for mode, verdict in (("forward", message.forward), ("reverse", message.reverse))]
    if message.HasField("unwatched"):
        place = _place(message.unwatched)
        notes.append(f"the {place.op} loop at {_whereabouts(place, binding)} was looked into for {message.watched_iterations:,} iterations only")
    return Diagnosis(
        _non_finite(message.value, binding) if message.HasField("value") else None,
        _non_finite(message.derivative, binding) if message.HasField("derivative") else None,
        _finite(message.forward, chosen.outputs, outputs.__getitem__),
        _finite(message.reverse, chosen.wrt, binding.path),
        tuple(map(binding.path, message.unused)),
        tuple(map(binding.path, message.constant)),
        tuple(filter(None, notes)),
    )


def _non_finite(message: pb.NonFinite, binding: Binding) -> NonFinite:
    origin = message.WhichOneof("origin")
    calls = [*map(_place, message.calls)]
    check = binding.function.failed_check(calls) if origin == "constant" and calls and binding.function is not None else None
    path = binding.path(message.input) if origin == "input" else "a constant" if origin == "constant" and check is None else ""
    # A constant is nowhere itself: the last of the nodes that lead to it is the one that uses it.
    place = _place(message.place) if origin == "place" else calls.pop() if origin == "constant" and calls else None
    return NonFinite(
        kind="nan" if message.kind == pb.NonFinite.NOT_A_NUMBER else "inf",
        op=place.op if place is not None and origin == "place" else "",
        count=message.count,
        size=message.size,
        source=_source(place, binding, calls),
        place=place,
        path=path,
        result=message.result,
        iterations=tuple(message.iterations),
        operands=tuple((each.low, each.high) if each.HasField("low") else None for each in message.operands),
        cause=_non_finite(message.cause, binding) if message.HasField("cause") else None,
        check=check,
    )


def _finite(verdict: pb.Verdict, leaves: Sequence[int], path: Callable[[int], str]) -> Mapping[str, bool]:
    if verdict.state not in (pb.Verdict.FINITE, pb.Verdict.NOT_FINITE):
        return MappingProxyType({})
    return MappingProxyType({path(leaf): leaf not in verdict.leaves for leaf in leaves})


def _unavailable(mode: str, verdict: pb.Verdict, binding: Binding) -> str:
    if verdict.state != pb.Verdict.UNAVAILABLE:
        return ""
    where = f" (at {_whereabouts(_place(verdict.place), binding)})" if verdict.HasField("place") else ""
    return f"{mode} mode is not available: {verdict.reason}{where}"


def _place(message: pb.NodePlace) -> Place:
    return Place(message.function, message.node, message.op)


def _source(place: Place | None, binding: Binding, calls: Sequence[Place] = ()) -> str | None:
    return binding.function.source(place, calls) if place is not None and binding.function is not None else None


def _whereabouts(place: Place, binding: Binding) -> str:
    source = _source(place, binding)
    return str(place) if source is None else _near(source)


def _near(source: str) -> str:
    """Returns a source line with its file as one would name it from here."""
    here = os.path.join(os.getcwd(), "")
    return source.removeprefix(here)


def _ranges(operands: Sequence[tuple[float, float] | None]) -> str:
    """Returns the ranges of operands, those that several share once."""
    *most, last = dict.fromkeys(map(_range, operands))
    if most:
        return f"operands {', '.join(most)} and {last}"
    return f"operands {last} each" if len(operands) > 1 else f"operand {last}"


def _range(extent: tuple[float, float] | None) -> str:
    if extent is None:
        return "without finite numbers"
    low, high = extent
    return f"{low:.4g}" if low == high else f"from {low:.4g} to {high:.4g}"


def _verdict(found: Mapping[str, bool]) -> str:
    bad = [path for path, finite in found.items() if not finite]
    return f"not finite for {', '.join(bad)}" if bad else "finite"
