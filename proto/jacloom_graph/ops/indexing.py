"""Gather and scatter: windows at computed places. The attributes are those of StableHLO, written one by one."""

from __future__ import annotations

from jacloom_graph.ops.rows import choice, flag, function, integers, row, scalar
from jacloom_graph.ops.table import Op

_MODES = ("CLIP", "FILL_OR_DROP", "PROMISE_IN_BOUNDS", "ONE_HOT")

_SCATTER = (
    integers("update_window_dims", ()),
    integers("inserted_window_dims", ()),
    integers("scatter_dims_to_operand_dims", ()),
    integers("operand_batching_dims", ()),
    integers("scatter_indices_batching_dims", ()),
    flag("indices_are_sorted"),
    flag("unique_indices"),
    choice("mode", _MODES, "FILL_OR_DROP"),
)

ROWS: tuple[Op, ...] = (
    row(
        "gather",
        2,
        "Windows of `slice_sizes` of operand 0 at the places in operand 1 (last axis: index vector), "
        "out of bounds by `mode` clipped or filled with `fill_value`.",
        integers("offset_dims", ()),
        integers("collapsed_slice_dims", ()),
        integers("start_index_map", ()),
        integers("operand_batching_dims", ()),
        integers("start_indices_batching_dims", ()),
        integers("slice_sizes"),
        flag("unique_indices"),
        flag("indices_are_sorted"),
        choice("mode", _MODES, "FILL_OR_DROP"),
        scalar("fill_value", None),
    ),
    row(
        "scatter",
        3,
        "Operand 0 with windows at the places in operand 1 replaced by those of operand 2 (or by `function` of the old element).",
        *_SCATTER,
        function("function", None),
    ),
    row("scatter_add", 3, "As scatter, adding to what is there.", *_SCATTER),
    row("scatter_sub", 3, "As scatter, subtracting from what is there.", *_SCATTER),
    row("scatter_mul", 3, "As scatter, multiplying what is there.", *_SCATTER),
    row("scatter_min", 3, "As scatter, keeping the lesser.", *_SCATTER),
    row("scatter_max", 3, "As scatter, keeping the greater.", *_SCATTER),
)
