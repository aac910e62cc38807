"""Functions that a service holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from jacloom._binding import Binding
from jacloom._cache import Recent
from jacloom._function import Function
from jacloom._signature import Signature
from jacloom._structure import PlainStructure
from jacloom_graph.types import Tree, Type


@dataclass(frozen=True, eq=False)
class RemoteFunction:
    """A function registered on a service: prepared once, evaluated many times. Its types are fixed; which arguments are differentiated is not."""

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

    def __str__(self) -> str:
        shown = f"{self.display_name} " if self.display_name else ""
        return f"{shown}functions/{self.id[:12]}…: ({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))})"
