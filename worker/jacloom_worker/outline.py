"""The types of a program without most of the tracing: one node of each sort is evaluated, and stands for the others.

Abstract evaluation by JAX takes about 100 us a node, and large graphs are the same few steps over and over: a simulator of 10 000 nodes has some
hundred that differ in op, attributes or types of operands. Where only types are wanted, any value will do in place of another of its type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from jacloom_graph.errors import Place
from jacloom_graph.types import Node, Type
from jacloom_worker.infer import type_of
from jacloom_worker.raising import Frame, Program


class Outline(Program):
    """A program to be evaluated for its types. Its values mean nothing."""

    def framed(self, large: tuple[Any, ...], constants: Sequence[Any], reverse: bool) -> Frame:
        """Returns a frame that evaluates nodes of a sort once."""
        return _Outlined(self, large, constants, reverse)


class _Outlined(Frame):
    """A frame within one trace of JAX, whose values must not be seen by another: whatever is traced apart has a frame of its own."""

    def __init__(self, program: Program, large: tuple[Any, ...], constants: Sequence[Any], reverse: bool) -> None:
        super().__init__(program, large, constants, reverse)
        self._of_type: dict[Type, Any] = {}
        self._known: dict[object, list[Any]] = {}

    def run(self, number: int, args: Sequence[Any]) -> list[Any]:
        return super().run(number, [self._stand_in(arg) for arg in args])

    def callable(self, number: int) -> Callable[..., list[Any]]:
        return lambda *args: self.apart(self._large).run(number, args)

    def _evaluate(self, node: Node, operands: list[Any], place: Place) -> list[Any]:
        # Values stand for their types; constants for themselves, as some ops look at them. Both live as long as the frame, so ids are good keys.
        # Attributes count with their types, because 1, 1.0 and True are equal.
        key = (node.op, *((name, value, type(value)) for name, value in node.attrs.items()), *map(id, operands))
        results = self._known.get(key)
        if results is None:
            results = self._known[key] = [self._stand_in(result) for result in super()._evaluate(node, operands, place)]
        return results

    def _stand_in(self, value: Any) -> Any:
        """Returns the first traced value of the same type that this frame has met; a constant stays what it is."""
        return self._of_type.setdefault(type_of(value), value) if isinstance(value, jax.core.Tracer) else value
