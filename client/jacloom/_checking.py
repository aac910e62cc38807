"""Whether a function's derivatives at a point are right: its own passes against each other, and against finite differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from jacloom import _differences, _directions
from jacloom._certificate import ADJOINT, VALUE, Certificate, Finding, Verdict
from jacloom._differences import Differences
from jacloom._layout import Layout
from jacloom._linearity import linearity
from jacloom._passes import Passes
from jacloom_graph.answer import Derivative


@np.errstate(all="ignore")  # entries that are not finite are told of in words
def certify(passes: Passes, seed: int = 0) -> Certificate:
    """Returns what holds of a function's derivatives at a point, found in five evaluations, one JVP and three VJPs; where they leave doubts, in more.

    1. The value is finite, and the passes return the same as the function.
    2. Finite differences along a random direction ``v`` equal the JVP, entry by entry, up to what ``Line.tolerance`` says. In reverse mode alone,
       those of a random combination ``u`` of the outputs equal the VJP's product with the direction.
    3. ``<u, J v> = <J^T u, v>`` up to ``sqrt(eps) (sum |u_i (J v)_i| + sum |(J^T u)_j v_j|)``.
    4. ``J^T (c u) = c J^T u`` for ``u`` of the unit's scale and a large negative ``c``, up to ``eps ** (1/4)``: a VJP is linear.

    Args:
        passes: The function at the point.
        seed: Of the random directions.

    Raises:
        ModeUnavailableError: if the function has derivatives in neither mode.
    """
    if not passes.inputs.size or not passes.outputs.size:
        return Certificate((Finding(_differences.CHECK, Verdict.NOT_CHECKED, detail="there is nothing to differentiate"),))
    generator = np.random.default_rng(seed)
    middle = passes.value(passes.point)
    differences = Differences(passes, generator, middle)
    compared = differences.findings()
    adjoint, pulled = _adjoint(passes, generator, differences, finite=bool(np.isfinite(middle).all()))
    values = [*_values(passes, middle, {"JVP": differences.pushed, "VJP": differences.pulled or pulled})]
    unusual = not_finite(VALUE, passes.outputs, middle)
    values += [unusual] if unusual else [] if values else [Finding(VALUE, Verdict.HOLDS)]
    linear = linearity(passes, generator, middle)
    return Certificate((*values, *compared, adjoint, linear), **counted(passes.counts))


def counted(counts: Counter[Derivative]) -> dict[str, int]:
    """Returns the passes made, as a certificate has them."""
    names = {"evaluations": Derivative.EVALUATE, "jvps": Derivative.JVP, "vjps": Derivative.VJP, "hvps": Derivative.HVP}
    return {name: counts[derivative] for name, derivative in names.items()}


def not_finite(check: str, layout: Layout, entries: np.ndarray) -> Finding | None:
    """Returns the finding about entries that are not finite, or None."""
    bad = np.flatnonzero(~np.isfinite(entries))
    if not bad.size:
        return None
    share = f"{bad.size:,} of {entries.size:,} entries; " if entries.size > 1 else ""
    return Finding(check, Verdict.NOT_FINITE, place=layout.place(int(bad[0])), detail=f"{share}client.diagnose says which operation makes it so")


def _values(passes: Passes, middle: np.ndarray, found: dict[str, tuple[np.ndarray, np.ndarray] | None]) -> Iterator[Finding]:
    """Yields where a pass returns another value than the function: by more than ``eps ** (1/4)`` of the larger of its own size and its leaf's.

    That is much, because programs with and without derivatives may round differently where values cancel.
    """
    finite = np.isfinite(middle)
    allowed = max(passes.inputs.epsilon, passes.outputs.epsilon) ** 0.25 * np.maximum(np.abs(middle), passes.outputs.magnitudes(middle))
    for mode, pair in found.items():
        if pair is None:
            continue
        error = np.where(finite, np.nan_to_num(np.abs(pair[0] - middle), nan=np.inf), 0.0)
        worst = int(np.argmax(error - np.where(finite, allowed, 0.0)))
        if error[worst] > allowed[worst]:
            detail = (
                f"f returns {middle[worst]:.8g}, the {mode} comes with {pair[0][worst]:.8g}: a custom rule returns another value than its function"
            )
            yield Finding(VALUE, Verdict.DIFFERS, float(error[worst]), float(allowed[worst]), passes.outputs.place(worst), detail=detail)


def _adjoint(
    passes: Passes, generator: np.random.Generator, differences: Differences, *, finite: bool
) -> tuple[Finding, tuple[np.ndarray, np.ndarray] | None]:
    """Returns what holds of the adjoint identity, and the value and VJP found for it.

    Args:
        passes: The function at the point.
        generator: Of random numbers.
        differences: With the direction that was taken.
        finite: Whether the value is.
    """
    if differences.tangent is None:
        return Finding(ADJOINT, Verdict.NOT_CHECKED, detail="there is no direction to check it along"), None
    if differences.pushed is None:
        return _unavailable("forward", passes), None
    tangent, pushed = differences.tangent, differences.pushed[1]
    if not np.isfinite(pushed).all():
        # That of a value which is not finite is no news.
        unknown = Finding(ADJOINT, Verdict.NOT_CHECKED, detail="the JVP is not finite")
        return ((not_finite("JVP", passes.outputs, pushed) if finite else None) or unknown), None
    cotangent = _directions.weights(passes.outputs, pushed, generator)
    found = passes.pull(cotangent)
    if found is None:
        return _unavailable("reverse", passes), None
    pulled = found[1]
    if not np.isfinite(pulled).all():
        unknown = Finding(ADJOINT, Verdict.NOT_CHECKED, detail="the VJP is not finite")
        return ((not_finite("VJP", passes.inputs, pulled) if finite else None) or unknown), found
    ahead, back = _directions.pairing(cotangent, pushed), _directions.pairing(pulled, tangent)
    scale = np.sum(np.abs(cotangent * pushed)) + np.sum(np.abs(pulled * tangent))
    error, allowed = abs(ahead - back), float(np.sqrt(max(passes.inputs.epsilon, passes.outputs.epsilon)) * scale)
    if error <= allowed:
        return Finding(ADJOINT, Verdict.HOLDS, error, allowed), found
    detail = f"<u, J v> is {ahead:.8g} in forward mode, <J^T u, v> is {back:.8g} in reverse mode: a custom rule has a wrong transpose"
    return Finding(ADJOINT, Verdict.DIFFERS, error, allowed, detail=detail), found


def _unavailable(mode: str, passes: Passes) -> Finding:
    refusal = passes.refused[Derivative.JVP if mode == "forward" else Derivative.VJP]
    return Finding(ADJOINT, Verdict.NOT_CHECKED, detail=f"{mode} mode is not available: {refusal}")
