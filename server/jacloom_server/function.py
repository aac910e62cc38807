"""A registered function, and what is remembered of it: prices, widths, modes. Found out by the clerk when first asked for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import ray

from jacloom_server import work
from jacloom_server.detached import detached
from jacloom_server.plan import Leg
from jacloom_server.pool import Pool
from jacloom_server.pricing import Correction
from jacloom_server.tuning import Tuner
from jacloom_worker.launch import INLINE_BYTES
from jacloom_worker.protocol import DerivativeReport, Description, Kernel, Load, Survey

_MOST_KNOWN: Final = 256
"""Surveys, and kernels' widths, remembered for one function."""


@dataclass(eq=False, slots=True)
class Function:
    """A registered function. Calls under way hold on to it, so that they end as if it were still registered when it is not any more."""

    graph: bytes
    description: Description
    display_name: str
    created: datetime
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Ray ObjectRefs of the blobs that the graph names."""
    kept: bool = False
    """Stays until it is deleted, and outlives the server where there is a folder. Otherwise it is leased: forgotten when its room is needed."""
    number: int = 0
    """Counts registrations."""
    surveys: OrderedDict[tuple[object, ...], Survey | asyncio.Task[Survey]] = field(default_factory=OrderedDict)
    tuners: OrderedDict[tuple[Kernel, str], Tuner] = field(default_factory=OrderedDict)
    """What measurements found, by kernel (with width 0) and platform."""
    corrections: OrderedDict[tuple[Kernel, str], Correction] = field(default_factory=OrderedDict)
    """How far estimated prices are off, by forward kernel (neither coloured, with width 0) and platform."""
    report: DerivativeReport | asyncio.Task[DerivativeReport] | None = None
    """In which modes it can be differentiated, once somebody has asked."""
    _stored: Any = None

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return self.description.id

    @property
    def name(self) -> str:
        """``"functions/<id>"``."""
        return f"functions/{self.id}"

    def load(self) -> Load:
        """Returns the function for a process that does not hold it."""
        if self._stored is None:
            self._stored = self.graph if len(self.graph) <= INLINE_BYTES else ray.put(self.graph)
        return Load(self._stored, self.constants, self.description.outputs)

    def tuner(self, kernel: Kernel, platform: str, leg: Leg) -> Tuner:
        """Returns what is known of the widths of a kernel that computes these passes; at first, what the plan says."""
        tuner = self.tuners.get((kernel, platform))
        if tuner is None:
            tuner = self.tuners[kernel, platform] = Tuner(leg.tile, leg.widest)
            while len(self.tuners) > _MOST_KNOWN:
                self.tuners.popitem(last=False)
        return tuner

    def correction(self, kernel: Kernel, platform: str) -> Correction:
        """Returns what is known of how far prices are off, for the leaves of a kernel."""
        found = self.corrections.get((kernel, platform))
        if found is None:
            found = self.corrections[kernel, platform] = Correction()
            while len(self.corrections) > _MOST_KNOWN:
                self.corrections.popitem(last=False)
        return found

    async def survey(self, pool: Pool, wrt: tuple[int, ...], outputs: tuple[int, ...], holomorphic: bool, *, second: bool = False) -> Survey:
        """Returns which derivatives the function has with respect to some leaves, and their price; asked once and remembered.

        Args:
            pool: Where the clerk is.
            wrt: Input leaves.
            outputs: Output leaves.
            holomorphic: As ``Kernel.holomorphic``.
            second: Whether second derivatives are wanted.

        Raises:
            Fault: What keeps the clerk from answering.
        """
        key = (wrt, outputs, holomorphic, second)
        known = self.surveys.get(key)
        if isinstance(known, Survey):
            return known
        if known is None:
            known = self.surveys[key] = detached(self._survey(pool, key))
        return await asyncio.shield(known)

    async def _survey(self, pool: Pool, key: tuple[tuple[int, ...], tuple[int, ...], bool, bool]) -> Survey:
        try:
            answer = await pool.ask(work.survey(self.load(), *key))
        except BaseException:
            self.surveys.pop(key, None)
            raise
        assert isinstance(answer, Survey)
        self.surveys[key] = answer
        while len(self.surveys) > _MOST_KNOWN:
            self.surveys.popitem(last=False)
        return answer

    async def derivatives(self, pool: Pool) -> DerivativeReport:
        """Returns in which modes the function can be differentiated with respect to each leaf; found out when first asked for, and remembered.

        Raises:
            Fault: What keeps the clerk from answering.
        """
        if self.report is None:
            self.report = detached(self._derivatives(pool))
        known = self.report
        return known if isinstance(known, DerivativeReport) else await asyncio.shield(known)

    async def _derivatives(self, pool: Pool) -> DerivativeReport:
        try:
            answer = await pool.ask(work.derivatives(self.load()))
        except BaseException:
            self.report = None
            raise
        assert isinstance(answer, DerivativeReport)
        self.report = answer
        return answer
