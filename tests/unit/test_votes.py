"""When an attempt's verdict is believed."""

from __future__ import annotations

import numpy as np
import pytest

from jacloom._certificate import Verdict
from jacloom._votes import Votes

H, D, K, J, N, F = Verdict.HOLDS, Verdict.DIFFERS, Verdict.KINK, Verdict.JUMP, Verdict.NOT_CHECKED, Verdict.NOT_FINITE


@pytest.mark.parametrize(
    ("attempts", "verdict"),
    [
        ([], N),
        ([H], H),
        ([N, N, H], H),
        ([D], N),
        ([D, H], N),
        ([D, H, D], D),
        ([H, D, D], H),
        ([K, K], K),
        ([K, D, H, K], K),
        ([J, J], N),
        ([J, J, N, J], J),
        ([F, H], F),
    ],
)
def test_what_is_bad_needs_more_than_one_attempt(attempts: list[Verdict], verdict: Verdict) -> None:
    votes = Votes(2)
    for attempt in attempts:
        votes.add(np.array([H, attempt]))
    assert votes.verdicts().tolist() == [H if attempts else N, verdict]
    assert votes.settled.tolist() == [bool(attempts), verdict is not N]


def test_the_last_attempt_that_counted_is_known() -> None:
    votes = Votes(1)
    for verdict in (N, D, N, D, D):
        votes.add(np.array([verdict]))
    assert votes.latest(D, 0) == 3


def test_no_rows_are_settled() -> None:
    votes = Votes(0)
    votes.add(np.zeros(0, object))
    assert votes.settled.all()
