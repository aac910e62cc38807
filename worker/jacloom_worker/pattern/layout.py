"""From a pattern and its colours to the order in which its entries are computed and sent."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from jacloom_worker.pattern.colouring import Colouring
from jacloom_worker.pattern.greedy import Colours
from jacloom_worker.protocol import Inner, Part, Structure, Weighed


def arrange(pattern: csr_array, colours: Colouring, weighed: tuple[Weighed, ...]) -> Structure:
    """Returns the structure of a pattern that passes along its colours compute.

    An entry is read off its column's pass if no other column of the colour has an entry in the same row, and off its row's pass likewise. In a
    symmetric matrix it may also be read as its mirror image.

    Args:
        pattern: Boolean, shape ``(m, n)``, rows sorted.
        colours: A colouring of it.
        weighed: The colourings that were considered, this one first.
    """
    rows, columns = np.repeat(np.arange(pattern.shape[0], dtype=np.int32), np.diff(pattern.indptr)), pattern.indices.astype(np.int32, copy=False)
    symmetric = weighed[0].strategy == "star-coloured"
    forward = _readable(rows, colours.columns[columns], pattern.shape[0], everything=not symmetric and not colours.reverse)
    if symmetric:
        # Of two that can be read, one is enough.
        mirror = _mirror(pattern)
        forward &= (rows <= columns) | ~forward[mirror]
    sources = np.empty(pattern.nnz, _index_dtype(pattern))
    parts = []
    if colours.forward:
        part, order = _part("forward", colours.columns, columns, rows, forward)
        parts.append(part)
        sources[order] = np.arange(len(order), dtype=sources.dtype)
    if symmetric:
        mirrored = np.flatnonzero(~forward)
        sources[mirrored] = sources[mirror[mirrored]]
    elif colours.reverse:
        part, order = _part("reverse", colours.rows, rows, columns, ~forward)
        sources[order] = np.arange(len(order), dtype=sources.dtype) + (len(parts[0].lines) if parts else 0)
        parts.append(part)
    pointers, indices = pattern.indptr.astype(sources.dtype, copy=False), pattern.indices.astype(sources.dtype, copy=False)
    shape: tuple[int, int] = pattern.shape
    # Modes and colours, too: columns and rows may be computed in the same order of entries, and tiles of the one are not those of the other.
    passes = (array for part in parts for array in (np.array([part.mode == "reverse"]), part.colours, part.bounds))
    digest = _digest(np.array(shape), pointers, indices, sources, *passes)
    return Structure(shape, pointers, indices, sources, tuple(parts), digest, weighed[0].strategy, weighed, 0.0)


def _part(
    mode: Inner, colours: Colours, along: NDArray[np.int32], across: NDArray[np.int32], mine: NDArray[np.bool_]
) -> tuple[Part, NDArray[np.intp]]:
    """Returns the passes of one mode, and their entries by number in the order in which the passes give them."""
    entries = np.flatnonzero(mine)
    passes = colours[along[entries]]
    # Counting sort: SciPy's way from rows to columns, here of a matrix of one row, takes a third of the time of NumPy's radix sort.
    line = csr_array((entries, passes, np.array([0, len(entries)])), shape=(1, int(colours.max(initial=-1)) + 1)).tocsc()
    order: NDArray[np.intp] = line.data
    return Part(mode, colours, across[order], along[order], line.indptr.astype(np.int64)), order


def _readable(rows: NDArray[np.int32], colours: Colours, count: int, *, everything: bool) -> NDArray[np.bool_]:
    """Returns which entries can be read off their column's pass: those that are alone with their colour in their row."""
    if everything:
        return np.ones(len(rows), bool)
    coloured = colours >= 0
    keys = rows * np.int64(int(colours.max(initial=0)) + 1) + colours
    _, places, counts = np.unique(keys[coloured], return_inverse=True, return_counts=True)
    readable = np.zeros(len(rows), bool)
    readable[coloured] = counts[places] == 1
    return readable


def _mirror(pattern: csr_array) -> NDArray[np.intp]:
    """Returns of each entry ``(i, j)`` of a symmetric matrix the number of the entry ``(j, i)``."""
    numbers: NDArray[np.intp] = csr_array((np.arange(pattern.nnz), pattern.indices, pattern.indptr), shape=pattern.shape).T.tocsr().data
    return numbers


def _index_dtype(pattern: csr_array) -> np.dtype[Any]:
    return np.dtype(np.int32 if max(*pattern.shape, pattern.nnz) <= np.iinfo(np.int32).max else np.int64)


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
