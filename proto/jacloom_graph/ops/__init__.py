"""The op table: the vocabulary of graphs. Rows alone live here, one family a module."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from jacloom_graph.ops import control, elementwise, indexing, linalg, random, reduce, shape
from jacloom_graph.ops.table import Op

__all__ = ["TABLE", "Op"]

FAMILIES: Mapping[str, tuple[Op, ...]] = MappingProxyType(
    {
        "elementwise": elementwise.ROWS,
        "shape": shape.ROWS,
        "indexing": indexing.ROWS,
        "reduce": reduce.ROWS,
        "linalg": linalg.ROWS,
        "random": random.ROWS,
        "control": control.ROWS,
    }
)
"""Rows by family, in the order of the reference."""

TABLE: Mapping[str, Op] = MappingProxyType({op.name: op for rows in FAMILIES.values() for op in rows})
"""Every op by name."""
