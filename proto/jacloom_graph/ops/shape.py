"""Ops that move elements without computing: reshape, broadcast, slice, join."""

from __future__ import annotations

from jacloom_graph.ops.rows import dtype, integer, integers, row, triples
from jacloom_graph.ops.table import Op

ROWS: tuple[Op, ...] = (
    row(
        "broadcast_in_dim",
        1,
        "Repeats the operand to `shape`; its axis i becomes axis `broadcast_dimensions[i]`.",
        integers("shape"),
        integers("broadcast_dimensions", ()),
    ),
    row("concatenate", (1, None), "Joins the operands along axis `dimension`.", integer("dimension", 0)),
    row(
        "dynamic_slice",
        (1, None),
        "The window of `slice_sizes` at the start indices (one scalar operand per axis, clamped to fit).",
        integers("slice_sizes"),
    ),
    row("dynamic_update_slice", (2, None), "Operand 0 with the window at the start indices (further operands) replaced by operand 1."),
    row(
        "iota",
        0,
        "Array of `shape` and `dtype` whose elements are their index along axis `dimension`.",
        dtype("dtype"),
        integers("shape"),
        integer("dimension", 0),
    ),
    row(
        "pad",
        2,
        "Pads with the scalar operand 1: `padding_config` has (before, after, between elements) per axis; negative cuts.",
        triples("padding_config"),
    ),
    row(
        "reshape",
        1,
        "Same elements in C order, as `new_sizes`; with `dimensions` the axes are permuted so first.",
        integers("new_sizes"),
        integers("dimensions", None),
    ),
    row("rev", 1, "Reverses the order along the axes `dimensions`.", integers("dimensions")),
    row(
        "slice",
        1,
        "Elements from `start_indices` to before `limit_indices` at steps `strides` (default 1).",
        integers("start_indices"),
        integers("limit_indices"),
        integers("strides", None),
    ),
    row("split", 1, "Cuts axis `axis` into parts of `sizes`; one result each.", integers("sizes"), integer("axis", 0)),
    row("squeeze", 1, "Drops the axes `dimensions`, each of extent 1.", integers("dimensions")),
    row("stack", (1, None), "Joins operands of equal type along a new axis `axis`.", integer("axis", 0)),
    row("tile", 1, "Repeats the operand `reps[i]` times along axis i.", integers("reps")),
    row("transpose", 1, "Permutes the axes: result axis i is operand axis `permutation[i]`.", integers("permutation")),
    row("unstack", 1, "One result per index along axis `axis`.", integer("axis", 0)),
)
