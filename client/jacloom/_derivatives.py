"""In which modes a function can be differentiated, leaf by leaf, and how that is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from jacloom._binding import argument_paths
from jacloom._errors import ProtocolError
from jacloom._function import Function, from_here
from jacloom._signature import Signature, inexact
from jacloom._table import aligned
from jacloom_api.v1 import function_service_pb2 as pb
from jacloom_graph.errors import Place
from jacloom_graph.types import Type

_STATES: Mapping[int, bool] = {pb.Availability.AVAILABLE: True, pb.Availability.UNAVAILABLE: False}


@dataclass(frozen=True, slots=True)
class ModeSupport:
    """Whether there is a derivative in one mode."""

    available: bool | None
    """None: not known; ``reason`` says why."""
    reason: str = ""
    """Why there is none. Empty where there is one."""
    source: str | None = None
    """The user's ``"file:line (function)"`` where it was refused; None where there is no such place, or it was not traced in this process."""
    place: Place | None = None
    """The same in the graph."""

    def in_doubt(self) -> ModeSupport:
        """Returns what is known where a refusal may have another reason than the leaf itself."""
        return self if self.available else replace(self, available=None, reason=f"refused together with other leaves: {self.reason}")

    @property
    def word(self) -> str:
        """``"yes"``, ``"no"`` or ``"?"``."""
        return "?" if self.available is None else "yes" if self.available else "no"

    def __str__(self) -> str:
        return self.word if self.available else f"{self.word}: {self.why}"

    @property
    def why(self) -> str:
        """The reason with its place, as precisely as it is known here."""
        where = self.place if self.source is None else from_here(self.source)
        return f"{self.reason} (at {where})" if where is not None else self.reason


@dataclass(frozen=True, slots=True)
class LeafDerivatives:
    """In which modes a function can be differentiated with respect to one of its input leaves by itself."""

    path: str
    """How the leaf is reached, such as ``"args[0]['w']"``."""
    type: Type
    forward: ModeSupport
    """JVPs, and with them columns of the Jacobian."""
    reverse: ModeSupport
    """VJPs, and with them rows of the Jacobian and gradients."""

    def in_doubt(self) -> LeafDerivatives:
        """Returns the same with what was refused not known: the leaf may have been refused only because others were perturbed as well."""
        return replace(self, forward=self.forward.in_doubt(), reverse=self.reverse.in_doubt())


@dataclass(frozen=True)
class Derivatives(Mapping[str, LeafDerivatives]):
    """In which modes a function can be differentiated, by the paths of its input leaves. ``print`` it.

    All outputs that have derivatives are differentiated together.

    Example:
        >>> client.register(lambda x, n: x * n, np.zeros(3), np.arange(3)).derivatives()["args[1]"].forward.reason
        'no derivative: int64'
    """

    inputs: tuple[LeafDerivatives, ...]
    """One per input leaf, in order."""
    outputs: tuple[str, ...]
    """Paths of the outputs that have derivatives, such as ``"out['y']"``."""
    without: tuple[str, ...] = ()
    """Paths of the other outputs."""

    def __getitem__(self, path: str) -> LeafDerivatives:
        for leaf in self.inputs:
            if leaf.path == path:
                return leaf
        raise KeyError(path)

    def __iter__(self) -> Iterator[str]:
        return (leaf.path for leaf in self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)

    def table(self) -> tuple[list[list[str]], list[str]]:
        """Returns rows of path, type, forward and reverse, and the notes that they refer to: leaves mostly share their reasons."""
        notes: dict[str, int] = {}

        def cell(mode: ModeSupport) -> str:
            return mode.word if mode.available else f"{mode.word} [{notes.setdefault(mode.why, len(notes) + 1)}]"

        rows = [[leaf.path, str(leaf.type), cell(leaf.forward), cell(leaf.reverse)] for leaf in self.inputs]
        lines = [f"[{number}] {text}" for text, number in notes.items()]
        if self.without:
            lines.append(f"outputs without derivatives: {', '.join(self.without)}")
        return rows, lines

    def __str__(self) -> str:
        rows, notes = self.table()
        return "\n".join([*aligned([["leaf", "type", "forward", "reverse"], *rows]), *notes])


def from_message(message: pb.DescribeDerivativesReply, signature: Signature, function: Function | None) -> Derivatives:
    """Returns the derivatives that a message tells of, in the user's terms.

    Args:
        message: The service's answer.
        signature: Of the function.
        function: The function itself, where this process has it.

    Raises:
        ProtocolError: if the message does not fit the function.
    """
    outputs = tuple(signature.result.paths("out"))
    if len(message.inputs) != len(signature.inputs) or not set(message.outputs) <= set(range(len(outputs))):
        raise ProtocolError(
            f"the service told of the derivatives of another function than {signature.name[:22]}…; use the same version on both sides"
        )
    leaves = [
        LeafDerivatives(path, type_, _mode(entry.forward, function), _mode(entry.reverse, function))
        for path, type_, entry in zip(input_paths(signature), signature.inputs, message.inputs, strict=True)
    ]
    missing = [path for leaf, path in enumerate(outputs) if leaf not in message.outputs]
    return Derivatives(tuple(leaves), tuple(outputs[leaf] for leaf in message.outputs), tuple(missing))


def input_paths(signature: Signature) -> Sequence[str]:
    """Returns how each input is reached from the arguments; fixed ones are none."""
    paths = argument_paths(signature.arguments, signature.keywords)
    return [path for at, path in enumerate(paths) if at not in signature.fixed]


def refused_altogether(message: pb.DescribeDerivativesReply, signature: Signature) -> list[int]:
    """Returns the inputs that have derivatives by their type, and in neither mode by the function."""
    return [
        leaf
        for leaf, entry in enumerate(message.inputs)
        if inexact(signature.inputs[leaf]) and pb.Availability.AVAILABLE not in (entry.forward.state, entry.reverse.state)
    ]


def _mode(message: pb.Availability, function: Function | None) -> ModeSupport:
    place = Place(message.place.function, message.place.node, message.place.op) if message.HasField("place") else None
    source = function.source(place) if function is not None and place is not None else None
    return ModeSupport(_STATES.get(message.state), message.reason, source, place)
