"""Numbers of seeds become seeds, on the device: a request for a tile carries one integer, never a matrix of zeros and ones."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jacloom_graph.tensor import DTYPES
from jacloom_graph.types import Type


def numbers(start: jax.typing.ArrayLike, width: int) -> jax.Array:
    """Returns the numbers of a tile's seeds.

    Args:
        start: First number, ``int64`` scalar; may be traced, so that one program serves every tile.
        width: Seeds in the tile.

    Returns:
        ``start, .., start + width - 1``: shape ``(width,)``, ``int64``.
    """
    return jnp.asarray(start) + jax.lax.iota(np.int64, width)


def unit(number: jax.typing.ArrayLike, types: Sequence[Type]) -> list[jax.Array]:
    """Returns a unit vector over the entries of several arrays, laid one after the other, each in C order.

    Args:
        number: Which entry is one, ``int64`` scalar, may be traced. Beyond the last entry the vector is zero: that is how a tile is padded.
        types: Inexact types of the arrays; mixed dtypes, scalars and empty arrays are fine.

    Returns:
        One array per type, of that dtype and shape.
    """
    vectors, first = [], 0
    for type_ in types:
        entries = jax.lax.iota(np.int64, type_.size)
        vectors.append(jnp.asarray(entries == number - first, DTYPES[type_.dtype]).reshape(type_.shape))
        first += type_.size
    return vectors


def coloured(number: jax.typing.ArrayLike, colours: jax.Array, types: Sequence[Type]) -> list[jax.Array]:
    """Returns the sum of the unit vectors of one colour, over the entries of several arrays, laid one after the other, each in C order.

    Args:
        number: Which colour, ``int64`` scalar, may be traced. Of a colour that nothing has, the vector is zero.
        colours: The colour of each entry, shape ``(n,)``, ``int32``.
        types: Inexact types of the arrays.

    Returns:
        One array per type, of that dtype and shape.
    """
    vectors, first = [], 0
    chosen = colours == number
    for type_ in types:
        vectors.append(jax.lax.slice(chosen, (first,), (first + type_.size,)).astype(DTYPES[type_.dtype]).reshape(type_.shape))
        first += type_.size
    return vectors
