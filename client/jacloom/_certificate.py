"""What a check found, and how that is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

VALUE, ADJOINT, LINEARITY = "value", "adjoint identity", "linearity"
"""What passes are compared with each other by. A derivative may have all of it and be wrong."""


class Verdict(Enum):
    """How one comparison came out."""

    HOLDS = "holds"
    DIFFERS = "differs"
    KINK = "kink"
    """The function has different slopes on both sides of the point, so there is no derivative that could be right or wrong."""
    JUMP = "jump"
    """The function is not continuous at the point."""
    NOT_FINITE = "not finite"
    NOT_CHECKED = "not checked"

    @property
    def bad(self) -> bool:
        """Whether something is known not to hold."""
        return self not in (Verdict.HOLDS, Verdict.NOT_CHECKED)


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison and how it came out."""

    check: str
    """What was compared, such as ``"finite differences"``."""
    verdict: Verdict
    error: float | None = None
    """How far both sides are apart where they are furthest apart, in terms of ``tolerance``'s scale; None where nothing was compared."""
    tolerance: float | None = None
    """How far they may be apart at that place."""
    place: str = ""
    """Where, such as ``"out['y'][2]"``; empty where it holds, or concerns the whole."""
    argument: str = ""
    """With respect to what, such as ``"args[0]['w'][1, 2]"``; empty where that is not known."""
    detail: str = ""
    """Figures and advice."""

    def __str__(self) -> str:
        where = f" at {self.place}" if self.place else ""
        where += f" by {self.argument}" if self.argument else ""
        figures = f" ({self.error:.2g}, at most {self.tolerance:.2g})" if self.error is not None and self.tolerance is not None else ""
        return f"{self.check}: {self.verdict.value}{where}{figures}{f'; {self.detail}' if self.detail else ''}"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was established about a function's derivatives at a point. ``print`` it; it is true if they were compared and all that was holds.

    Example:
        >>> assert client.check(jnp.sin, np.array([0.5, 2.0]))
    """

    findings: tuple[Finding, ...]
    evaluations: int = 0
    """Evaluations of the function that this took."""
    jvps: int = 0
    vjps: int = 0
    hvps: int = 0

    @property
    def verdict(self) -> Verdict:
        """What is known in all.

        The first verdict that is bad; else ``HOLDS`` where at least one entry of the derivative was compared with the function itself, and all that
        were hold; else ``NOT_CHECKED``: passes that only agree with each other say nothing of whether they are right.
        """
        bad = next((finding.verdict for finding in self.findings if finding.verdict.bad), None)
        compared = any(finding.verdict is Verdict.HOLDS and finding.check not in (VALUE, ADJOINT, LINEARITY) for finding in self.findings)
        return bad or (Verdict.HOLDS if compared else Verdict.NOT_CHECKED)

    @property
    def ok(self) -> bool:
        """Whether ``verdict`` is ``HOLDS``. Entries that could not be compared are not in the way if others could; they are in ``findings``."""
        return self.verdict is Verdict.HOLDS

    @property
    def passes(self) -> int:
        """Evaluations and products that this took."""
        return self.evaluations + self.jvps + self.vjps + self.hvps

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        counts = ((self.evaluations, "evaluation"), (self.jvps, "JVP"), (self.vjps, "VJP"), (self.hvps, "HVP"))
        took = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count)
        found = "does not hold" if self.verdict.bad else self.verdict.value
        return "\n".join([f"{found}{f' ({took})' if took else ''}", *map(str, self.findings)])
