"""Whether a VJP is linear in its cotangent, as the transpose of a derivative is: a rule that bends gradients is not."""

from __future__ import annotations

import numpy as np

from jacloom import _directions
from jacloom._certificate import LINEARITY, Finding, Verdict
from jacloom._passes import Passes
from jacloom_graph.answer import Derivative

_FACTOR = -(2.0**12)
"""A power of two, so that a linear program rounds alike. Negative, because what a rule does to one sign it may not do to the other."""
_SMALL_FACTOR = -(2.0**4)
"""In place of it where cotangents are float16, which overflow."""


def linearity(passes: Passes, generator: np.random.Generator, middle: np.ndarray) -> Finding:
    """Returns whether VJPs are linear: of a cotangent of the unit's scale, which is what gradients begin with, and of a multiple. Takes two VJPs.

    Entries may differ by ``eps ** (1/4)`` of their own size or that of their leaf: solvers within a rule may stop at different places.

    Args:
        passes: The function at the point.
        generator: Of random numbers.
        middle: Its value, shape ``(m,)``. Outputs that are not finite are left out.
    """
    unit = passes.outputs.rounded(np.where(np.isfinite(middle), _directions.random(passes.outputs, generator), 0.0))
    factor = _SMALL_FACTOR if any(type_.dtype == "float16" for type_ in passes.outputs.types) else _FACTOR
    first = passes.pull(unit)
    many = None if first is None else passes.pull(factor * unit)
    if first is None or many is None:
        return Finding(LINEARITY, Verdict.NOT_CHECKED, detail=f"reverse mode is not available: {passes.refused[Derivative.VJP]}")
    expected, got = factor * first[1], many[1]
    error = np.abs(expected - got)
    finite = np.isfinite(error)
    if not finite.any():
        return Finding(LINEARITY, Verdict.NOT_CHECKED, detail="VJPs are not finite")
    size = np.where(finite, np.abs(expected), 0.0)
    allowed = max(passes.inputs.epsilon, passes.outputs.epsilon) ** 0.25 * np.maximum(size, passes.inputs.magnitudes(size))
    worst = int(np.argmax(np.where(finite, error - allowed, -np.inf)))
    if error[worst] <= allowed[worst]:
        return Finding(LINEARITY, Verdict.HOLDS, float(error[worst]), float(allowed[worst]))
    detail = (
        f"the VJP of a random cotangent is {first[1][worst]:.6g} there, and of {factor:g} times that cotangent {got[worst]:.6g} in place of "
        f"{expected[worst]:.6g}: a custom rule on the way bends its cotangent, as one that clips gradients does"
    )
    return Finding(LINEARITY, Verdict.DIFFERS, float(error[worst]), float(allowed[worst]), argument=passes.inputs.place(worst), detail=detail)
