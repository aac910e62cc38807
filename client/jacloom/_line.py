"""A function along a line: its derivative by finite differences, how far that can be trusted, and kinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jacloom._certificate import Verdict

FAR = 4
"""The longer of both steps, in terms of the shorter."""
_ROUNDING = 8.0
"""How much larger than the rounding of the function's values a difference of them may be."""


def power(epsilon: float, exponent: float) -> float:
    """Returns the power of two next to a power of ``epsilon``: products with it are not rounded."""
    return float(2.0 ** round(np.log2(epsilon) * exponent))


def first_step(epsilon: float) -> float:
    """Returns about ``epsilon ** (1/3)``, where rounding and truncation of central differences are alike if the function's own scale is 1."""
    return power(epsilon, 1 / 3)


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A function's values at five points of a line: ``0``, ``±step`` and ``±FAR * step``. All arrays have the shape ``(m,)``."""

    step: float
    epsilon: float
    """Of the coarsest dtype in play."""
    middle: np.ndarray
    near: tuple[np.ndarray, np.ndarray]
    """At ``+step`` and ``-step``."""
    far: tuple[np.ndarray, np.ndarray]
    size: np.ndarray
    """Absolute values that were added up to the values: what they are rounded relative to."""

    @classmethod
    def along(cls, f: Callable[[float], np.ndarray], middle: np.ndarray, step: float, epsilon: float) -> Line:
        """Returns a function's line, with four evaluations."""
        near, far = (f(step), f(-step)), (f(FAR * step), f(-FAR * step))
        return cls(step, epsilon, middle, near, far, np.max(np.abs([middle, *near, *far]), axis=0))

    def weighted(self, weights: np.ndarray) -> Line:
        """Returns the line of the real part of the values' weighted sum, ``m = 1``; values without weight are left out, finite or not."""
        kept = weights != 0

        def total(values: np.ndarray) -> np.ndarray:
            return np.asarray(np.sum(weights[kept] * values[kept], keepdims=True).real)

        (near, near2), (far, far2) = self.near, self.far
        size = np.sum(np.abs(weights[kept]) * self.size[kept], keepdims=True)
        return Line(self.step, self.epsilon, total(self.middle), (total(near), total(near2)), (total(far), total(far2)), size)

    @property
    def slope(self) -> np.ndarray:
        """The derivative: Richardson's extrapolation of the central differences of both steps, with an error of the order ``step ** 4``."""
        near, far = self._central()
        return np.asarray((FAR**2 * near - far) / (FAR**2 - 1))

    @property
    def truncation(self) -> np.ndarray:
        """How far ``slope`` may be off because the function is not straight: twice what both steps differ by."""
        near, far = self._central()
        return np.asarray(2 * np.abs(near - far))

    @property
    def rounding(self) -> np.ndarray:
        """What the rounding of the values may add to a slope: ``8 eps |f| / h``."""
        return _ROUNDING * self.epsilon * self.size / self.step

    @property
    def noise(self) -> np.ndarray:
        """What rounding within the function may add: what remains of the second differences when that of a smooth function is taken away."""
        return _ROUNDING * np.abs(self._bend(self.near) - self._bend(self.far) / FAR**2) / self.step

    def tolerance(self, claimed: np.ndarray) -> np.ndarray:
        """Returns how far a right derivative may be from ``slope``: ``truncation + noise + rounding + sqrt(eps) max(|slope|, |claimed|)``."""
        return np.asarray(self.truncation + self.noise + self.rounding + np.sqrt(self.epsilon) * np.maximum(np.abs(self.slope), np.abs(claimed)))

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the derivatives to the left and to the right, by the shorter step."""
        return (self.middle - self.near[1]) / self.step, (self.near[0] - self.middle) / self.step

    def compared(self, claimed: np.ndarray) -> np.ndarray:
        """Returns for every value what becomes of a claimed derivative: one ``Verdict`` each.

        It holds or differs only where the tolerance is small against the derivative itself: 2 per mille of it in float64, a tenth of it in float32
        and shorter. The size of others says nothing, since a step may suit these and be far too long for it.

        Args:
            claimed: What the derivative is said to be.
        """
        with np.errstate(all="ignore"):
            slope, error, allowed = np.abs(self.slope), np.abs(self.slope - claimed), self.tolerance(claimed)
            # A claim says something about the size only where the function is straight: a step beyond a pole has any slope.
            straight = self.truncation <= np.maximum(self.rounding, 0.1 * slope)
            settled = allowed <= min(0.1, 16 * self.epsilon**0.25) * np.maximum(np.where(straight, np.abs(claimed), 0.0), slope)
            # What is zero has no size of its own but that which it has as far away as the step is relative to.
            settled |= allowed <= np.sqrt(self.epsilon) * self._bent()
            settled |= (claimed == 0) & (slope == 0)
            verdicts = np.full(error.shape, Verdict.HOLDS)
            verdicts[error > allowed] = Verdict.DIFFERS
            verdicts[~settled] = Verdict.NOT_CHECKED
            verdicts[self._kinks()] = Verdict.KINK
            verdicts[self._jumps()] = Verdict.JUMP
        finite = np.all(np.isfinite([*self.near, *self.far]), axis=0) & np.isfinite(claimed)
        verdicts[~finite] = Verdict.NOT_CHECKED
        verdicts[~np.isfinite(self.middle)] = Verdict.NOT_FINITE
        return verdicts

    def _kinks(self) -> np.ndarray:
        """Where the slopes of both sides differ, and each of them does not depend on the step."""
        left, right = self.sides()
        left_far, right_far = (self.middle - self.far[1]) / (FAR * self.step), (self.far[0] - self.middle) / (FAR * self.step)
        # What the second derivative adds grows with the step; extrapolated to step 0 only a kink is left.
        gap = np.abs(FAR * (right - left) - (right_far - left_far)) / (FAR - 1)
        steady = np.abs(right - right_far) + np.abs(left - left_far) <= min(0.1, max(0.01, 16 * self.step)) * gap
        large = gap > 4 * self.rounding + np.sqrt(self.epsilon) * np.maximum(np.abs(left), np.abs(right))
        return np.asarray(steady & large)

    def _bent(self) -> np.ndarray:
        """Returns the size that the second derivative gives a slope at a distance of 1; 0 where rounding hides it, or others are in the way."""
        near, far = self._bend(self.near), self._bend(self.far)
        clear = np.abs(near) > 2 * _ROUNDING * self.epsilon * self.size
        quadratic = np.abs(FAR**2 * near - far) <= 0.5 * np.abs(far)
        return np.asarray(np.where(clear & quadratic, np.abs(near), 0.0) / self.step**2)

    def _jumps(self) -> np.ndarray:
        """Where the function is elsewhere at once, however short the step."""
        found = np.zeros(self.middle.shape, bool)
        for near, far in zip(self.near, self.far, strict=True):
            short, long = near - self.middle, far - self.middle
            found |= (np.abs(long - short) <= 0.1 * np.abs(short)) & (np.abs(short) > self.epsilon**0.25 * self.size)
        return found

    def _central(self) -> tuple[np.ndarray, np.ndarray]:
        return (self.near[0] - self.near[1]) / (2 * self.step), (self.far[0] - self.far[1]) / (2 * FAR * self.step)

    def _bend(self, sides: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.asarray(sides[0] + sides[1] - 2 * self.middle)
