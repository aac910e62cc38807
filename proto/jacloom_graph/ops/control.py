"""Calls, custom rules, loops, branches, and solves that are defined by what they satisfy."""

from __future__ import annotations

from jacloom_graph.ops.rows import choice, flag, function, functions, integer, integers, row, rule, texts
from jacloom_graph.ops.table import Op

_POLICIES = (
    "nothing_saveable",
    "everything_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
)

ROWS: tuple[Op, ...] = (
    row("call", (0, None), "The results of `function` on the operands.", function("function")),
    row("custom_call", (0, None), "The results of `rules[rule].function`, differentiated by that rule.", rule("rule")),
    row(
        "checkpoint",
        (0, None),
        "As call; reverse mode computes intermediate values again, but for those that `policy` keeps.",
        function("function"),
        choice("policy", _POLICIES, None),
        flag("prevent_cse", True),
    ),
    row(
        "scan",
        (0, None),
        "Loop of `length` steps over constants, carries and arrays (along axis 0). `function`: (constants, carries, slices) -> (carries, slices).",
        function("function"),
        integer("length"),
        integer("num_consts", 0),
        integer("num_carry", 0),
        flag("reverse"),
        integer("unroll", 1),
    ),
    row(
        "while",
        (0, None),
        "Loop while `cond` holds. Operands: constants of cond, constants of body, carries. cond: (its constants, carries) -> bool; "
        "body: (its constants, carries) -> carries. A predicate with axes stops each entry along the carries' leading axes on its own.",
        function("cond"),
        function("body"),
        integer("cond_consts", 0),
        integer("body_consts", 0),
    ),
    row(
        "switch",
        (1, None),
        "The results of `branches[k]` on the other operands, where operand 0 is k (clamped to the branches there are).",
        functions("branches"),
    ),
    row(
        "platform_index",
        0,
        "Number of the first entry of `platforms` that has the device's (names joined by commas; empty for any).",
        texts("platforms"),
        zero_derivative=True,
    ),
    row(
        "linear_solve",
        (0, None),
        "Solution x of matvec(x) = b found by `solve`, differentiated as such. Operands: each function's constants (`const_lengths`), then b.",
        function("matvec"),
        function("vecmat", None),
        function("solve"),
        function("transpose_solve", None),
        integers("const_lengths"),
    ),
)
