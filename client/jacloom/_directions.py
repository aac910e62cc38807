"""Random directions and weights that suit the sizes of what they are for."""

from __future__ import annotations

import numpy as np

from jacloom._layout import Layout

_MOST_EXPONENT = {"float16": 8.0}
"""Weights are at most two to this power, so that products with them do not overflow; of other dtypes, to that of ``_USUAL``."""
_USUAL = 40.0


def random(layout: Layout, generator: np.random.Generator) -> np.ndarray:
    """Returns a vector whose entries have absolute values from 1/2 to 1, of either sign, or any phase where they are complex."""
    found: np.ndarray = generator.uniform(0.5, 1.0, layout.size) * generator.choice([-1.0, 1.0], layout.size)
    if layout.dtype != np.float64:
        found = np.where(layout.real, found, found * np.exp(2j * np.pi * generator.uniform(size=layout.size)))
    return found


def direction(layout: Layout, point: np.ndarray, generator: np.random.Generator, *, relative: bool = False) -> np.ndarray:
    """Returns a direction from a point whose entries are as large as the point's.

    Args:
        layout: Of the point.
        point: Shape ``(n,)``.
        generator: Of random numbers.
        relative: Whether entries that are much smaller than others of their leaf, or zero, move as little; else they move as the others do.
    """
    own = np.abs(point)
    if not relative:
        typical = layout.magnitudes(point)
        own = np.maximum(own, np.where(typical > 0, typical, 1.0))
    return random(layout, generator) * np.where(np.isfinite(own), own, 0.0)


def representable(layout: Layout, point: np.ndarray, towards: np.ndarray, step: float) -> np.ndarray:
    """Returns a direction next to ``towards`` along which ``step`` leads from the point to a point without rounding."""
    return layout.rounded((layout.rounded(point + step * towards) - point) / step)


def weights(layout: Layout, sizes: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns weights that make leaves count alike.

    Args:
        layout: Of the outputs.
        sizes: Of what is weighted, shape ``(m,)``.
        generator: Of random numbers.
    """
    typical = layout.magnitudes(sizes)
    most = min((_MOST_EXPONENT.get(type_.dtype, _USUAL) for type_ in layout.types), default=_USUAL)
    exponents = -np.round(np.log2(np.where(typical > 0, typical, 1.0)))
    return layout.rounded(random(layout, generator) * 2.0 ** np.clip(exponents, -most, most))


def pairing(covector: np.ndarray, vector: np.ndarray) -> float:
    """Returns what a cotangent makes of a tangent: JAX's pairing, ``Re sum u v``, for real and complex entries."""
    return float(np.sum(covector * vector).real)
