"""The picture of a coloured pattern: every entry in the colour of its pass, at its place."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

import jacloom as jl
from jacloom import _spy
from jacloom._sparsity import Structure
from jacloom_graph.answer import Sizes

EDGE = _spy.MARGIN + 1
"""Pixels between the border of the picture and the first entry."""


def structure(matrix: np.ndarray | sparse.csr_array) -> Structure:
    """Returns a structure whose entries are one more than the numbers of their passes."""
    found = sparse.csr_array(matrix)
    passes = found.data.astype(int) - 1
    bounds = np.concatenate([[0], np.cumsum(np.bincount(passes))]).astype(np.int64)
    sources = np.empty(found.nnz, np.int32)
    sources[np.argsort(passes, kind="stable")] = np.arange(found.nnz)
    sizes = Sizes(*found.shape, found.nnz, found.nnz, len(bounds) - 1)
    return Structure("d", sizes, found.indptr, found.indices, sources, bounds)


def drawn(matrix: np.ndarray | sparse.csr_array, path: Path) -> np.ndarray:
    """Returns the pixels of the PNG, decoded: shape ``(height, width, 3)``."""
    plan = jl.Plan("bicoloured", 3, 2, 2, 2, 40, None, _ask=lambda timeout: structure(matrix))
    plan.spy(path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_entries_are_squares_in_the_colour_of_their_pass(tmp_path: Path) -> None:
    matrix = np.array([[1, 2, 0, 3], [3, 0, 0, 0], [1, 0, 2, 0]])
    pixels = drawn(matrix, tmp_path / "small.png")
    zoom = _spy.LARGEST
    assert pixels.shape == (3 * zoom - 1 + 2 * EDGE, 4 * zoom - 1 + 2 * EDGE, 3)
    for (row, column), number in np.ndenumerate(matrix):
        top, left = EDGE + row * zoom, EDGE + column * zoom
        square = pixels[top : top + zoom - 1, left : left + zoom - 1]
        expected = _spy.COLOURS[number - 1] if number else _spy.WHITE
        assert (square == expected).all()
        gaps = pixels[top + zoom - 1, left : left + zoom], pixels[top : top + zoom, left + zoom - 1]
        assert all((gap == _spy.WHITE).all() for gap in gaps)


def test_there_is_a_frame_with_nothing_on_it(tmp_path: Path) -> None:
    pixels = drawn(np.ones((3, 5)), tmp_path / "full.png")
    for side in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (side == _spy.FRAME).all()
    for side in (pixels[1:EDGE, 1:-1], pixels[-EDGE:-1, 1:-1], pixels[1:-1, 1:EDGE], pixels[1:-1, -EDGE:-1]):
        assert (side == _spy.WHITE).all()


def test_a_pixel_shows_an_entry_that_falls_in_it(tmp_path: Path) -> None:
    size = 3 * _spy.MOST - 1
    rows, columns = [0, 700, 701, size - 1], [size - 1, 5, 3, 0]
    matrix = sparse.csr_array(([1, 2, 2, 3], (rows, columns)), (size, size))
    pixels = drawn(matrix, tmp_path / "large.png")
    assert pixels.shape == (_spy.MOST + 2 * EDGE, _spy.MOST + 2 * EDGE, 3)
    inner = pixels[EDGE:-EDGE, EDGE:-EDGE]
    coloured = np.argwhere((inner != _spy.WHITE).any(axis=-1))
    assert coloured.tolist() == [[0, 999], [233, 1], [999, 0]]
    assert [tuple(inner[row, column]) for row, column in coloured] == [_spy.COLOURS[0], _spy.COLOURS[1], _spy.COLOURS[2]]


def test_a_large_band_shows_all_its_colours(tmp_path: Path) -> None:
    size = 6 * _spy.MOST
    diagonal = sparse.csr_array((np.arange(size) % 3 + 1, (np.arange(size), np.arange(size))), (size, size))
    inner = drawn(diagonal, tmp_path / "band.png")[EDGE:-EDGE, EDGE:-EDGE]
    seen = [tuple(pixel) for pixel in inner[np.arange(_spy.MOST), np.arange(_spy.MOST)]]
    assert min(seen.count(colour) for colour in _spy.COLOURS[:3]) > _spy.MOST // 5


@pytest.mark.parametrize(("rows", "columns"), [(1_000_000, 3), (2, 70_000), (0, 4), (5, 0), (1, 1), (2500, 50)])
def test_a_short_side_can_be_seen(rows: int, columns: int, tmp_path: Path) -> None:
    matrix = sparse.csr_array((rows, columns), dtype=int)
    if rows and columns:
        matrix = sparse.csr_array(([1], ([rows - 1], [columns - 1])), (rows, columns))
    pixels = drawn(matrix, tmp_path / "long.png")
    assert min(pixels.shape[:2]) >= _spy.LEAST // 2 + 2 * EDGE
    assert max(pixels.shape[:2]) <= _spy.MOST + 2 * EDGE
    inner = pixels[EDGE:-EDGE, EDGE:-EDGE]
    assert tuple(inner[-1, -1]) == (_spy.COLOURS[0] if rows and columns else _spy.WHITE)


def test_colours_are_told_apart_and_repeat(tmp_path: Path) -> None:
    every = {*_spy.COLOURS, _spy.WHITE, _spy.FRAME}
    assert len(every) == len(_spy.COLOURS) + 2
    for one, next_ in zip(_spy.COLOURS, (*_spy.COLOURS[1:], _spy.COLOURS[0]), strict=True):
        assert np.abs(np.subtract(one, next_)).sum() > 100
    assert all(255 * 3 - sum(colour) > 150 for colour in _spy.COLOURS)
    count = len(_spy.COLOURS)
    pixels = drawn(np.arange(1, count + 3).reshape(1, -1), tmp_path / "row.png")
    inner = pixels[EDGE, EDGE:-EDGE]
    zoom = (len(inner) + 1) // (count + 2)
    assert [tuple(inner[at * zoom]) for at in (0, 1, count, count + 1)] == [*_spy.COLOURS[:2], *_spy.COLOURS[:2]]


def test_other_endings_are_refused_before_anything_is_asked() -> None:
    plan = jl.Plan("forward", 3, 2, 2, 2, 40, None, _ask=lambda timeout: pytest.fail("asked"))
    for name in ("pattern.jpg", "pattern", "png"):
        with pytest.raises(jl.OptionError, match=rf"`plan.spy\('{name}'\)`: the picture is a PNG, so the path must end with .png"):
            plan.spy(name)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        drawn(np.ones((2, 3)), tmp_path / "nowhere" / "pattern.png")


def test_without_pillow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(jl.MissingExtraError, match=r"takes Pillow, which is not installed: pip install 'jacloom\[plot\]'"):
        drawn(np.ones((2, 3)), tmp_path / "pattern.png")
