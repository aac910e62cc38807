"""Random numbers from keys. The derivative with respect to a key is none; random_gamma has one in its shape parameter."""

from __future__ import annotations

from jacloom_graph.ops.rows import choice, dtype, flag, integer, integers, row, text
from jacloom_graph.ops.table import Op

ROWS: tuple[Op, ...] = (
    row("random_seed", 1, "Keys of implementation `impl` from integer seeds.", text("impl"), zero_derivative=True),
    row("random_wrap", 1, "Keys of implementation `impl` from raw key data.", text("impl"), zero_derivative=True),
    row("random_unwrap", 1, "Raw key data.", zero_derivative=True),
    row("random_clone", 1, "The same keys, free to be used again.", zero_derivative=True),
    row("random_split", 1, "`shape` new keys from each key.", integers("shape"), zero_derivative=True),
    row("random_fold_in", 2, "New keys from keys and integers.", zero_derivative=True),
    row(
        "random_bits",
        1,
        "Uniform unsigned integers of `bit_width` bits, of `shape` for each key.",
        integer("bit_width"),
        integers("shape"),
        zero_derivative=True,
    ),
    row("random_gamma", 2, "Gamma samples for keys and shape parameters; their logarithms if `log_space`.", flag("log_space")),
    row("threefry2x32", 4, "The Threefry-2x32 hash of two key words and two counter arrays.", zero_derivative=True),
    row("iota_2x32_shape", 0, "Upper and lower 32-bit words of the element numbers of an array of `shape`.", integers("shape"), zero_derivative=True),
    row(
        "rng_uniform", 2, "Uniform samples of `shape` between two bounds, from a state of the device's own.", integers("shape"), zero_derivative=True
    ),
    row(
        "rng_bit_generator",
        1,
        "New state and random bits of `shape` and `dtype` from a state.",
        integers("shape"),
        dtype("dtype", "uint32"),
        choice("algorithm", ("RNG_DEFAULT", "RNG_THREE_FRY", "RNG_PHILOX"), "RNG_DEFAULT"),
        zero_derivative=True,
    ),
)
