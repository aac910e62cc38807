"""Sparsity structures that were found, each asked for once and kept while there is room."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import ray

from jacloom_graph.errors import Fault, Reason
from jacloom_graph.types import Type
from jacloom_server import work
from jacloom_server.detached import detached
from jacloom_server.function import Function
from jacloom_server.pool import Pool
from jacloom_worker.launch import INLINE_BYTES, Operand
from jacloom_worker.protocol import Dense, Kernel, Part, Prices, Structure, Task

MOST_BYTES: Final = 1 << 30
"""Bytes of all structures kept, in shared memory."""
_MOST: Final = 1024
_DISPENSABLE: Final = frozenset({Reason.INTERNAL, Reason.OUT_OF_MEMORY, Reason.TOO_LARGE, Reason.TOO_SLOW, Reason.POISONED})
"""Faults of looking for a pattern. Others are the derivative's own, or that of the moment."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Search:
    """A search for the structure of a derivative. Equal ones find the same."""

    kernel: Kernel
    """The tile kernel of the derivative, its width left open."""
    prices: Prices
    most: int
    """Entries that are too many."""
    given: str = ""
    """Digest of the pattern that the caller gave, if any."""
    needed: bool = False
    """Whether there is no derivative without it."""


class Structures:
    """What is known of the sparsity of functions."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._found: OrderedDict[Search, Structure | Dense | asyncio.Task[Structure | Dense]] = OrderedDict()
        self._operands: dict[str, tuple[tuple[Operand, ...], ...]] = {}

    async def find(self, pool: Pool, function: Function, search: Search, given: tuple[Operand, ...] = ()) -> Structure | Dense:
        """Returns a structure; a worker finds it when it is first asked for.

        Args:
            pool: Where workers are.
            function: Whose derivative it is.
            search: What is looked for.
            given: Row pointers and column indices of the caller's pattern, if there is one.

        Raises:
            Fault: What keeps the worker from answering.
        """
        search = self._alike(search)
        known = self._found.get(search)
        if known is None:
            known = self._found[search] = detached(self._ask(pool, function, search, given or self._pattern(search)))
        if isinstance(known, asyncio.Task):
            return await asyncio.shield(known)
        self._found.move_to_end(search)
        return known

    def _alike(self, search: Search) -> Search:
        """Returns a search that was made before and found the same, as far as prices that hardly differ go; else the search itself."""
        if search in self._found:
            return search
        return next((other for other in self._others(search) if other.prices.near(search.prices)), search)

    def _pattern(self, search: Search) -> tuple[Operand, ...]:
        """Returns the pattern that was found for other prices: it is coloured once more, and not looked for. Nothing if there is none."""
        found = (self._found[other] for other in self._others(search))
        known = next((each for each in found if isinstance(each, Structure)), None)
        return () if known is None else (_operand(known.pointers), _operand(known.indices))

    def _others(self, search: Search) -> list[Search]:
        return [other for other in reversed(self._found) if other != search and replace(other, prices=search.prices) == search]

    def operands(self, structure: Structure) -> tuple[tuple[Operand, ...], ...]:
        """Returns for each part of a structure the arrays that its tiles take; stored once, where workers share them."""
        found = self._operands.get(structure.digest)
        if found is None:
            found = tuple(tuple(_operand(array) for array in (part.colours, part.lines, part.along, part.bounds)) for part in structure.parts)
            self._operands[structure.digest] = found
        return found

    async def _ask(self, pool: Pool, function: Function, search: Search, given: tuple[Operand, ...]) -> Structure | Dense:
        try:
            answer = await pool.ask(work.structure(Task(search.kernel), search.prices, search.most, given, function.load))
        except BaseException as error:
            if search.needed or not isinstance(error, Fault) or error.reason not in _DISPENSABLE:
                self._found.pop(search, None)
                raise
            # What keeps a pattern from being found need not keep the derivative from being computed; it is not tried again with each call.
            _LOG.warning("no sparsity pattern of %s: %s", function.name, error)
            answer = Dense(f"its pattern could not be found ({error.message})")
        assert isinstance(answer, Structure | Dense)
        self._found[search] = answer
        self._found.move_to_end(search)
        self._make_room()
        return answer

    def _make_room(self) -> None:
        """Forgets what was not used for longest, so that the rest fits."""
        sizes = {search: _nbytes(found) for search, found in self._found.items() if isinstance(found, Structure | Dense)}
        total = sum(sizes.values())
        for search in list(sizes)[:-1]:  # the last is new
            if total <= self._most_bytes and len(sizes) <= _MOST:
                break
            total -= sizes.pop(search)
            del self._found[search]
        digests = {found.digest for found in self._found.values() if isinstance(found, Structure)}
        self._operands = {digest: operands for digest, operands in self._operands.items() if digest in digests}


def _operand(array: np.ndarray) -> Operand:
    data: Any = array.tobytes() if array.nbytes <= INLINE_BYTES else ray.put(np.ascontiguousarray(array).view(np.uint8))
    return Operand(Type(array.dtype.name, array.shape), data)


def _nbytes(found: Structure | Dense) -> int:
    """Returns the bytes of a structure: of its own arrays and, once more, of what workers take of them."""
    if isinstance(found, Dense):
        return 0
    parts = sum(2 * _part_bytes(part) for part in found.parts)
    return found.pointers.nbytes + found.indices.nbytes + found.sources.nbytes + parts


def _part_bytes(part: Part) -> int:
    return part.colours.nbytes + part.lines.nbytes + part.along.nbytes + part.bounds.nbytes
