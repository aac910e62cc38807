"""The sparsity of a derivative: detected in the program that computes its products, or given by the user, then coloured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jax.extend.core import ClosedJaxpr
from scipy.sparse import csr_array

from jacloom_graph.errors import Fault, Reason
from jacloom_worker import kernels, requirements, symmetry
from jacloom_worker.faults import explain
from jacloom_worker.kernels import Subject
from jacloom_worker.modes import live
from jacloom_worker.pattern import colouring
from jacloom_worker.pattern.choice import cheapest
from jacloom_worker.pattern.detection import MOST, detect
from jacloom_worker.pattern.layout import arrange
from jacloom_worker.pattern.sets import TooDense
from jacloom_worker.protocol import Dense, Kernel, Kind, Prices, Structure, Weighed


def structure(subject: Subject, kernel: Kernel, prices: Prices, most: int = MOST, given: Sequence[np.ndarray] = ()) -> Structure | Dense:
    """Returns the pattern of a derivative and the cheapest colouring of it; or why it is not worth one.

    Args:
        subject: The function, with its constants: zeros in them count.
        kernel: The tile kernel of the derivative. FORWARD and REVERSE mean the Jacobian, HESSIAN that of one scalar output.
        prices: Of one pass in either mode; for a HESSIAN of ``forward`` alone.
        most: How many entries are too many.
        given: Row pointers and column indices of a pattern to use instead of detecting it.

    Raises:
        Fault: INVALID_OPTION for a given pattern that is none; whatever keeps the derivative from being traced.
    """
    started = time.perf_counter()
    # Which entries there are does not depend on the mode: columns of a function that has only rows have the same pattern.
    checked = kernel if kernel.kind is Kind.HESSIAN else replace(kernel, kind=Kind.JVP)
    requirements.check(replace(checked, width=1), subject.inputs, subject.outputs)
    try:
        found = _given(subject, kernel, given) if len(given) else pattern(subject, kernel, most)
    except TooDense:
        return Dense(f"its pattern has more than {most:,} entries")
    made = _second(subject, kernel, found, detected=not len(given)) if kernel.kind is Kind.HESSIAN else arrange(found, *cheapest(found, prices))
    return replace(made, seconds=time.perf_counter() - started)


def _second(subject: Subject, kernel: Kernel, found: csr_array, *, detected: bool) -> Structure:
    """Returns the structure of a Hessian: star-coloured where it is known to be symmetric, else by columns, which hold whatever it is."""
    both = (found + found.T).tocsr()
    both.sort_indices()
    star = colouring.symmetric(both)
    suspects = symmetry.suspects(subject, kernel)
    if not suspects:
        return arrange(both, star, (Weighed("star-coloured", star.forward, 0, exact=True),))
    # Of a pattern that a user gives, one triangle is enough.
    whole = found if detected else both
    columns = colouring.by_columns(whole)
    # To prove what saves nothing would be a waste.
    doubt = symmetry.doubt(suspects) if star.forward < columns.forward else ""
    if star.forward < columns.forward and not doubt:
        return arrange(both, star, (Weighed("star-coloured", star.forward, 0, exact=True),))
    made = arrange(whole, columns, (Weighed("coloured forward", columns.forward, 0, exact=True),))
    return replace(made, doubt=doubt)


def pattern(subject: Subject, kernel: Kernel, most: int = MOST) -> csr_array:
    """Returns which entries of a derivative may differ from zero: boolean, shape ``(m, n)``, or ``(n, n)`` of a HESSIAN.

    Raises:
        TooDense: If there are more than ``most``.
        Fault: Whatever keeps the derivative from being traced.
    """
    if kernel.kind is Kind.HESSIAN:
        return _products(subject, Kernel("", Kind.HVP, kernel.wrt, kernel.outputs, inner=kernel.inner), most)
    try:
        return _products(subject, Kernel("", Kind.JVP, kernel.wrt, kernel.outputs), most)
    except TooDense:
        raise
    except Exception as error:
        if explain(error).reason is not Reason.MODE_UNAVAILABLE:
            raise
    # There is only a reverse rule. A pullback gives the transposed pattern.
    return _products(subject, Kernel("", Kind.VJP, kernel.wrt, kernel.outputs), most).T.tocsr()


def _products(subject: Subject, kernel: Kernel, most: int) -> csr_array:
    """Returns which entries of a product depend on which entries of the vector."""
    closed = kernels.traced(subject, kernel)
    closed = ClosedJaxpr(live(closed), closed.consts)
    inputs = len(subject.constants) + len(subject.inputs)
    known = [*(np.asarray(constant) for constant in subject.constants), *(None for _ in closed.in_avals[len(subject.constants) :])]
    return detect(closed, range(inputs, len(closed.in_avals)), known, most)


def _given(subject: Subject, kernel: Kernel, given: Sequence[np.ndarray]) -> csr_array:
    n, m = (sum(types[leaf].size for leaf in chosen) for types, chosen in ((subject.inputs, kernel.wrt), (subject.outputs, kernel.outputs)))
    rows = n if kernel.kind is Kind.HESSIAN else m
    pointers, indices = given
    if pointers.shape != (rows + 1,) or indices.ndim != 1:
        text = f"a pattern of {rows} rows has {rows + 1} row pointers, got {pointers.shape} of them"
        raise Fault(Reason.INVALID_OPTION, text, field="pattern.pointers")
    lengths = np.diff(pointers)
    if pointers[0] != 0 or pointers[-1] != len(indices) or (lengths < 0).any():
        raise Fault(Reason.INVALID_OPTION, "row pointers rise from 0 to the number of column indices; these do not", field="pattern.pointers")
    if len(indices) and not 0 <= indices.min() <= indices.max() < n:
        raise Fault(Reason.INVALID_OPTION, f"column indices lie between 0 and {n - 1}; these do not", field="pattern.indices")
    found = csr_array((np.ones(len(indices), bool), indices, pointers), shape=(rows, n))
    found.sum_duplicates()
    return found
