"""Places at which a test ends this very process, as a crash would: nothing is flushed, closed or told to anybody."""

from __future__ import annotations

import itertools
import os
import signal
from typing import Final

VARIABLE: Final = "JACLOOM_FAILPOINT"
"""``"name:n"``: the process ends when it comes to that place for the n-th time. Not set outside of tests."""

NAMES: Final = (
    "before-rename",  # of each chunk
    "between-renames",  # some chunks of a unit are in place, others are not
    "before-directory-sync",  # all chunks of a batch are in place, none of that is sure to last
    "before-transaction",
    "within-transaction",  # all is written, nothing is committed
    "after-transaction",
    "before-removal",  # of an attempt's folder, which has nothing of worth any more
)
"""Every step of a commit, in order. The three of transactions belong to every write of the ledger."""


def _armed(setting: str) -> tuple[str, int]:
    """Returns place and count of a setting; no place where it is empty."""
    if not setting:
        return "", 0
    name, _, count = setting.partition(":")
    if name not in NAMES or not count.isdecimal() or int(count) < 1:
        raise ValueError(
            f"{VARIABLE} must be a name and a count from 1 on, such as {NAMES[0]}:1, with one of the names {', '.join(NAMES)}; got {setting!r}."
        )
    return name, int(count)


_NAME, _COUNT = _armed(os.environ.get(VARIABLE, ""))
_VISITS = itertools.count(1)


def reached(name: str) -> None:
    """Ends the process with SIGKILL if ``JACLOOM_FAILPOINT`` says so, and does nothing otherwise."""
    if name == _NAME and next(_VISITS) == _COUNT:
        os.kill(os.getpid(), signal.SIGKILL)
