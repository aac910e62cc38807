"""Sets of seed entries, each kept once and named by a number, so that an array's dependences are an array of numbers.

An entry of an array that depends on the seed entries 3 and 7 holds the number of the set {3, 7}. Moving entries about moves numbers; only where
entries meet are sets united, and then once for all entries at which the same sets meet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Ids: TypeAlias = NDArray[np.int64]
"""Numbers of sets, one per entry of an array, in its shape. Zero is the empty set."""

FEW = 1024
"""Up to so many seed entries sets are words of bits, which Python unites in some fifty nanoseconds each; above, rows of a sparse matrix."""

_ONE_BY_ONE = 48
"""Up to so many unions a loop is quicker than looking for repetitions among them."""


_OFTEN = 16
"""Sets that are united with so many others, or more, are held against them beforehand."""


class TooDense(Exception):
    """The sets would take more memory than patterns may; what is asked for is as good as dense."""


class Sets(ABC):
    """The sets met so far. Sets that are equal may have several numbers; sets of one number are equal."""

    size: int
    """How many seed entries there are."""

    @abstractmethod
    def unite(self, starts: NDArray[np.int64], members: Ids) -> Ids:
        """Returns the numbers of unions, shape ``(len(starts) - 1,)``.

        Args:
            starts: Union ``i`` is that of ``members[starts[i]:starts[i + 1]]``.
            members: Numbers of sets, shape ``(starts[-1],)``.

        Raises:
            TooDense: The sets would outgrow their bound.
        """

    @abstractmethod
    def join(self, left: Ids, right: Ids) -> Ids:
        """Returns the numbers of the unions of pairs of sets, shape ``(k,)`` as both have; raises as ``unite``."""

    @abstractmethod
    def elements(self, ids: Ids) -> int:
        """Returns how many elements the sets of some numbers have together, each counted as often as it is named."""

    @abstractmethod
    def matrix(self, ids: Ids) -> csr_array:
        """Returns a boolean matrix whose row ``i`` is the set ``ids[i]``: shape ``(len(ids), size)``, sorted, without repetitions."""


def make(size: int, most: int) -> Sets:
    """Returns no sets but the empty one and one for each of ``size`` seed entries: entry ``i`` has the number ``i + 1``.

    Args:
        size: How many seed entries there are.
        most: How many elements all sets together may have.
    """
    return Words(size, most) if size <= FEW else Rows(size, most)


def union(sets: Sets, operands: Sequence[Ids]) -> Ids:
    """Returns the union of sets entry by entry, of arrays of one shape."""
    result = operands[0]
    for operand in operands[1:]:
        result = _pairwise(sets, result, operand)
    return result


def reduce(sets: Sets, ids: Ids) -> Ids:
    """Returns the union along the last axis: of shape ``(*rest, k)``, shape ``rest``."""
    shape, count = ids.shape[:-1], ids.shape[-1]
    if ids.size == 0:
        return np.zeros(shape, np.int64)
    if count == 1:
        return ids[..., 0]
    lines = ids.reshape(-1, count)
    first = lines[:, :1]
    if (lines == first).all():
        return first.reshape(shape)
    return sets.unite(np.arange(0, ids.size + 1, count), lines.ravel()).reshape(shape)


def _pairwise(sets: Sets, left: Ids, right: Ids) -> Ids:
    if left is right:
        return left
    result = np.where(left == 0, right, left).copy(order="C")
    meeting = np.flatnonzero((left != right) & (left != 0) & (right != 0))
    if len(meeting):
        result.ravel()[meeting] = sets.join(left.ravel()[meeting], right.ravel()[meeting])
    return result


# ruff: noqa: D102  (docstrings are those of Sets)


class Words(Sets):
    """Sets as words of bits. Equal sets have equal numbers."""

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self._most = most // max(1, size // 64)
        self._words = [0, *(1 << entry for entry in range(size))]
        self._nbytes = -(-size // 8)
        # By their bytes: Python hashes integers modulo 2**61 - 1, so that of those with two bits set, some hundreds share each hash.
        self._numbers = {self._key(word): number for number, word in enumerate(self._words)}

    def unite(self, starts: NDArray[np.int64], members: Ids) -> Ids:
        bounds, numbers = starts.tolist(), members.tolist()
        return self._each(numbers[first:last] for first, last in pairwise(bounds))

    def join(self, left: Ids, right: Ids) -> Ids:
        if len(left) <= _ONE_BY_ONE:
            return self._each(zip(left.tolist(), right.tolist(), strict=True))
        left, right, places = _distinct_pairs(left, right)
        return self._each(zip(left.tolist(), right.tolist(), strict=True))[places]

    def elements(self, ids: Ids) -> int:
        distinct, counts = np.unique(ids, return_counts=True)
        return sum(self._words[number].bit_count() * count for number, count in zip(distinct.tolist(), counts.tolist(), strict=True))

    def matrix(self, ids: Ids) -> csr_array:
        distinct, places = np.unique(ids, return_inverse=True)
        packed = np.frombuffer(b"".join(self._key(self._words[number]) for number in distinct.tolist()), np.uint8).reshape(-1, max(self._nbytes, 1))
        # Most bytes are zero: only the others are taken apart.
        rows, offsets = packed.nonzero()
        within, bits = np.unpackbits(packed[rows, offsets, None], axis=1, bitorder="little").nonzero()
        starts = np.searchsorted(rows[within], np.arange(len(distinct) + 1))
        found = csr_array((np.ones(len(bits), bool), 8 * offsets[within] + bits, starts), shape=(len(distinct), self.size))
        return found[places]

    def _each(self, groups: Iterable[Sequence[int]]) -> Ids:
        words, numbers, result = self._words, self._numbers, []
        for group in groups:
            word = 0
            for number in group:
                word |= words[number]
            key = self._key(word)
            known = numbers.get(key)
            if known is None:
                known = numbers[key] = len(words)
                words.append(word)
                if known > self._most:
                    raise TooDense
            result.append(known)
        return np.array(result, np.int64)

    def _key(self, word: int) -> bytes:
        return word.to_bytes(self._nbytes, "little")


class Rows(Sets):
    """Sets as the rows of a sparse boolean matrix that grows at its end."""

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self._most = most
        self._starts = np.concatenate([np.zeros(1, np.int64), np.arange(size + 1)])
        self._columns = np.arange(size)
        self._count, self._filled = size + 1, size
        self._ones = np.ones(4 * (size + 1), bool)

    def unite(self, starts: NDArray[np.int64], members: Ids) -> Ids:
        return self._united(starts, members, _largest(starts, members, self._lengths(members)))

    def join(self, left: Ids, right: Ids) -> Ids:
        left, right, places = _distinct_pairs(left, right)
        swapped = self._lengths(left) < self._lengths(right)
        smaller, larger = np.where(swapped, left, right), np.where(swapped, right, left)
        united, growing = larger.copy(), np.flatnonzero(~self._contained(smaller, larger))
        pairs = np.stack([smaller[growing], larger[growing]], axis=1).ravel()
        united[growing] = self._united(np.arange(0, len(pairs) + 1, 2), pairs, larger[growing])
        return united[places]

    def elements(self, ids: Ids) -> int:
        return int(self._lengths(ids).sum())

    def matrix(self, ids: Ids) -> csr_array:
        found = self._all()[ids]
        found.sort_indices()
        return found

    def _lengths(self, ids: Ids) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = self._starts[ids + 1] - self._starts[ids]
        return lengths

    def _contained(self, smaller: Ids, larger: Ids) -> NDArray[np.bool_]:
        """Returns which sets are known to be part of others, where several are compared with the same: their unions need not be formed.

        Where all entries meet in a sum that each takes part in again, forming them would take the square of their number.
        """
        found: NDArray[np.bool_] = self._lengths(larger) == self.size
        if found.all():
            return found
        order = np.argsort(larger, kind="stable")
        bounds = np.append(np.flatnonzero(np.diff(larger[order], prepend=-1)), len(order))
        often = np.flatnonzero(np.diff(bounds) >= _OFTEN)
        inside = np.zeros(self.size if len(often) else 0, bool)
        for mine in (order[bounds[each] : bounds[each + 1]] for each in often.tolist()):
            one = larger[mine[0]]
            columns = self._columns[self._starts[one] : self._starts[one + 1]]
            inside[columns] = True
            lengths = self._lengths(smaller[mine])
            firsts = np.cumsum(lengths) - lengths
            elements = np.repeat(self._starts[smaller[mine]] - firsts, lengths) + np.arange(lengths.sum())
            # None of the sets is empty: pairs with the empty set have no need to be joined.
            found[mine] = np.logical_and.reduceat(inside[self._columns[elements]], firsts)
            inside[columns] = False
        return found

    def _united(self, starts: NDArray[np.int64], members: Ids, largest: Ids) -> Ids:
        """Returns unions, given of each its member of greatest length."""
        if int(self._lengths(members).sum()) > 8 * self._most:
            raise TooDense
        choice = csr_array((np.ones(len(members), bool), members, starts), shape=(len(starts) - 1, self._count))
        made = choice @ self._all()
        # A union that is no larger than its largest member is that member. It keeps numbers few, and repetition recognizable.
        fresh = np.flatnonzero(np.diff(made.indptr) > self._lengths(largest))
        if len(fresh) == 0:
            return largest
        result = largest.copy()
        result[fresh] = self._append(made if len(fresh) == len(largest) else made[fresh])
        return result

    def _all(self) -> csr_array:
        columns, starts = self._columns[: self._filled], self._starts[: self._count + 1]
        return csr_array((self._ones[: self._filled], columns, starts), shape=(self._count, self.size))

    def _append(self, rows: csr_array) -> Ids:
        count, filled = self._count + rows.shape[0], self._filled + rows.nnz
        if filled > self._most:
            raise TooDense
        self._starts = _grown(self._starts, count + 1)
        self._columns = _grown(self._columns, filled)
        if len(self._ones) < len(self._columns):
            self._ones = np.ones(len(self._columns), bool)
        self._starts[self._count + 1 : count + 1] = self._filled + rows.indptr[1:]
        self._columns[self._filled : filled] = rows.indices
        numbers = np.arange(self._count, count)
        self._count, self._filled = count, filled
        return numbers


def _distinct_pairs(left: Ids, right: Ids) -> tuple[Ids, Ids, NDArray[np.intp]]:
    """Returns unordered pairs without repetitions, and for each given pair its place among them."""
    codes, places = np.unique(np.minimum(left, right) << 32 | np.maximum(left, right), return_inverse=True)
    return codes >> 32, codes & 0xFFFFFFFF, places


def _largest(starts: NDArray[np.int64], members: Ids, lengths: NDArray[np.int64]) -> Ids:
    """Returns of each group the member of greatest length; zero, the empty set, of an empty group."""
    # Length and number in one word: the greatest word of a group names its longest member.
    words = np.append(lengths << 32 | members, 0)
    greatest = np.maximum.reduceat(words, starts[:-1]) if len(starts) > 1 else words[:0]
    return np.where(np.diff(starts) > 0, greatest & 0xFFFFFFFF, 0)


def _grown(array: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Returns an array with room for ``length`` elements, at least doubled if it had not."""
    if length <= len(array):
        return array
    larger = np.empty(max(length, 2 * len(array)), array.dtype)
    larger[: len(array)] = array
    return larger
