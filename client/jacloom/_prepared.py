"""A transformation of one kind of call, worked out as far as possible without values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jacloom._query import Query
from jacloom_graph.answer import ArrayKey

Arrays = Mapping[ArrayKey, Any]
"""The arrays of an answer; in the place of a sparse derivative's entries, the matrix that they are the entries of."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What to ask of the service, and how to read its answer."""

    query: Query
    build: Callable[[Arrays], Any]
    """Makes the user's result of the answer's arrays."""
    seeds: Callable[[Any], list[np.ndarray]] | None = None
    """Makes tangents or cotangents for the request of what the user passed."""
