"""The user's lines behind the nodes of a graph, and the error checks among them.

Functions that are equal become one in a graph's canonical form, which is what services speak of. Here they are as they were written, so that the
calls that lead to a node tell which of them is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from jacloom._trace.callers import At, callers, functions_of, lines
from jacloom._trace.source import nearest_line, user_line
from jacloom_graph.errors import Place
from jacloom_graph.types import Graph

_MOST_LINES = 3
"""Of a node that is reached from more lines, so many are named."""


@dataclass(frozen=True)
class Lines:
    """What only the process that traced a function knows of its graph."""

    written: Graph
    """The graph before equal functions became one."""
    numbers: Sequence[int | None]
    """The number of each of its functions in the canonical graph; None if the entry does not reach it. Nodes keep their numbers."""
    sources: Sequence[Sequence[Any]]
    """JAX's source information of each node of each of its functions."""
    checks: Mapping[int, str]
    """Which of its functions stand for error checks that fail, and what they say; empty where that is not known."""
    home: str | None = None
    """Where the traced function begins: of what is called nowhere within it, as it is the function itself, that is the only line there is."""

    def line(self, place: Place, calls: Sequence[Place] = ()) -> str | None:
        """Returns the user's line ``"file:line (function)"`` that a node came from, or None if it is not known.

        Where there is none of the user's, it is a line of an installed package, or else the line where the traced function begins. Of a node within
        a function of JAX's own or of a package, which is traced once for all that call it, it is the line of the call. Of several calls it is that
        on the way, if the way is known, else each of them.

        Args:
            place: The node, in the canonical graph.
            calls: The calls, loops and branches that lead to it, the outermost first. Default: not known.
        """
        way = self._way([*calls, place]) if calls else []
        for line_of in (user_line, nearest_line):
            found = next(filter(None, (self._own(at, line_of) for at in reversed(way))), None) if way else self._lines(place, line_of)
            if found:
                return found
        return self.home if place.function in self.numbers else None

    def check(self, calls: Sequence[Place]) -> str | None:
        """Returns what the error check says that the last of some nodes, each of which leads to the next, belongs to; None if it belongs to none."""
        way = self._way(calls)
        if not way:
            return None
        function, node = way[-1]
        # A branch that fails may return a constant; then the last node is the choice between branches.
        last = functions_of(self.written, self.written.functions[function].nodes[node])
        return next((self.checks[number] for number in [*(at[0] for at in way), *last] if number in self.checks), None)

    def notes(self) -> Iterator[str]:
        """Yields for people where error checks were, each once."""
        found: dict[str, dict[str, None]] = {}
        for function, text in self.checks.items():
            if self.numbers[function] is not None:
                found.setdefault(_either(lines(function, self._callers, self._line_by(user_line))), {})[text] = None
        for where, texts in found.items():
            said = "; ".join(filter(None, texts))
            yield f"an error check was replaced{where and f' at {where}'}: where it would have raised{said and f' ({said})'}, the result is NaN"

    def _way(self, calls: Sequence[Place]) -> list[At]:
        """Returns nodes of which each leads to the next as they were written, or nothing if they do not lead from the entry to the last."""
        function, way = 0, []
        for place, following in pairwise([*calls, None]):
            assert place is not None
            nodes = self.written.functions[function].nodes
            if self.numbers[function] != place.function or place.node is None or place.node >= len(nodes):
                return []
            way.append((function, place.node))
            if following is not None:
                inner = (each for each in functions_of(self.written, nodes[place.node]) if self.numbers[each] == following.function)
                function = next(inner, function)
        return way

    def _lines(self, place: Place, line_of: Callable[[Any], str | None]) -> str:
        """Returns the lines of a node, however it is reached."""
        found: dict[str, None] = {}
        for function in (old for old, new in enumerate(self.numbers) if new == place.function):
            own = self._own((function, place.node), line_of) if place.node is not None and place.node < len(self.sources[function]) else None
            found.update(dict.fromkeys([own] if own else lines(function, self._callers, self._line_by(line_of))))
        return _either(list(found))

    def _own(self, at: At, line_of: Callable[[Any], str | None]) -> str | None:
        return line_of(self.sources[at[0]][at[1]])

    def _line_by(self, line_of: Callable[[Any], str | None]) -> Callable[[At], str | None]:
        return lambda at: self._own(at, line_of)

    @cached_property
    def _callers(self) -> Mapping[int, Sequence[At]]:
        return callers(self.written)


def _either(found: Sequence[str]) -> str:
    return " or ".join([*found[:_MOST_LINES], *(["elsewhere"] if len(found) > _MOST_LINES else [])])
