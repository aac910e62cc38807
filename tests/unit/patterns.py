"""Patterns whose colourings are known, and what tells whether a colouring is one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import block_array, csr_array, eye_array, random_array

from jacloom_worker.pattern.colouring import Colouring, by_both, by_columns, by_rows


def banded(size: int, offsets: Iterable[int]) -> csr_array:
    found = csr_array((size, size), dtype=bool)
    for offset in offsets:
        found = found + eye_array(size, k=offset, dtype=bool, format="csr")
    return csr_array(found)


def arrowhead(size: int, lines: int = 1) -> csr_array:
    """Returns a diagonal with some dense rows and as many dense columns."""
    inside = np.arange(size)
    rows = np.concatenate([inside, np.repeat(np.arange(lines), size), np.tile(inside, lines)])
    columns = np.concatenate([inside, np.tile(inside, lines), np.repeat(np.arange(lines), size)])
    return csr_array((np.ones(len(rows), bool), (rows, columns)), shape=(size, size))


def star_stencil(*sides: int, periodic: bool = False) -> csr_array:
    """Returns a point and its neighbours along each axis: five points of a plane grid, seven of one in space."""
    axes = len(sides)
    steps = [tuple(sign * (axis == other) for other in range(axes)) for axis in range(axes) for sign in (1, -1)]
    return _stencil(sides, [(0,) * axes, *steps], periodic)


def box_stencil(*sides: int) -> csr_array:
    """Returns a point and all around it: nine points of a plane grid, 27 of one in space."""
    return _stencil(sides, list(itertools.product((-1, 0, 1), repeat=len(sides))), periodic=False)


def brusselator(side: int) -> csr_array:
    """Returns two unknowns at each point of a periodic grid: one's five points and the other's point."""
    grid, point = star_stencil(side, side, periodic=True), eye_array(side * side, dtype=bool)
    return csr_array(block_array([[grid, point], [point, grid]], dtype=bool))


def scattered(m: int, n: int, seed: int, density: float = 0.05) -> csr_array:
    return csr_array(random_array((m, n), density=density, rng=np.random.default_rng(seed)).astype(bool))


def saddle(size: int, constraints: int) -> csr_array:
    """Returns the matrix of an optimum: a band, bordered by constraints on neighbouring pairs and their transposes."""
    pairs = csr_array(np.kron(np.eye(constraints, dtype=bool), np.ones((1, 2), bool)))
    pairs.resize((constraints, size))
    return csr_array(block_array([[banded(size, (-1, 0, 1)), pairs.T], [pairs, None]], dtype=bool))


def _stencil(sides: Sequence[int], steps: Sequence[tuple[int, ...]], periodic: bool) -> csr_array:
    points, numbers = np.indices(sides), np.arange(np.prod(sides)).reshape(sides)
    rows, columns = [], []
    for step in steps:
        reached = [each + by for each, by in zip(points, step, strict=True)]
        inside = np.ones(sides, bool)
        if periodic:
            reached = [each % side for each, side in zip(reached, sides, strict=True)]
        else:
            inside = np.logical_and.reduce([(each >= 0) & (each < side) for each, side in zip(reached, sides, strict=True)])
        rows.append(numbers[inside])
        columns.append(numbers[tuple(each[inside] for each in reached)])
    places = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.ones(len(places[0]), bool), places), shape=(numbers.size, numbers.size))


def by_either_or_both(pattern: csr_array, price: float = 1.0) -> Colouring:
    """Returns what costs least: columns, rows, or both together."""
    return by_both(pattern, min(by_columns(pattern), by_rows(pattern), key=lambda found: found.forward + price * found.reverse), price)


def told(pattern: csr_array, found: Colouring, *, mirrored: bool = False) -> np.ndarray:
    """Returns for each entry whether some pass gives it alone: of all entries that this pass adds up there are no others in its line.

    This multiplies with the seeds as a worker does, and looks at no rule of colouring.

    Args:
        pattern: Boolean, shape ``(m, n)``, rows sorted.
        found: Its colouring.
        mirrored: Whether the entry ``(j, i)`` stands in for ``(i, j)``.
    """
    assert pattern.has_sorted_indices
    by_column = _alone(pattern, found.columns)
    # The other way about in the order of this one: transposing keeps entries that are False.
    other = pattern if mirrored else pattern.T.tocsr()
    turned = csr_array((_alone(other, found.columns if mirrored else found.rows), other.indices, other.indptr), shape=other.shape).T.tocsr()
    whole: np.ndarray = by_column | turned.data
    return whole


def _alone(pattern: csr_array, colours: np.ndarray) -> np.ndarray:
    """Returns of each entry whether the sum of the columns of its colour holds no other one in its row."""
    coloured, count = np.flatnonzero(colours >= 0), int(colours.max(initial=0)) + 1
    seeds = csr_array((np.ones(len(coloured), np.int64), (coloured, colours[coloured])), shape=(len(colours), count))
    sums = (pattern.astype(np.int64) @ seeds).tocoo()
    alone = np.sort((sums.row.astype(np.int64) * count + sums.col)[sums.data == 1])
    mine = colours[pattern.indices]
    places = np.repeat(np.arange(pattern.shape[0]), np.diff(pattern.indptr)) * count + mine
    return np.isin(places, alone) & (mine >= 0)
