"""Functions that a service holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jacloom._binding import Binding
from jacloom._cache import Recent
from jacloom._deadline import Deadline
from jacloom._derivatives import Derivatives, input_paths
from jacloom._errors import ClientStateError
from jacloom._function import Function
from jacloom._outline import arrow
from jacloom._signature import Signature
from jacloom._structure import PlainStructure
from jacloom_graph.types import Tree, Type


@dataclass(frozen=True, eq=False)
class RemoteFunction:
    """A function registered on a service: prepared once, evaluated many times. Its types are fixed; which arguments are differentiated is not.

    ``print`` it for its id and the types of its leaves.
    """

    id: str
    """64 hex digits."""
    display_name: str
    """For people; need not be unique."""
    inputs: tuple[Type, ...]
    """Types of the input leaves."""
    outputs: tuple[Type, ...]
    """Types of the output leaves, as the service inferred them."""
    in_tree: Tree
    """Structure of the arguments."""
    out_tree: Tree
    """Structure of the result."""
    nodes: int
    """Nodes of the graph."""
    created: str = ""
    """When it was registered, as ISO 8601 in UTC."""
    function: Function | None = field(default=None, repr=False)
    """The graph, where this process has it."""
    bindings: Recent[Binding] = field(default_factory=Recent, repr=False)
    ask: Callable[[RemoteFunction, Deadline], Derivatives] | None = field(default=None, repr=False)
    """Asks the service that the function came from for its derivatives; None in another process."""
    told: list[Derivatives] = field(default_factory=list, init=False, repr=False)
    """What the service has answered, once it was asked."""

    @property
    def name(self) -> str:
        """Resource name, ``functions/<id>``."""
        return f"functions/{self.id}"

    @cached_property
    def signature(self) -> Signature:
        """What calls need to know."""
        local = self.function.signature if self.function is not None else None
        if local is not None:
            return local
        arguments, result = PlainStructure(self.in_tree), PlainStructure(self.out_tree)
        return Signature(self.id, self.inputs, self.outputs, arguments, result, label=self.display_name or "f")

    def derivatives(self, *, timeout: float | None = None) -> Derivatives:
        """Returns in which modes the function can be differentiated with respect to each of its leaves. ``print`` it.

        The service is asked once, which takes it a few traces of the function's derivatives; nothing is compiled or computed.

        Args:
            timeout: Seconds until ``jl.DeadlineExceeded`` is raised. Default: 120 for each request.

        Raises:
            ClientStateError: if the function was pickled before it was asked, or its client is closed.
            JacloomError: if the service cannot be reached, or no longer holds the function.
        """
        deadline = Deadline(timeout)
        if not self.told:
            if self.ask is None:
                raise ClientStateError(
                    f"functions/{self.id} came here without its client, so there is no service to ask: get it from one with client.function(id)"
                )
            self.told.append(self.ask(self, deadline))
        return self.told[0]

    def __getstate__(self) -> dict[str, Any]:
        # A connection belongs to its process, and so does what calls have remembered of their arguments' types.
        return {name: value for name, value in self.__dict__.items() if name not in ("ask", "bindings", "signature")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, ask=None, bindings=Recent())

    def __repr__(self) -> str:
        shown = f"{self.display_name} " if self.display_name else ""
        return f"<jacloom.RemoteFunction {shown}{self.id[:12]}: {arrow(self.inputs, self.outputs)}>"

    def __str__(self) -> str:
        signature = self.signature
        paths = [*input_paths(signature), *signature.result.paths("out")]
        leaves = list(zip(paths, (*signature.inputs, *signature.outputs), strict=True))
        width = max((len(path) for path, _ in leaves), default=0)
        lines = [f"{path:<{width}}  {type_}" for path, type_ in leaves]
        since = f", registered {self.created}" if self.created else ""
        return "\n".join([f"{self.display_name or 'f'}: {self.nodes:,} node{'' if self.nodes == 1 else 's'}{since}", self.name, *lines])
