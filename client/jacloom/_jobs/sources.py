"""Points in files and stores: which of them a path means."""

from __future__ import annotations

import os
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jacloom._errors import ArgumentError, MissingExtraError
from jacloom._jobs.columns import Column, NpzColumn, ZarrColumn

_ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")


def opened(what: str, given: Any) -> Any:
    """Returns points with what a path or a Zarr group means in its place: an array, or a dict by name. Others are returned as they are.

    Args:
        what: ``"points"`` or ``"seeds"``, for errors.
        given: What the user passed.

    Raises:
        ArgumentError: if a path leads to nothing that can be read.
        MissingExtraError: if it leads to a Zarr store, and Zarr is not installed.
    """
    if isinstance(given, str | os.PathLike):
        return _file(what, Path(given))
    zarr = sys.modules.get("zarr")  # who has a group has it loaded
    return _members(given) if zarr is not None and isinstance(given, zarr.Group) else given


def zarr_column(leaf: Any) -> Column | None:
    """Returns the column that a Zarr array is; None for anything else."""
    zarr = sys.modules.get("zarr")
    return ZarrColumn(leaf) if zarr is not None and isinstance(leaf, zarr.Array) else None


def _file(what: str, path: Path) -> Any:
    if path.is_dir() and any((path / mark).exists() for mark in _ZARR_MARKS):
        return _store(what, path)
    if not path.exists():
        raise ArgumentError(f"{what}: there is no file {os.fspath(path)!r}; give the path of a .npy or .npz file, or of a Zarr store")
    match path.suffix:
        case ".npy":
            return _mapped(what, path)
        case ".npz":
            return _archive(what, path)
    raise ArgumentError(f"{what}: {os.fspath(path)!r} must be a .npy or .npz file, or the folder of a Zarr store")


def _mapped(what: str, path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r" if path.stat().st_size else None)
    except (OSError, ValueError, EOFError) as error:
        raise ArgumentError(f"{what}: {os.fspath(path)!r} cannot be read: {error}; it must hold an array of numbers, as np.save writes it") from None
    return found


def _archive(what: str, path: Path) -> dict[str, NpzColumn]:
    try:
        with zipfile.ZipFile(path) as file:
            names = [name.removesuffix(".npy") for name in file.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise ArgumentError(f"{what}: {os.fspath(path)!r} cannot be read: {error}; it must hold arrays of numbers, as np.savez writes them") from None
    if not names:
        raise ArgumentError(f"{what}: {os.fspath(path)!r} has no arrays; save some with np.savez(path, name=array)")
    return {name: NpzColumn(path, name) for name in sorted(names)}


def _store(what: str, path: Path) -> Any:
    if find_spec("zarr") is None:
        raise MissingExtraError(f'{what}: {os.fspath(path)!r} is a Zarr store, and Zarr is not installed: pip install "jacloom[zarr]"')
    import zarr

    try:
        found = zarr.open(path, mode="r")
    except (OSError, ValueError, KeyError) as error:
        raise ArgumentError(f"{what}: the Zarr store {os.fspath(path)!r} cannot be read: {error}") from None
    return _members(found) if isinstance(found, zarr.Group) else found


def _members(group: Any) -> dict[str, Any]:
    import zarr

    return {name: _members(member) if isinstance(member, zarr.Group) else member for name, member in sorted(group.members())}
