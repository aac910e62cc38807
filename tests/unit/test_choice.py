"""Which colouring is chosen, and what is said of the others."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array

from jacloom_worker.pattern import colouring
from jacloom_worker.pattern.choice import cheapest
from jacloom_worker.protocol import Prices, Weighed


def filled(m: int, n: int, *, rows: int = 0, columns: int = 0) -> csr_array:
    """Returns a diagonal with some rows and columns filled."""
    dense = np.eye(m, n, dtype=bool)
    dense[:rows], dense[:, :columns] = True, True
    return csr_array(dense)


@pytest.mark.parametrize(
    ("forward", "reverse", "strategy", "passes"),
    [
        (1.0, 1.0, "coloured forward", (2, 0)),  # two columns by each pass, or five rows of which all but one are dense
        (1.0, None, "coloured forward", (2, 0)),
        (9.0, 1.0, "coloured reverse", (0, 7)),
        (None, 1.0, "coloured reverse", (0, 7)),
    ],
)
def test_prices_decide(forward: float | None, reverse: float | None, strategy: str, passes: tuple[int, int]) -> None:
    found, weighed = cheapest(filled(7, 4, columns=1), Prices(forward, reverse))
    assert (found.forward, found.reverse) == passes
    assert weighed[0] == Weighed(strategy, *passes, exact=True)


def test_both_directions_where_that_is_least() -> None:
    found, weighed = cheapest(filled(40, 50, rows=1, columns=1), Prices(1.0, 1.0))
    assert (weighed[0].strategy, weighed[0].exact) == ("bicoloured", True)
    assert (weighed[0].forward, weighed[0].reverse) == (found.forward, found.reverse)
    assert found.forward + found.reverse == 3
    assert {each.strategy for each in weighed[1:]} == {"coloured forward", "coloured reverse"}


def test_a_price_rules_both_directions_out() -> None:
    found, weighed = cheapest(filled(40, 50, rows=1, columns=1), Prices(1.0, 1000.0))
    assert (weighed[0].strategy, found.forward, found.reverse) == ("coloured forward", 50, 0)
    assert cheapest(filled(40, 50, rows=1, columns=1), Prices(1.0, None))[1] == (Weighed("coloured forward", 50, 0, exact=True),)


def test_what_cannot_win_is_not_coloured_and_its_bound_is_no_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    for name in ("by_columns", "by_rows"):
        whole = getattr(colouring, name)
        monkeypatch.setattr(colouring, name, lambda pattern, whole=whole, name=name: (tried.append(name), whole(pattern))[1])
    pattern = filled(9, 4, columns=1)
    _, weighed = cheapest(pattern, Prices(1.0, 1.0))
    assert tried == ["by_columns"]
    bound = weighed[1]
    assert (bound.strategy, bound.forward, bound.exact) == ("coloured reverse", 0, False)
    assert bound.reverse == 9
    assert bound.reverse <= colouring.by_rows(pattern).reverse


@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (3, 0)])
def test_nothing_takes_no_passes(shape: tuple[int, int]) -> None:
    found, weighed = cheapest(csr_array(shape, dtype=bool), Prices(1.0, 2.0))
    assert (found.forward, found.reverse) == (0, 0)
    assert (found.columns.shape, found.rows.shape) == ((shape[1],), (shape[0],))
    assert (weighed[0].forward, weighed[0].reverse) == (0, 0)


def test_a_scalar_and_passes_that_cost_nothing() -> None:
    for prices in (Prices(1.0, 1.0), Prices(0.0, 0.0), Prices(0.0, 1.0), Prices(1.0, 0.0)):
        found, _ = cheapest(csr_array(np.ones((1, 1), bool)), prices)
        assert found.forward + found.reverse == 1


def test_what_passes_share_counts_once_a_mode() -> None:
    pattern = csr_array(np.ones((7, 4), bool))
    assert cheapest(pattern, Prices(2.0, 1.0))[1][0].strategy == "coloured reverse"
    assert cheapest(pattern, Prices(2.0, 1.0, 0.0, 2.0))[1][0].strategy == "coloured forward"
    arrow = filled(40, 50, rows=1, columns=1)
    assert cheapest(arrow, Prices(1.0, 1.0, 10.0, 10.0))[1][0].strategy == "bicoloured"
    assert cheapest(arrow, Prices(1.0, 1.0, 10.0, 100.0))[1][0].strategy == "coloured forward"
