"""Which functions of a graph call which, how deep, and how large each is with its calls expanded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jacloom_graph.errors import Fault, Place, Reason

_MANY = 10**18


@dataclass(frozen=True, slots=True)
class Expansion:
    """What evaluating a function amounts to."""

    nodes: int
    """Nodes when each call is replaced by what it calls. Stops counting at 10^18: a chain of calls can multiply to numbers of thousands of digits."""
    depth: int
    """Functions in the longest chain of calls, this one counted."""


def expand(calls: Sequence[Sequence[int]], nodes: Sequence[int]) -> list[Expansion]:
    """Returns the expansion of each function, given the functions that it calls (once per call) and its own number of nodes.

    Raises:
        Fault: INVALID_GRAPH if functions call each other in a cycle.
    """
    done: dict[int, Expansion] = {}
    for root in range(len(calls)):
        path = {root: iter(calls[root])}
        while path:
            function, rest = next(reversed(path.items()))
            callee = next((callee for callee in rest if callee not in done), None)
            if callee is None:
                below = [done[callee] for callee in calls[function]]
                total = min(_MANY, nodes[function] + sum(each.nodes for each in below))
                done[function] = Expansion(total, 1 + max((each.depth for each in below), default=0))
                del path[function]
            elif callee in path:
                members = list(path)
                raise _cycle([*members[members.index(callee) :], callee])
            else:
                path[callee] = iter(calls[callee])
    return [done[function] for function in range(len(calls))]


def _cycle(members: list[int]) -> Fault:
    shown = [*map(str, members[:8]), "..."] if len(members) > 9 else map(str, members)
    message = f"functions must not call each other in a cycle, but {' -> '.join(shown)} do; only derivatives of rules may point back"
    return Fault(Reason.INVALID_GRAPH, message, place=Place(members[0]))
