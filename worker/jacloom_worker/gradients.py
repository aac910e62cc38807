"""Whether a custom rule leaves second derivatives symmetric, seen in its programs.

Take ``F(u)`` of ``u = phi(x)``, where a rule says ``du = P(x) dx``. The gradient is ``P^T F'(phi(x))``, and its derivative, taken forward,
``P^T F'' D + sum_k F'_k dP_k``, where ``D`` is what differentiating the value of ``phi`` within the rule gives. It is symmetric for every ``F`` if

1. ``D`` is ``P``: so it is in a rule that computes its value by calling its own function again; and
2. each row of ``P`` is a gradient: as it is where it has one entry that depends on one entry of ``x``, both the same, as in functions of single
   elements, and in rules that are known to be right.

Nothing is tried at points, so what is found holds everywhere, and of wrong rules, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.scipy import special
from scipy.sparse import csr_array

from jacloom_worker.forms import Forms
from jacloom_worker.pattern.detection import detect
from jacloom_worker.pattern.sets import TooDense
from jacloom_worker.pruning import pruned

Function = Callable[..., Sequence[Any]]

_KNOWN: Final[tuple[Callable[..., Any], ...]] = (jnp.logaddexp, jnp.logaddexp2, special.xlogy, special.xlog1py)
"""Functions of two arrays whose rules in JAX are derivatives. A rule that has the program of one of them is as right, whatever it is called."""
_MOST: Final = 1 << 24


def symmetric(function: Function, inputs: Sequence[Any], active: Sequence[int]) -> bool:
    """Returns whether second derivatives of all that is computed from a function's results are symmetric, as far as its rule goes.

    Args:
        function: It is differentiated by a rule.
        inputs: Types of its arguments, as ``jax.ShapeDtypeStruct``.
        active: The arguments that are differentiated.
    """
    rule = _Rule(function, inputs, active)
    try:
        return rule.differentiates_its_value() and (rule.of_single_entries() or rule.known())
    except Exception:  # whatever JAX or the rule raises: nothing is known of it, and the derivative itself says what is wrong
        return False


class _Rule:
    """A function with a rule, and the programs of its derivatives."""

    def __init__(self, function: Function, inputs: Sequence[Any], active: Sequence[int]) -> None:
        self._function, self._inputs, self._active = function, list(inputs), list(active)
        self._directions = [self._inputs[place] for place in active]

    def differentiates_its_value(self) -> bool:
        """Returns whether the first condition holds."""

        def again(arguments: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
            return self._along(lambda *moved: self._along(self._function, moved, directions)[0], arguments, directions)[1]

        forms = Forms()
        return forms.of(self._traced(self._first)) == forms.of(self._traced(again))

    def of_single_entries(self) -> bool:
        """Returns whether the second condition holds because of every row's shape."""
        try:
            slope, bend = self._pattern(self._traced(self._first)), self._pattern(self._second)
        except TooDense:
            return False
        # An entry may move with any one of the inputs, and its slope with no other.
        return bool((np.diff((slope + bend).tocsr().indptr) <= 1).all())

    def known(self) -> bool:
        """Returns whether the second condition holds because JAX has the same rule."""
        if len(self._inputs) != 2:
            return False
        forms = Forms()
        mine = forms.of(self._second)
        return any(forms.of(_Rule(lambda *args, f=other: [f(*args)], self._inputs, self._active)._second) == mine for other in _KNOWN)

    @property
    def _second(self) -> ClosedJaxpr:
        def second(arguments: Sequence[Any], directions: Sequence[Any], others: Sequence[Any]) -> Sequence[Any]:
            return self._along(lambda *moved: self._first(moved, directions), arguments, others)[1]

        return self._traced(second, self._directions)

    def _first(self, arguments: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
        return self._along(self._function, arguments, directions)[1]

    def _along(self, function: Function, arguments: Sequence[Any], directions: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """Returns a function's results and their tangents along directions of the active arguments."""

        def restricted(*active: Any) -> Sequence[Any]:
            given = dict(zip(self._active, active, strict=True))
            return list(function(*(given.get(place, argument) for place, argument in enumerate(arguments))))

        found: tuple[Sequence[Any], Sequence[Any]] = jax.jvp(restricted, [arguments[place] for place in self._active], list(directions))
        return found

    def _traced(self, function: Function, *more: Sequence[Any]) -> ClosedJaxpr:
        closed = jax.make_jaxpr(function)(self._inputs, self._directions, *more)
        return ClosedJaxpr(pruned(closed.jaxpr), closed.consts)

    def _pattern(self, closed: ClosedJaxpr) -> csr_array:
        """Returns which entries of the results depend on which of the last directions."""
        inputs = len(closed.in_avals)
        return detect(closed, range(inputs - len(self._directions), inputs), [None] * inputs, _MOST)
