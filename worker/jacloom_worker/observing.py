"""A graph evaluated node by node on concrete values, each of them looked at: the slow way, for finding out where numbers go wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, Final

from jacloom_graph.errors import Place
from jacloom_graph.ops import TABLE
from jacloom_graph.types import Node
from jacloom_worker.liveness import Liveness, liveness
from jacloom_worker.nodewise import Apply, moved, steepness
from jacloom_worker.origins import NONE, Origin, Sort, amount, census, chosen, extent, inherited
from jacloom_worker.protocol import NonFinite
from jacloom_worker.raising import Frame, Program
from jacloom_worker.watched import Watched, local, part, stack

MOST_NODES: Final = 10_000
"""Node evaluations after which loops are no longer watched; each takes about a millisecond."""


_GONE: Final = Watched(None)
"""Stands for a value that nothing needs, so that its memory is free."""


class Observer(Frame):
    """Evaluates a program's functions. Calls, branches and loops are entered; of custom rules the function is, for its value, and the rule is not.

    What the outputs do not depend on is not evaluated.

    Attributes:
        steep: Where ``probing``: the origin of the first derivative of a node by itself that is not finite, whatever became of it later, as long as
            outputs depend on that node with a derivative.
        unwatched: The first loop that was not watched to its end, and its iterations that were.
    """

    def __init__(self, program: Program, *, probing: bool = False, most: int = MOST_NODES) -> None:
        """Prepares an evaluation.

        Args:
            program: The program.
            probing: Differentiate every node on the way by itself as well.
            most: Node evaluations after which loops are evaluated as a whole.
        """
        super().__init__(program, program.large, program.frame(program.large)._constants, reverse=False)
        self._probing = probing
        self._most = most
        self._spent = 0
        self._iterations: tuple[int, ...] = ()
        self._calls: tuple[Place, ...] = ()
        self._censuses: dict[int, dict[Sort, int]] = {}
        self._lives: dict[int, Liveness] = {}
        self.steep: NonFinite | None = None
        self.unwatched: tuple[Place, int] | None = None

    def enter(self, leaf: int, value: Any, tangent: Any = None) -> Watched:
        """Returns an input leaf as it comes in."""
        found, size = census(value), value.size
        origins = {sort: Origin(-1, NonFinite(sort.kind, amount(found, sort), size, input=leaf)) for sort in found}
        return Watched(value, tangent, origins)

    def watch(self, number: int, args: Sequence[Watched]) -> list[Watched]:
        """Returns the results of a function."""
        function, known = self.graph.functions[number], self._liveness(number)
        values, probing = list(args), self._probing

        def at(operand: int) -> Watched:
            return values[operand] if operand >= 0 else self._constant(-1 - operand)

        for index, node in enumerate(function.nodes):
            if index in known.live:
                self._probing = probing and index in known.smooth
                place = Place(number, index, node.op)
                with self._within(place):
                    values += self._node(node, list(map(at, node.operands)), place)
            else:
                values += [_GONE] * node.result_count
            for value in known.done.get(index, ()):
                values[value] = _GONE
        self._probing = probing
        return list(map(at, function.outputs))

    def _liveness(self, number: int) -> Liveness:
        if number not in self._lives:
            self._lives[number] = liveness(self.graph.functions[number])
        return self._lives[number]

    def _node(self, node: Node, operands: list[Watched], place: Place) -> list[Watched]:
        match node.op:
            case "call" | "checkpoint":
                return self.watch(_attr(node, "function"), operands)
            case "custom_call":
                inside = self.watch(self.graph.rules[_attr(node, "rule")].function, [replace(each, tangent=None, slopes=NONE) for each in operands])
                moving = any(each.tangent is not None for each in operands)
                return self._outcome(node, operands, place, inside=inside) if moving else inside
            case "switch":
                branches = _attr(node, "branches")
                return self.watch(branches[min(max(int(operands[0].value), 0), len(branches) - 1)], operands[1:])
            case "scan":
                return self._scan(node, operands, place)
            case "while":
                return self._while(node, operands, place)
            case _:
                return self._outcome(node, operands, place)

    def _scan(self, node: Node, operands: list[Watched], place: Place) -> list[Watched]:
        first, last, length = _attr(node, "num_consts"), _attr(node, "num_consts") + _attr(node, "num_carry"), _attr(node, "length")
        constants, carry, arrays = operands[:first], operands[first:last], list(map(local, operands[last:]))
        rows: list[list[Watched]] = []
        for iteration, at in enumerate(reversed(range(length)) if _attr(node, "reverse") else range(length)):
            if self._tired(place, iteration):
                return self._outcome(node, operands, place, seen=[*carry, *chain(*rows)])
            with self._iteration(iteration):
                results = self.watch(_attr(node, "function"), [*constants, *carry, *(part(array, at) for array in arrays)])
            carry = results[: len(carry)]
            rows.append(results[len(carry) :])
        if not rows:
            return self._outcome(node, operands, place)
        return [*carry, *(stack(column) for column in zip(*(reversed(rows) if _attr(node, "reverse") else rows), strict=True))]

    def _while(self, node: Node, operands: list[Watched], place: Place) -> list[Watched]:
        first, last = _attr(node, "cond_consts"), _attr(node, "cond_consts") + _attr(node, "body_consts")
        of_test, of_body, carry = operands[:first], operands[first:last], operands[last:]
        iteration = 0
        while not self._tired(place, iteration):
            with self._iteration(iteration):
                (going,) = self.watch(_attr(node, "cond"), [*of_test, *carry])
                if going.value.shape:
                    # A batch of loops in one, each of which ends by itself.
                    break
                if not going.value:
                    return carry
                carry = self.watch(_attr(node, "body"), [*of_body, *carry])
            iteration += 1
        return self._outcome(node, operands, place, seen=carry)

    def _tired(self, place: Place, iteration: int) -> bool:
        """Returns whether a loop had better go on unwatched."""
        if self._spent < self._most:
            return False
        self.unwatched = self.unwatched or (place, iteration)
        return True

    @contextmanager
    def _within(self, place: Place) -> Iterator[None]:
        around = self._calls
        self._calls = (*around, place)
        try:
            yield
        finally:
            self._calls = around

    @contextmanager
    def _iteration(self, number: int) -> Iterator[None]:
        around = self._iterations
        self._iterations = (*around, number)
        try:
            yield
        finally:
            self._iterations = around

    def _outcome(
        self, node: Node, operands: list[Watched], place: Place, *, inside: Sequence[Watched] | None = None, seen: Sequence[Watched] = ()
    ) -> list[Watched]:
        """Returns the results of a node that is evaluated as a whole, with their origins.

        Args:
            node: The node.
            operands: Its operands.
            place: Its place.
            inside: Its results as they were found by entering it, where that is not how its derivative is found.
            seen: What it came to before it was left to itself, whose origins are as good as its operands'.
        """
        order = self._spent
        self._spent += 1
        apply = lambda values: self._evaluate(node, list(values), place)  # noqa: E731
        values, tangents = moved(apply, operands)
        if self._probing and self.steep is None:
            self._probe(apply, node, operands, place)
        known = [*operands, *seen]
        outcome = []
        for result, (value, tangent) in enumerate(zip(values, tangents, strict=True)):
            if inside is not None:
                value, origins = inside[result].value, inside[result].origins
            else:
                found = census(value)
                origins = inherited(found, (each.origins for each in known), self._begun(found, value.size, node, operands, place, order, result))
            slopes = NONE
            if tangent is not None:
                found = census(tangent)
                sources = [origins, *(each.slopes for each in known), *(each.origins for each in known)]
                slopes = inherited(found, sources, self._begun(found, tangent.size, node, operands, place, order, result))
            outcome.append(Watched(value, tangent, origins, slopes))
        return outcome

    def _probe(self, apply: Apply, node: Node, operands: list[Watched], place: Place) -> None:
        """Notes where it comes from that a node's derivative along ones is not finite, if it is not."""
        known = [each.origins for each in operands]
        for result, slope in steepness(apply, operands):
            found = census(slope)
            self.steep = self.steep or chosen([inherited(found, known, self._begun(found, slope.size, node, operands, place, self._spent, result))])

    def _begun(self, found: dict[Sort, int], size: int, node: Node, operands: list[Watched], place: Place, order: int, result: int) -> Any:
        """Returns what makes the origin of something that begins at a node."""

        def begun(sort: Sort, cause: NonFinite | None) -> Origin:
            ranges = tuple(extent(each.value) for each in operands)
            return Origin(
                order,
                NonFinite(
                    sort.kind,
                    amount(found, sort),
                    size,
                    place,
                    result=result,
                    iterations=self._iterations,
                    operands=ranges,
                    cause=cause,
                    calls=self._calls[:-1],
                ),
            )

        return begun

    def _constant(self, number: int) -> Watched:
        """Returns a constant as it comes in with the node at hand."""
        value = self._constants[number]
        if number not in self._censuses:
            self._censuses[number] = census(value)
        found = self._censuses[number]
        # What is not finite in it begins where it is used: a check that fails because of an earlier NaN must not be taken for its origin.
        origins = {
            sort: Origin(self._spent, NonFinite(sort.kind, amount(found, sort), value.size, constant=number, calls=self._calls)) for sort in found
        }
        return Watched(value, None, origins)


def _attr(node: Node, name: str) -> Any:
    return node.attrs.get(name, TABLE[node.op].specs[name].default)
