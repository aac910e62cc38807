"""How large a graph may be. Every limit is checked before anything of that size is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jacloom_graph.errors import Fault, Place, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one graph. The defaults leave room for the largest models and keep a hostile graph from costing more than an honest one."""

    graph_bytes: int = 4 << 20
    """Serialized size. Constants named by digest are not part of it."""
    functions: int = 1_000
    """Functions stored."""
    rules: int = 1_000
    """Custom rules stored."""
    constants: int = 10_000
    """Constants stored, inline or by digest."""
    nodes: int = 20_000
    """Nodes stored, over all functions."""
    expanded_nodes: int = 50_000
    """Nodes of any one function when each call in it is replaced by what it calls. Compiling takes time and memory in proportion, or worse."""
    depth: int = 64
    """Functions in the longest chain of calls, the entry counted. Tracing recurses once for each."""
    values: int = 200_000
    """Inputs and node results, over all functions."""
    operands: int = 400_000
    """Operands of nodes and outputs of functions, over all functions."""
    references: int = 100_000
    """Attribute entries that name a function or a rule, over all nodes, and transposes, over all rules."""
    rank: int = 16
    """Axes of an array."""
    extent: int = (1 << 31) - 1
    """Greatest extent of one axis: indices on devices are 32 bits wide."""
    tree_nodes: int = 100_000
    """Containers and leaves of each of the two trees."""
    tree_depth: int = 64
    """Levels of each tree. Readers recurse once for each, and protobuf refuses more than 100 levels of messages."""

    def require(self, limit: str, got: int, *, place: Place | None = None) -> None:
        """Raises TOO_LARGE if a count is above the limit of that name, such as ``"nodes"``."""
        allowed: int = getattr(self, limit)
        if got > allowed:
            # Numbers can have thousands of digits: a chain of calls multiplies.
            shown = f"{got:,}" if got < 10**18 else "more than 10^18"
            advice = f"cut the function in parts, or have the service's limit `{limit}` raised"
            message = f"a graph may have at most {allowed:,} {limit.replace('_', ' ')}, got {shown}; {advice}"
            raise Fault(Reason.TOO_LARGE, message, place=place)


MOST_WIDTH: Final = 4096
"""Seeds of the widest tile."""

DEFAULT: Final = Limits()
"""The limits where none are configured."""
