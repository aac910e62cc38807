"""What becomes of many comparisons that are each tried several times."""

from __future__ import annotations

import numpy as np

from jacloom._certificate import Verdict

NEEDED = {Verdict.DIFFERS: 2, Verdict.KINK: 2, Verdict.JUMP: 3}
"""Attempts that have to agree on what is bad. A pole next to the point looks like a jump until the step is shorter than the way there."""


class Votes:
    """The verdicts of several attempts at the same rows. A row that is settled takes no further votes."""

    def __init__(self, rows: int) -> None:
        """Starts without votes.

        Args:
            rows: Number of comparisons.
        """
        self._counts = {kind: np.zeros(rows, np.int8) for kind in Verdict}
        self._latest = {kind: np.zeros(rows, np.int8) for kind in Verdict}
        self._attempts = 0

    def add(self, verdicts: np.ndarray) -> None:
        """Takes in the verdicts of one more attempt, one ``Verdict`` per row."""
        unsettled = ~self.settled
        for kind in Verdict:
            voted = unsettled & (verdicts == kind)
            self._counts[kind] += voted
            self._latest[kind][voted] = self._attempts
        self._attempts += 1

    @property
    def settled(self) -> np.ndarray:
        """Which rows are clear: not finite, bad often enough, or in order when nothing was bad before."""
        return np.asarray(self.verdicts() != Verdict.NOT_CHECKED)

    def verdicts(self) -> np.ndarray:
        """Returns what is known of each row."""
        found = np.full(len(self._counts[Verdict.HOLDS]), Verdict.NOT_CHECKED)
        suspected = np.any([self._counts[kind] > 0 for kind in NEEDED], axis=0)
        found[(self._counts[Verdict.HOLDS] > 0) & ~suspected] = Verdict.HOLDS
        for kind, needed in NEEDED.items():
            found[self._counts[kind] >= needed] = kind
        found[self._counts[Verdict.NOT_FINITE] > 0] = Verdict.NOT_FINITE
        return found

    def latest(self, kind: Verdict, row: int) -> int:
        """Returns the number of the last attempt in which a row came out as ``kind``, or 0."""
        return int(self._latest[kind][row])
