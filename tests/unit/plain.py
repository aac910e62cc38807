"""Functions of one vector as the checks see them, without JAX or a service: a function and the matrix that it claims as its Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jacloom._errors import ModeUnavailableError
from jacloom._layout import Layout
from jacloom._passes import Leaves, Passes
from jacloom_graph.answer import Derivative
from jacloom_graph.types import Type

Matrix = Callable[[np.ndarray], np.ndarray]


def passes(
    f: Callable[[np.ndarray], Any],
    jacobian: Matrix,
    point: Any,
    *,
    dtype: str = "float64",
    without: tuple[Derivative, ...] = (),
    transpose: Matrix | None = None,
    hessian: Matrix | None = None,
    bend: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Passes:
    """Returns a function's passes.

    Args:
        f: Computes in ``dtype``.
        jacobian: Of it, as its JVPs have it.
        point: One vector.
        dtype: Of vector and result.
        without: Passes that are refused.
        transpose: The Jacobian as VJPs have it; default: the same.
        hessian: Of it, as HVPs have it.
        bend: What a rule does to cotangents on their way, each entry of them meeting one entry of the vector.
    """
    x = np.asarray(point, dtype)
    m = np.size(f(x))
    inputs, outputs = Layout((Type(dtype, x.shape),), ("x",)), Layout((Type(dtype, (m,)),), ("out",))

    def ask(derivative: Derivative, moved: Leaves, seeds: Leaves) -> tuple[Leaves, Leaves]:
        if derivative in without:
            raise ModeUnavailableError(f"no {derivative.value}")
        (at,) = moved
        with np.errstate(all="ignore"):
            value = np.reshape(np.asarray(f(at), dtype), m)
            match derivative:
                case Derivative.JVP:
                    return [value], [np.atleast_2d(jacobian(at)) @ seeds[0]]
                case Derivative.VJP:
                    found = seeds[0] @ np.atleast_2d((transpose or jacobian)(at))
                    return [value], [np.asarray(found if bend is None else bend(found), dtype)]
                case Derivative.HVP:
                    assert hessian is not None
                    return [], [hessian(at) @ seeds[0]]
                case _:
                    return [value], []

    return Passes(inputs, outputs, inputs.join([x]), ask)
