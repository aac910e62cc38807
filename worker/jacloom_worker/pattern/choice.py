"""Which colouring a pattern is computed by: the one whose passes cost least."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from jacloom_worker.pattern import colouring
from jacloom_worker.pattern.colouring import Colouring
from jacloom_worker.protocol import Prices, Weighed

_WORTH: int = 3
"""Both directions are tried together only where one alone takes more passes than this: two is the least that both together take."""

_EMPTY: int = 4
"""And only where at most one entry in so many is there: what is left of a fuller matrix without some lines is as full."""


def cheapest(pattern: csr_array, prices: Prices) -> tuple[Colouring, tuple[Weighed, ...]]:
    """Returns the colouring of a pattern whose passes cost least, and all that were weighed, this one first.

    A line of so many entries needs as many passes across: a direction that cannot win by that bound is not coloured.

    Args:
        pattern: Boolean, shape ``(m, n)``.
        prices: At least one is not None.
    """
    rows, columns = np.diff(pattern.indptr), np.bincount(pattern.indices, minlength=pattern.shape[1])
    bounds: dict[str, tuple[float, float, int]] = {}
    if prices.forward is not None:
        bounds["coloured forward"] = (prices.forward, prices.forward_shared, int(rows.max(initial=0)))
    if prices.reverse is not None:
        bounds["coloured reverse"] = (prices.reverse, prices.reverse_shared, int(columns.max(initial=0)))
    best, least, winner = None, np.inf, ""
    weighed: dict[str, Weighed] = {}
    for name in sorted(bounds, key=lambda each: bounds[each][0] * bounds[each][2] + bounds[each][1]):
        price, shared, bound = bounds[name]
        if best is not None and price * bound + shared >= least:
            weighed[name] = _weighed(name, bound, exact=False)
            continue
        found = colouring.by_columns(pattern) if name == "coloured forward" else colouring.by_rows(pattern)
        passes = found.forward + found.reverse
        weighed[name] = _weighed(name, passes, exact=True)
        if price * passes + shared < least:
            best, least, winner = found, price * passes + shared, name
    assert best is not None
    rather_empty = _EMPTY * pattern.nnz < pattern.shape[0] * pattern.shape[1]
    if len(bounds) == 2 and rather_empty and best.forward + best.reverse > _WORTH and prices.forward is not None and prices.reverse is not None:
        relative = prices.reverse / prices.forward if prices.forward else 1.0
        both = colouring.by_both(pattern, best, relative)
        if both.forward and both.reverse:
            weighed["bicoloured"] = Weighed("bicoloured", both.forward, both.reverse, exact=True)
            shared = prices.forward_shared + prices.reverse_shared
            if both.forward * prices.forward + both.reverse * prices.reverse + shared < least:
                best, winner = both, "bicoloured"
    return best, (weighed.pop(winner), *weighed.values())


def _weighed(name: str, passes: int, *, exact: bool) -> Weighed:
    forward = name == "coloured forward"
    return Weighed(name, passes if forward else 0, 0 if forward else passes, exact)
