"""Reductions, running reductions, windows and order."""

from __future__ import annotations

from jacloom_graph.ops.rows import choice, dtype, flag, function, integer, integers, pairs, real, row
from jacloom_graph.ops.table import Op

_WINDOW = (
    integers("window_dimensions"),
    integers("window_strides"),
    pairs("padding"),
    integers("base_dilation"),
    integers("window_dilation"),
)
_COMPARE = choice("select_prim", ("ge", "le"))


def _reduce(name: str, what: str, *, zero_derivative: bool = False) -> Op:
    return row(name, 1, f"{what} over `axes`.", integers("axes"), zero_derivative=zero_derivative)


def _running(name: str, what: str) -> Op:
    return row(name, 1, f"Running {what} along `axis`, from the end if `reverse`.", integer("axis", 0), flag("reverse"))


ROWS: tuple[Op, ...] = (
    _reduce("reduce_sum", "Sum"),
    _reduce("reduce_prod", "Product"),
    _reduce("reduce_max", "Greatest element"),
    _reduce("reduce_min", "Least element"),
    _reduce("reduce_and", "Bitwise and", zero_derivative=True),
    _reduce("reduce_or", "Bitwise or", zero_derivative=True),
    _reduce("reduce_xor", "Bitwise exclusive or", zero_derivative=True),
    row(
        "reduce",
        (2, None),
        "Reduces arrays (first half of the operands) from initial values (second half) by `function` over `dimensions`.",
        function("function"),
        integers("dimensions"),
    ),
    row(
        "argmax",
        1,
        "Index of the greatest element along the one axis in `axes`, of dtype `index_dtype`.",
        integers("axes"),
        dtype("index_dtype"),
        zero_derivative=True,
    ),
    row(
        "argmin",
        1,
        "Index of the least element along the one axis in `axes`, of dtype `index_dtype`.",
        integers("axes"),
        dtype("index_dtype"),
        zero_derivative=True,
    ),
    _running("cumsum", "sum"),
    _running("cumprod", "product"),
    _running("cummax", "maximum"),
    _running("cummin", "minimum"),
    _running("cumlogsumexp", "log of the sum of exponentials"),
    row("reduce_window", (2, None), "Reduces windows by `function`; operands as for reduce.", function("function"), *_WINDOW),
    row("reduce_window_sum", 1, "Sum of each window.", *_WINDOW),
    row("reduce_window_max", 1, "Greatest element of each window.", *_WINDOW),
    row("reduce_window_min", 1, "Least element of each window.", *_WINDOW),
    row("select_and_gather_add", 2, "Of operand 0, the element at the place that wins in operand 1's window by `select_prim`.", _COMPARE, *_WINDOW),
    row(
        "select_and_scatter_add",
        2,
        "Adds operand 0's elements to the places that win in operand 1's windows by `select_prim`.",
        _COMPARE,
        integers("window_dimensions"),
        integers("window_strides"),
        pairs("padding"),
    ),
    row(
        "sort",
        (1, None),
        "Sorts all operands along `dimension` by the first `num_keys` of them.",
        integer("dimension"),
        flag("is_stable", True),
        integer("num_keys", 1),
    ),
    row(
        "top_k",
        1,
        "The `k` greatest elements along `axis` and their indices; `is_stable` keeps the order of equal ones.",
        integer("k"),
        integer("axis"),
        flag("is_stable", True),
    ),
    row(
        "approx_top_k",
        1,
        "About the `k` greatest (or least) elements along an axis and their indices; exact on CPUs.",
        integer("k"),
        integer("reduction_dimension", -1),
        real("recall_target", 0.95),
        flag("is_max_k", True),
        integer("reduction_input_size_override", -1),
        flag("aggregate_to_topk", True),
    ),
)
