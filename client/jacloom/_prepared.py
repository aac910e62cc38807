"""A transformation of one kind of call, worked out as far as possible without values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jacloom._query import Query
from jacloom_graph.answer import ArrayKey

Arrays = Mapping[ArrayKey, Any]
"""The arrays of an answer; in the place of a sparse derivative's entries, the matrix that they are the entries of."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The arrays that a request comes with beside its point."""

    seeds: Sequence[np.ndarray] = ()
    """Tangents or cotangents, one for each leaf that has any."""
    weights: Sequence[np.ndarray] = ()
    """One for each output, where their weighted sum is differentiated."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """What to ask of the service, and how to read its answer."""

    query: Query
    build: Callable[[Arrays], Any]
    """Makes the user's result of the answer's arrays."""
    vectors: Callable[[Any], Vectors] | None = None
    """Makes tangents, cotangents and weights for the request of what the user passed."""
